"""Built-in plans."""
