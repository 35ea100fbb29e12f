"""From requests to batches at the server."""
