"""The profiler: what one version can do on the server that will serve it. No torch."""
