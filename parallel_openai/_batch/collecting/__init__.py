"""From batches at the server to results."""
