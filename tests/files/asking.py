"""Helpers of this folder: requests in `in.jsonl`, results in `out.jsonl`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import parallel_openai as po
from parallel_openai.local.simulator import Server

UNLIMITED: dict[str, Any] = {
    "max_requests_per_minute": None,
    "max_tokens_per_minute": None,
    "api_key": "none",
    "progress": False,
}


def chat(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}], **fields}


def write(*requests: Any, path: str = "in.jsonl") -> None:
    Path(path).write_text("".join(json.dumps(request) + "\n" for request in requests), "utf-8")


def results(path: str = "out.jsonl") -> list[Any]:
    return [json.loads(line) for line in Path(path).read_bytes().splitlines()]


def run(server: Server, save_filepath: str | None = "out.jsonl", **options: Any) -> po.StatusTracker:
    url = f"{server.base_url}/chat/completions"
    return po.process_api_requests_from_file("in.jsonl", save_filepath, url, **{**UNLIMITED, **options})
