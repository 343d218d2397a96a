"""The outside world, one file each: Triton, Prometheus, S3, Kubernetes."""
