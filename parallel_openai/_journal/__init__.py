"""What is kept on the disk of each finished request, and what a later run knows by it."""
