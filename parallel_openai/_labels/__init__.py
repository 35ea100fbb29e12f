"""Labels for the rows of a frame, and how good they are."""
