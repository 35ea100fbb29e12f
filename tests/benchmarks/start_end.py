"""How soon a run starts sending, and how soon it returns its frame after the last answer.

    python -m tests.benchmarks.start_end                    10,000 rows and a million; some 2.5 GB of disk for a while
    python -m tests.benchmarks.start_end --rows 10000       a quick look

Start is from the call to the first byte that the server gets, end from the last byte that it sends to the returned
frame, both on the clock of the wall. The server, in a process of its own, gives every row the same answer of 1 KB;
each case runs in a fresh process, where a run of three rows has been before.

first run        a new journal. Up to 20,000 rows are all answered. A larger frame gets 2,000 answers and then a 401,
                 which stops the run: the end is then that of the error with the partial frame, of as many rows.
resumed          the journal holds all rows but the last ten, which are sent: as after an interrupt shortly before the
                 end. The start is that of knowing a finished journal and finding the ten; the frame has all answers.
resumed, early   the journal holds all rows but the first ten.
finished         the journal holds all rows: from the call to the frame. Nothing is sent.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pandas as pd

import parallel_openai as po
from parallel_openai._frames.request_builder import RequestBuilder
from parallel_openai._journal.entry import result_line
from parallel_openai._records import APIRequest, Attempt, Result
from parallel_openai.errors import RunStoppedError
from tests.benchmarks.machine import about
from tests.benchmarks.throughput import ANSWER, CONNECTIONS, MODEL, PARAMS, PROMPT, frame

MISSING = 10
ALL_UP_TO = 20_000
FEW_ANSWERS = 2_000


def target(rows: int) -> float:
    """Seconds for a start or an end."""
    return max(0.3, 5.0 * rows / 1e6)


@dataclass
class Answerer:
    """What the server gives, and notes: when the first byte came and the last one went."""

    answers: int
    answer: bytes
    first: float | None = None
    last: float = 0.0
    given: int = 0

    def heard(self, transport: asyncio.Transport, received: bytearray) -> None:
        if self.first is None:
            self.first = time.monotonic()
        head, _, body = bytes(received).partition(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head.lower())
        if length is None or len(body) < int(length[1]):
            return
        received.clear()
        transport.write(self.answer if self.given < self.answers else REFUSAL)
        self.given += 1
        self.last = time.monotonic()


class _Connection(asyncio.Protocol):
    def __init__(self, answerer: Answerer, connections: set[asyncio.Transport]) -> None:
        self._answerer, self._connections, self._received = answerer, connections, bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connections.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._answerer.heard(self._transport, self._received)


def http(status: str, body: str) -> bytes:
    """A whole answer; further headers may stand behind the status."""
    content = body.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


GOOD = http("200 OK", ANSWER)
REFUSAL = http("401 Unauthorized", '{"error": {"message": "Enough.", "code": "invalid_api_key"}}')


@contextmanager
def answering(answers: int, answer: bytes = GOOD) -> Iterator[tuple[str, Answerer]]:
    """A server in a thread that gives so many answers and then refuses the key; its base URL, and what it notes."""
    answerer = Answerer(answers, answer)
    ready: Future[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        loop, end, connections = asyncio.get_running_loop(), asyncio.Event(), set[asyncio.Transport]()
        server = await loop.create_server(lambda: _Connection(answerer, connections), "127.0.0.1", 0)
        ready.set_result((server.sockets[0].getsockname()[1], loop, end))
        await end.wait()
        server.close()
        for each in list(connections):
            each.abort()
        await asyncio.sleep(0)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    port, loop, end = ready.result()
    try:
        yield f"http://127.0.0.1:{port}/v1", answerer
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()


def write_journal(path: Path, df: pd.DataFrame) -> None:
    """The journal of a finished run."""
    attempt = Attempt(1792567680.123456, 0.912345, 0.001234, 200, None, "req_0123456789abcdef0123456789abcdef")
    raw = ANSWER.encode()
    with open(path, "wb") as journal:
        for request in RequestBuilder(PROMPT, MODEL, params=PARAMS).requests(df):
            assert isinstance(request, APIRequest)
            journal.write(result_line(Result(request, "succeeded", attempts=(attempt,), raw=raw), record=True) + b"\n")


def work(base_url: str, journal: Path, rows: int) -> dict[str, float]:
    """One run in this process: when it was called, when it came back, and how many rows have their answer."""
    df = frame(rows)
    with (
        tempfile.TemporaryDirectory() as folder,
        po.Client("http://127.0.0.1:9/v1", "sk-static", max_concurrent_requests=CONNECTIONS) as warm,
    ):
        try:
            po.process_dataframe(df[:3], PROMPT, model=MODEL, client=warm, save_to=f"{folder}/few.jsonl", **PARAMS)
        except RunStoppedError:  # nobody is there; imports and caches are
            pass
    with po.Client(base_url, "sk-static", max_concurrent_requests=CONNECTIONS) as client:
        called = time.monotonic()
        try:
            out = po.process_dataframe(df, PROMPT, model=MODEL, client=client, save_to=journal, **PARAMS)
        except RunStoppedError as error:
            out = cast("pd.DataFrame", error.partial)
        returned = time.monotonic()
    assert len(out) == rows
    return {"called": called, "returned": returned, "succeeded": int((out["status"] == "succeeded").sum())}


@dataclass(frozen=True)
class Figures:
    """Seconds; None where there is no such moment."""

    start: float | None
    end: float | None
    total: float
    succeeded: int


def measure(rows: int, answers: int, journal: Path) -> Figures:
    """A run in a fresh process, of so many rows, the first ones of which get an answer."""
    with answering(answers) as (base_url, server):
        command = [sys.executable, "-m", "tests.benchmarks.start_end", "--worker", base_url]
        command += ["--journal", str(journal), "--rows", str(rows)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
    start = None if server.first is None else server.first - found["called"]
    end = None if server.first is None else found["returned"] - server.last
    return Figures(start, end, found["returned"] - found["called"], found["succeeded"])


def cases(rows: int, folder: Path) -> Iterator[tuple[str, Figures]]:
    """Each case and what it took. One journal serves the resumed ones, and grows by what each of them asks for."""
    answers = rows if rows <= ALL_UP_TO else FEW_ANSWERS
    yield "first run", measure(rows, answers, folder / "first.jsonl")
    journal = folder / "whole.jsonl"
    write_journal(journal, frame(rows)[MISSING:])
    yield "resumed, early", measure(rows, rows, journal)
    yield "finished", measure(rows, rows, journal)
    yield "resumed", measure(rows + MISSING, rows, journal)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--journal", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.worker:
        print(json.dumps(work(options.worker, options.journal, options.rows[0])))
        return 0
    print(about("aiohttp", "uvloop", "orjson", "pandas", "pyarrow"))
    missed = 0
    print(f"{'':16} {'rows':>10} {'start s':>9} {'end s':>9} {'in all s':>9} {'answered':>10}")
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            for case, found in cases(rows, Path(folder)):
                good = max(found.start or 0.0, found.end or 0.0) <= target(rows)
                missed += not good
                start, end = (f"{each:9.3f}" if each is not None else f"{'-':>9}" for each in (found.start, found.end))
                line = f"{case:16} {rows:10,} {start} {end} {found.total:9.2f} {found.succeeded:10,}"
                print(line + ("" if good else "   missed"), flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
