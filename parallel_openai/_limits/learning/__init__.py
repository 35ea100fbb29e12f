"""Learning limits that a server does not state, from what it accepts and what it refuses."""
