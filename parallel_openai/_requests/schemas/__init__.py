"""What an answer has to look like, as the API and as Python say it."""
