"""HTTP: sends the bytes of a request, and turns the bytes that come back into an answer or an error."""
