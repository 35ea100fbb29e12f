"""Our own files: ownership, locks and atomic replacement."""
