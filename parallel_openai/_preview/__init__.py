"""Preview what a call would send, cost and take."""
