"""A plan that a cluster carries out: trials that share a store in S3, and what they come to."""
