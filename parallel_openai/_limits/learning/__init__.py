"""What a server told nobody: its limits and moods, learnt from what it lets through and what it refuses."""
