"""A server that says what it is told to, byte by byte, and what asks it."""

from __future__ import annotations

import json
import socketserver
import ssl
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pandas as pd

import parallel_openai as po

KEY = "sk-0123456789"


class Asked(NamedTuple):
    """A request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes


class RawServer:
    """Says, byte by byte, what it is told to say to each request; keeps what came."""

    def __init__(
        self, said: bytes | Callable[[Asked], bytes], context: ssl.SSLContext | None = None, *, closes: bool = False
    ) -> None:
        asked: list[Asked] = []
        answer = said if callable(said) else lambda _: said

        class Handler(socketserver.StreamRequestHandler):
            def setup(self) -> None:
                if context is not None:
                    self.request.do_handshake()
                super().setup()

            def handle(self) -> None:
                while (line := self.rfile.readline()).strip():
                    head = list(iter(lambda: self.rfile.readline().strip(), b""))
                    pairs = (each.decode().partition(": ") for each in head)
                    headers = {name.lower(): value for name, _, value in pairs}
                    body = self.rfile.read(int(headers.get("content-length", 0)))
                    asked.append(Asked(line.split()[1].decode(), headers, body))
                    said = answer(asked[-1])
                    self.wfile.write(said)
                    if closes or not said or b"Connection: close" in said or said.startswith(b"HTTP/1.0"):
                        break

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 128

            def get_request(self) -> tuple[Any, Any]:
                accepted, address = super().get_request()
                if context is not None:
                    accepted = context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
                return accepted, address

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that ends early, or a handshake that fails, is what some tests are about."""

        self.asked = asked
        self._server = Server(("127.0.0.1", 0), Handler)
        scheme = "http" if context is None else "https"
        self.origin = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"
        self.base_url = f"{self.origin}/v1"

    def __enter__(self) -> RawServer:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def completion(text: Any = "Hello.", **further: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    return {"object": "chat.completion", "model": "m", "choices": [choice], "usage": usage, **further}


def http(body: bytes, *headers: str, status: str = "200 OK", version: str = "1.1") -> bytes:
    head = [f"HTTP/{version} {status}", *headers, f"Content-Length: {len(body)}"]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


OK = http(json.dumps(completion()).encode())


def ask(
    base_url: str, rows: int = 1, *, client_options: Mapping[str, Any] = MappingProxyType({}), **options: Any
) -> pd.DataFrame:
    df = pd.DataFrame({"text": [f"Row {number}" for number in range(rows)]})
    with po.Client(base_url, api_key=KEY, max_requests_per_minute=600_000, timeout=10.0, **client_options) as client:
        return po.process_dataframe(df, "text", model="m", client=client, progress=False, **options)


def ask_by_file(base_url: str, rows: int = 1) -> Any:
    lines = [{"model": "m", "messages": [{"role": "user", "content": f"Row {number}"}]} for number in range(rows)]
    Path("in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    url = f"{base_url}/chat/completions"
    return po.process_api_requests_from_file("in.jsonl", "out.jsonl", url, KEY, None, None, progress=False)
