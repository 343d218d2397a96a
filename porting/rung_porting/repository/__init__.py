"""The model repository: what a folder or a bucket holds, which versions are worth serving, publishing, registering."""
