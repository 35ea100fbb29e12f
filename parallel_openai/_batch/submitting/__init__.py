"""From requests to submitted batches."""
