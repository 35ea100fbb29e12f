"""What a run may spend, and the most that a request can come to."""
