"""The loop beside the notebook's own, and what stops it."""
