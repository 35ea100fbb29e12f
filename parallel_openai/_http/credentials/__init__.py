"""What opens the door there, and how it is kept from ever being shown."""
