"""Read cells and columns of a frame, and turn answers into columns."""
