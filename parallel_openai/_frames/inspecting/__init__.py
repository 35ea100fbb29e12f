"""Looking at answers, outside the call that asked for them."""
