"""What a call would send, cost and take, before anything is sent."""
