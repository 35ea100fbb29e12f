"""Schemas of answers: labels, pydantic models and JSON schemas, in the form that the API takes."""
