"""The sidecar beside each Triton: mirrors versions from S3 and reports CPU every second."""
