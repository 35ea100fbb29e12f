"""Malformed heads of answers are read if httpx or curl reads them, and refused if they are ambiguous."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._http.heads import normalized

CONTENT = json.dumps(
    {"model": "m", "choices": [{"message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}]}
).encode()
TYPE, LENGTH = b"Content-Type: application/json", b"Content-Length: %d" % len(CONTENT)
CHUNKED, CHUNKS = b"Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (len(CONTENT), CONTENT)


def said(*lines: bytes, status: bytes = b"HTTP/1.1 200 OK", end: bytes = b"\r\n", content: bytes = CONTENT) -> bytes:
    return end.join([status, TYPE, *lines, b"", b""]) + content


@contextmanager
def serving(*pieces: bytes, rest: float = 0.0) -> Iterator[tuple[str, list[int]]]:
    """A server that answers every request in these pieces; gives its URL, and how many requests each connection had."""
    counts: list[int] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            counts.append(0)
            place = len(counts) - 1
            while self.rfile.readline().strip():
                head = dict(line.lower().split(b":", 1) for line in iter(lambda: self.rfile.readline().strip(), b""))
                self.rfile.read(int(head[b"content-length"]))
                counts[place] += 1
                for piece in pieces:
                    self.wfile.write(piece)
                    time.sleep(rest)
                if b"close" in b"".join(pieces):
                    break

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that closes at once."""

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", counts
        server.shutdown()


def answers(url: str, rows: int = 1, **options: int) -> list[str]:
    df = pd.DataFrame({"text": [f"Row {number}" for number in range(rows)]})
    with po.Client(url, api_key="sk-0", timeout=5.0, max_attempts=1, max_concurrent_requests=1, **options) as client:
        out = po.process_dataframe(df, "text", model="m", client=client, progress=False)
    return list(out["response"].fillna("") if "response" in out else out["status"])


READ = {
    "chunks and a length": said(LENGTH, CHUNKED, content=CHUNKS),
    "chunks and a wrong length": said(CHUNKED, b"Content-Length: 5", content=CHUNKS),
    "a length twice": said(LENGTH, LENGTH),
    "a length twice in one line": said(b"content-length: %d,%d" % (len(CONTENT), len(CONTENT))),
    "a later version": said(LENGTH, status=b"HTTP/1.2 200 OK"),
    "HTTP/2 in text": said(LENGTH, status=b"HTTP/2 200 OK"),
    "two blanks": said(LENGTH, status=b"HTTP/1.1  200 OK"),
    "no reason": said(LENGTH, status=b"HTTP/1.1 200"),
    "line feeds alone": said(LENGTH, end=b"\n"),
    "line feeds alone, and a later version": said(LENGTH, status=b"HTTP/1.2 200 OK", end=b"\n"),
    "a folded line": said(b"X-Policy: a,\r\n  b", LENGTH),
    "a folded line under a name that is none": said(b"X(Policy): a,\r\n  b", LENGTH),
    "a blank before the colon": said(b"X-Policy : a", LENGTH),
    "blanks in a name": said(b"X Rate Limit: 1", LENGTH),
    "brackets in a name": said(b"X-Rate(Limit)[1]: 1", LENGTH),
    "letters of others in a name": said("X-Größe: 1".encode(), b"X-Gr\xf6\xdfe: 1", LENGTH),
    "only told to go on, oddly": b"HTTP/1.2 100 Continue\r\n\r\n" + said(LENGTH, LENGTH),
    "told to go on very often": b"HTTP/1.1 100 Continue\r\n\r\n" * 2000 + said(LENGTH),
    "more behind the end": said(LENGTH) + b"Good bye.",
    "another answer behind the end": said(LENGTH) + said(LENGTH),
    "a length with more zeros than Python reads": said(b"Content-Length: %b%d" % (b"0" * 5000, len(CONTENT))),
    "odd, and up to the end": said(b"X Rate: 1", b"Connection: close"),
}


@pytest.mark.parametrize("whole", READ.values(), ids=READ)
@pytest.mark.parametrize("at_once", [True, False], ids=["in one piece", "in many"])
def test_an_answer_with_unusual_headers_is_read(whole: bytes, at_once: bool) -> None:
    pieces = [whole] if at_once else [whole[:1], whole[1:20], whole[20:75], whole[75:76], whole[76:]]
    with serving(*pieces, rest=0.0 if at_once else 0.002) as (url, _):
        assert answers(url, rows=2) == ["Hello.", "Hello."]


@pytest.mark.parametrize(
    "whole",
    [
        said(LENGTH, b"Content-Length: 5"),
        said(b"Content-Length: %d, 5" % len(CONTENT)),
        said(b"Content-Length: +%d" % len(CONTENT)),
        said(b"Content-Length: " + b"9" * 5000),
        said(b"Content-Length: " + b"9" * 18),
        said(LENGTH, b"Transfer-Encoding: xchunked"),
        said(b"X-A: a\rContent-Length: 5", LENGTH),
        said(b"X(Content-Length): 5", LENGTH),
        said(b"no colon", LENGTH),
        said(LENGTH, status=b"ICY 200 OK"),
    ],
    ids=repr,
)
def test_an_answer_of_ambiguous_length_is_refused(whole: bytes) -> None:
    with serving(whole) as (url, _):
        assert "Hello." not in answers(url)


@pytest.mark.parametrize(
    ("whole", "kept"),
    [
        (said(LENGTH), True),
        (said(LENGTH, LENGTH), True),
        (said(b"X Rate: 1", LENGTH), True),
        (said(LENGTH, CHUNKED, content=CHUNKS), False),
        (said(LENGTH) + said(LENGTH), False),
    ],
    ids=["usual", "a length twice", "an odd name", "chunks and a length", "another answer behind the end"],
)
def test_a_connection_is_reused_unless_its_answers_length_was_ambiguous(whole: bytes, kept: bool) -> None:
    with serving(whole[:9], whole[9:], rest=0.02) as (url, counts):
        assert answers(url, rows=10) == ["Hello."] * 10
    assert max(counts) > 1 if kept else counts == [1] * 10


def test_usual_headers_are_unchanged() -> None:
    head = said(LENGTH, b"Server: a", b"X-Odd: \xe9", content=b"")
    assert normalized(head) == (head, len(CONTENT), True)
