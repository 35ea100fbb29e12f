"""People correct what a model labelled: the review, its corrections on the disk, and its face in the notebook."""
