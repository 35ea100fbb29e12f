"""What waiting costs: processor time while nothing may be sent.

    python -m tests.benchmarks.waiting                  some 40 seconds; in a terminal with the bar that it shows
    python -m tests.benchmarks.waiting --seconds 2

Each case stands still for its seconds, and the share of a core that this process takes meanwhile is shown: of all its
threads, the bar and the heartbeats included.

frame, limit         a frame of 100,000 rows under a limit of one request a minute
frame, told to wait  a frame of 100,000 rows and a server that says `retry-after: 60`
requests             10,000 calls of `Client.send` wait in line for one limiter
runs                 50 runs of 2,000 rows each wait in line for one limiter
shared               a frame of 100,000 rows under the limit of a shared account, whose members are counted meanwhile
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import parallel_openai as po
from tests.benchmarks.machine import about
from tests.benchmarks.start_end import GOOD, answering, http
from tests.benchmarks.throughput import MODEL, PROMPT, frame

TARGET = 0.02
#: Seconds until all stand in line.
SETTLE = 2.0
TOLD_TO_WAIT = http(
    "429 Too Many Requests\r\nRetry-After: 60",
    '{"error": {"message": "Rate limit reached.", "type": "requests", "code": "rate_limit_exceeded"}}',
)


def run(client: po.Client, rows: int, folder: str, number: int) -> Awaitable[object]:
    path = f"{folder}/{number}.jsonl"
    return po.aprocess_dataframe(frame(rows), f"{number}. {PROMPT}", model=MODEL, client=client, save_to=path)


def requests(client: po.Client, count: int) -> Sequence[Awaitable[object]]:
    return [client.send(po.APIRequest({"model": MODEL, "number": number})) for number in range(count)]


@dataclass(frozen=True)
class Case:
    """What waits, and why.

    Attributes:
        runs: frames, each in a run of its own.
        size: rows of each of them, or without runs the requests.
        answer: what the server says.
        options: of the client.
    """

    runs: int
    size: int
    answer: bytes = GOOD
    options: Mapping[str, Any] = field(default_factory=lambda: {"max_requests_per_minute": 1, "burst": 1})

    def begin(self, client: po.Client, folder: str) -> Sequence[Awaitable[object]]:
        if not self.runs:
            return requests(client, self.size)
        return [run(client, self.size, folder, number) for number in range(self.runs)]


CASES = {
    "frame, limit": Case(1, 100_000),
    "frame, told to wait": Case(1, 100_000, TOLD_TO_WAIT, {}),
    "requests": Case(0, 10_000),
    "runs": Case(50, 2_000),
    "shared": Case(1, 100_000, options={"max_requests_per_minute": 1, "burst": 1, "shared": "waiting-benchmark"}),
}


def share(case: Case, seconds: float, *, settle: float = SETTLE, spans: int = 1) -> float:
    """The share of a core that the case takes while it waits.

    Args:
        case: what waits.
        seconds: of each span that is measured.
        settle: seconds until the first one.
        spans: that are measured one after the other. The least counts: what waiting costs is in each of them, what a
            busy machine had left to do of the start only in the first.
    """

    async def wait(client: po.Client, folder: str) -> float:
        waiting = [asyncio.ensure_future(each) for each in case.begin(client, folder)]
        await asyncio.sleep(settle)
        taken = [await measure() for _ in range(spans)]
        assert not all(each.done() for each in waiting), "nothing waits"
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return min(taken)

    async def measure() -> float:
        cpu, began = time.process_time(), time.monotonic()
        await asyncio.sleep(seconds)
        return (time.process_time() - cpu) / (time.monotonic() - began)

    with (
        answering(sys.maxsize, case.answer) as (base_url, _),
        tempfile.TemporaryDirectory() as folder,
        po.Client(base_url, "sk-static", **case.options) as client,
    ):
        return asyncio.run(wait(client, folder))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args(argv)
    print(about("aiohttp", "uvloop", "tqdm"))
    found = {name: share(case, options.seconds) for name, case in CASES.items()}
    for name, taken in found.items():
        print(f"{name:22} {taken:8.2%} of a core" + ("" if taken < TARGET else "   missed"))
    return 1 if max(found.values()) >= TARGET else 0


if __name__ == "__main__":
    sys.exit(main())
