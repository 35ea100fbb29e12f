"""A server that gives every POST one valid chat completion and records the requests; also works as a proxy."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

ANSWER = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}


@dataclass(frozen=True)
class Asked:
    """A request as it came; `url` as it stands in the first line, whole when it was asked as a proxy."""

    url: str
    headers: Mapping[str, str]  # names in lower case
    body: Any

    @property
    def path(self) -> str:
        return urlsplit(self.url).path

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.url).query))

    @property
    def whole(self) -> tuple[str, str, dict[str, str]]:
        """Host, path as it was quoted, and query."""
        return urlsplit(self.url).netloc or self.headers["host"], self.path, self.query

    @property
    def credentials(self) -> dict[str, str]:
        return {name: value for name, value in self.headers.items() if name in ("authorization", "api-key")}


Answer = tuple[int, bytes] | tuple[int, bytes, Mapping[str, str]]


@dataclass
class Recorder:
    """What was asked, and where to ask it."""

    url: str
    asked: list[Asked] = field(default_factory=list)


@contextmanager
def recorder(
    answer: Callable[[Asked], Answer | None] = lambda asked: None, *, tls: ssl.SSLContext | None = None
) -> Iterator[Recorder]:
    """Run one on 127.0.0.1. `answer` gives status, body and further headers; None: the usual answer."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.path, headers, json.loads(raw))
            running.asked.append(asked)
            status, body, *more = answer(asked) or (200, json.dumps(ANSWER).encode())
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            for name, text in more[0].items() if more else ():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    running = Recorder(f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
