"""A run: each request is sent, judged, and then sent again or handed over, within a budget."""
