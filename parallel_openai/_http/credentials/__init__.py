"""API keys, and how they are kept out of everything that is shown."""
