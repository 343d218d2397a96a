"""The custom resources of `rung.dev/v1alpha1` as pydantic models: the only source of the CRDs."""
