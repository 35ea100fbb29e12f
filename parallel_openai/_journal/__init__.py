"""Journals: every finished request is kept on disk, so that a later run need not send it again."""
