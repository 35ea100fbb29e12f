"""The ancestor's face: a JSONL file of requests in, a JSONL file of results out, streamed."""
