"""From ended batches to results."""
