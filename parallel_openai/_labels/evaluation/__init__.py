"""Measure labels: against gold labels, between annotators, and between prompts or models."""
