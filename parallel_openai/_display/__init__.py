"""Render results as text, HTML and charts."""
