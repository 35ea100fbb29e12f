"""Embeds many rows in one request, and keeps all vectors in one array."""
