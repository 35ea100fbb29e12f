"""Inspect answers and journals after or during a run."""
