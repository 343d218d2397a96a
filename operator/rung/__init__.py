"""Rung: a Kubernetes operator that keeps inference in time by swapping model versions."""
