"""Requests to the simulator over a raw connection."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

from parallel_openai.local import simulator

HELLO: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Say hello."}]}


def ask(
    server: simulator.Server, body: Any, headers: dict[str, str] | None = None, path: str = "/v1/chat/completions"
) -> tuple[int, dict[str, str], Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return send(server, "POST", path, raw, headers or {})


def send(
    server: simulator.Server, method: str, path: str, raw: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], Any]:
    connection = http.client.HTTPConnection(urlsplit(server.base_url).netloc, timeout=10)
    connection.request(method, path, raw, headers or {})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    shown = {name.lower(): value for name, value in response.getheaders()}
    return response.status, shown, json.loads(text) if "json" in shown["content-type"] else text
