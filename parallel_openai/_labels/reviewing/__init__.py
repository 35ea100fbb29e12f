"""Review labels by hand: the review, its file of corrections, the notebook widget and the CSV sheet."""
