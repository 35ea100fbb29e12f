"""Frames of answers as files: for the next tool, for training, for annotators, and to come back from."""
