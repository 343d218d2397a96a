"""Offline: train, prune, fine-tune, export, validate, profile, publish and register versions."""
