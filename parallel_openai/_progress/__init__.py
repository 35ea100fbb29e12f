"""What is counted and shown while a run goes on."""
