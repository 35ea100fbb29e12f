"""Vectors of texts: many rows in a request, one array for all of them."""
