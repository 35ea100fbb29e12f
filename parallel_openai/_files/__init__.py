"""The interface of the OpenAI Cookbook's script: a JSONL file of requests in, a JSONL file of results out."""
