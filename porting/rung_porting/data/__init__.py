"""Data: where it comes from, and the built-in sets."""
