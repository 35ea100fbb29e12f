"""Label the rows of a frame, and evaluate, compare and review the labels."""
