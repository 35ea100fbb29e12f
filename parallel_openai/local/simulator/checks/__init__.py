"""What the API refuses in a body before it counts or answers anything."""
