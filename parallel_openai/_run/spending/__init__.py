"""Budgets: what a run may spend, and the most that a request can cost."""
