"""The Batch API and its files."""
