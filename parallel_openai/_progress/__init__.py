"""Count and show what happens in a run."""
