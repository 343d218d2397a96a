"""Open-loop load: Poisson arrivals over the KServe v2 gRPC protocol, bounded in count and time."""
