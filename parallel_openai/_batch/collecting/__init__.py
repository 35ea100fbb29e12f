"""Collects the results of ended batches."""
