"""A real Kubernetes on one machine, inside Linux namespaces."""
