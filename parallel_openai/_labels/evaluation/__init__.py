"""How good labels are: against gold, against each other, and between variants of the question."""
