"""What the API answers, endpoint by endpoint."""
