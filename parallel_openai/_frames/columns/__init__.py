"""From answers to columns, and from cells to prompts."""
