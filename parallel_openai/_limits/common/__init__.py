"""Finds out which models share a bucket, where the server shows nothing of its limits."""
