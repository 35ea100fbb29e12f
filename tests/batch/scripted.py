"""A Batch API that a test controls: files and batches in memory, each answer counted, and any reply replaceable."""

from __future__ import annotations

import gzip
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: The requests of a batch.
Asked = list[dict[str, Any]]
#: A status and a body; None for the ordinary reply.
Reply = tuple[int, Any] | None


class Scripted:
    """The server's state, which a test may change.

    Attributes:
        files, batches: by id.
        billed: the number of answers to each prompt.
        calls: methods and paths, in order.
        on_end: called with a new batch and its requests; sets its outcome.
        on_call: called first for each call; may return the reply.
        content: the last call's body.
        headers: of replies whose status is not 200.
        compress: whether files are sent compressed.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.names: dict[str, str] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.billed: Counter[str] = Counter()
        self.calls: list[str] = []
        self.on_end: Callable[[dict[str, Any], Asked], None] = self.complete
        self.on_call: Callable[[str, str], Reply] = lambda method, path: None
        self.base_url = ""
        self.content = b""
        self.compress = False
        self.headers: dict[str, str] = {}

    def complete(self, batch: dict[str, Any], asked: Asked) -> None:
        """Answer all requests of a batch."""
        batch["output_file_id"] = self.file(b"".join(map(self.line, asked)))
        self.end(batch, len(asked), 0)

    def end(self, batch: dict[str, Any], completed: int, failed: int, status: str = "completed") -> None:
        batch["status"] = status
        batch[f"{status}_at"] = batch["created_at"] + 60
        batch["request_counts"] = {"total": batch["request_counts"]["total"], "completed": completed, "failed": failed}

    def line(self, asked: dict[str, Any], **more: Any) -> bytes:
        """A row's line in an output file; counts it as billed."""
        self.billed[prompt_of(asked)] += 1
        response = {"status_code": 200, "request_id": "req", "body": self.body(asked)}
        return (
            json.dumps({"custom_id": asked["custom_id"], "response": response, "error": None, **more}).encode() + b"\n"
        )

    def body(self, asked: dict[str, Any]) -> dict[str, Any]:
        message = {"role": "assistant", "content": f"To: {prompt_of(asked)}"}
        usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return {"object": "chat.completion", "model": "gpt-4o-mini", "choices": choices, "usage": usage}

    def failed(self, asked: dict[str, Any], code: str = "batch_expired") -> bytes:
        """A row's line in an error file."""
        line = {"custom_id": asked["custom_id"], "response": None, "error": {"code": code, "message": "No."}}
        return json.dumps(line).encode() + b"\n"

    def file(self, content: bytes, name: str = "output.jsonl") -> str:
        file_id = f"file-{len(self.files) + 1}"
        self.files[file_id], self.names[file_id] = content, name
        return file_id

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        asked = [json.loads(line) for line in self.files[body["input_file_id"]].splitlines()]
        batch = {
            "id": f"batch_{len(self.batches) + 1}",
            "object": "batch",
            "endpoint": body["endpoint"],
            "input_file_id": body["input_file_id"],
            "metadata": body.get("metadata"),
            "status": "in_progress",
            "created_at": int(time.time()),
            "errors": None,
            "output_file_id": None,
            "error_file_id": None,
            "request_counts": {"total": len(asked), "completed": 0, "failed": 0},
        }
        self.batches[str(batch["id"])] = batch
        self.on_end(batch, asked)
        return batch

    def answer(self, method: str, path: str, content: bytes) -> tuple[int, Any]:
        if found := re.fullmatch(r"/v1/files/([^/]+)/content", path):
            return (200, self.files[found[1]]) if found[1] in self.files else (404, error("No such File object"))
        if path == "/v1/files" and method == "POST":
            name = re.search(rb'filename="([^"]+)"', content)
            body = content.split(b"\r\n\r\n")[-1].rpartition(b"\r\n--")[0]
            return 200, {"id": self.file(body, name[1].decode() if name else ""), "object": "file"}
        if path == "/v1/files":
            listed = [{"id": key, "filename": self.names[key], "bytes": len(self.files[key])} for key in self.files]
            return 200, {"data": listed[::-1], "has_more": False}
        if path == "/v1/batches" and method == "POST":
            return 200, self.create(json.loads(content))
        if path == "/v1/batches":
            return 200, {"data": list(self.batches.values())[::-1], "has_more": False}
        batch = self.batches.get(path.removeprefix("/v1/batches/").removesuffix("/cancel"))
        if batch is None:
            return 404, error("No batch found")
        if path.endswith("/cancel"):
            if batch["status"] not in ("in_progress", "validating"):
                return 409, error("Cannot cancel")
            batch["status"] = "cancelled"
        return 200, batch


def prompt_of(asked: dict[str, Any]) -> str:
    return str(asked["body"]["messages"][0]["content"])


def error(message: str, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "code": code}}


@contextmanager
def serve() -> Iterator[Scripted]:
    """Run the server on 127.0.0.1."""
    scripted, lock = Scripted(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle_one(self) -> None:
            content = self.rfile.read(int(self.headers.get("content-length") or 0))
            path = self.path.partition("?")[0]
            with lock:
                scripted.content = content
                scripted.calls.append(f"{self.command} {path}")
                status, body = scripted.on_call(self.command, path) or scripted.answer(self.command, path, content)
                sent = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header(
                "content-type", "application/octet-stream" if isinstance(body, bytes) else "application/json"
            )
            if isinstance(body, bytes):  # the end of the connection ends a file, so that truncation is not noticed
                sent = gzip.compress(sent, 1) if scripted.compress else sent
                self.send_header("content-encoding", "gzip" if scripted.compress else "identity")
                self.send_header("connection", "close")
                self.close_connection = True
            else:
                self.send_header("content-length", str(len(sent)))
            for name, value in scripted.headers.items() if status != 200 else ():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = handle_one

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    scripted.base_url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield scripted
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
