"""Injected faults, random or scripted."""
