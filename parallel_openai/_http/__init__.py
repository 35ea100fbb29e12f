"""How it is sent: requests to bytes, bytes to answers or errors."""
