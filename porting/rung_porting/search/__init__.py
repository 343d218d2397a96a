"""Which versions to try next, so that the trials go where the frontier is thin."""
