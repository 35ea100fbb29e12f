"""Divides requests among input files, and submits them as batches."""
