"""Whether a long run stays as fast and small as at its start: the engine alone, without a network.

Ten million requests go through the engine as a run on a file has it: the processor, the limiter, retries, counters and
timeline, and a line in the journal for each. 2,000 are in flight at once. Answers come from a `send` that parses the
1 KB of an answer anew each time and waits on a clock that jumps from moment to moment. One in a hundred sends fails and
is retried: half with a 500, half with a 429 of a tier that is full; and one in 100,000 is refused with a 429 for the
account's limit, which holds all the others back for a second.

    python -m tests.benchmarks.long                     ten million rows, without limits that bind: ten minutes and more
    python -m tests.benchmarks.long --rows 1000000      a shorter one
    python -m tests.benchmarks.long --limited           under a limit of 3,600 requests a second that binds all the time

The journal is a real one on the disk, emptied whenever it holds 64 MB. Seconds are of the processor. The run is looked
at a thousand times. Shown for each tenth of it are the seconds that 100,000 rows take, by its quicker quarter of looks,
since whatever else the machine does slows the others; and the resident memory at its end. `growth` is the slope of the
memory over the last nine tenths, in bytes a row; `late over early` the last tenth's time for a row over the second's,
the first one being that in which the engine grows to its size. With `--trace N` the places that hold more memory at the
end than after a tenth of the run are listed, by tracemalloc; everything is slow then.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson

from parallel_openai._journal.entry import result_line
from parallel_openai._journal.journal import Journal
from parallel_openai._limits.limiter import Limiter
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._records import APIRequest, Response, Result, Size
from parallel_openai._run.response_verdict import RetryPolicy
from parallel_openai._run.runner import Runner
from tests.benchmarks.machine import about, resident
from tests.benchmarks.throughput import ANSWER, MODEL, PARAMS, PROMPT, TEXT
from tests.limits.virtual import VirtualLoop, run_virtually

ROWS = 10_000_000
IN_FLIGHT = 2_000
#: Virtual seconds that an answer takes, on average.
LATENCY = 0.5
#: Of all sends, those that fail, and those that are refused for the limit's sake.
MISHAPS = 0.01
REFUSALS = 0.00001
MOST_JOURNAL = 64 << 20
LOOKS = 1_000
TENTHS = 10
PER = 100_000
#: Bytes a row, and the slowest tenth over the second.
TARGET_GROWTH = 1.0
TARGET_SLOWER = 1.15

HEADERS = {"x-request-id": "req_0123456789abcdef0123456789abcdef", "openai-processing-ms": "412"}
REFUSED = {"error": {"message": "Rate limit reached.", "type": "requests", "code": "rate_limit_exceeded"}}
FULL = {"error": {"message": "Resource unavailable.", "type": "resource_unavailable", "code": "resource_unavailable"}}
BROKEN = {"error": {"message": "The server had an error.", "type": "server_error", "code": None}}
GOOD = ANSWER.encode()


@dataclass
class LongRun:
    """So many rows, and what was seen of them on the way.

    Attributes:
        rows_per_second: a limit that binds; None: one that never does.
        trace: how many places that grow are looked for.
        tell: called at the end of each tenth with what `tenth` gives of it.
        most_in_flight: that were in flight at once.
        looks: rows that were finished, seconds of the processor and bytes of memory, from time to time.
    """

    rows: int
    rows_per_second: float | None = None
    trace: int = 0
    tell: Callable[[int, float, int], None] = lambda rows, seconds, memory: None
    in_flight: int = 0
    most_in_flight: int = 0
    succeeded: int = 0
    looks: list[tuple[int, float, int]] = field(default_factory=list)
    status: StatusTracker = field(default_factory=StatusTracker)
    virtual_seconds: float = 0.0
    traced: list[str] = field(default_factory=list)

    def run(self) -> LongRun:
        loop = VirtualLoop(most_turns=float("inf"))
        with tempfile.TemporaryDirectory() as folder:
            run_virtually(self._run(loop, Path(folder, "journal.jsonl")), loop, within=1e9)
        return self

    async def _run(self, loop: VirtualLoop, path: Path) -> None:
        self._random = random.Random(1)
        self._path = path
        self._unseen = self._told = 0
        given = 60.0 * (self.rows_per_second or 1e6)
        with Journal(path) as self._journal:
            processor = Runner(
                send=self._send,
                limiter=Limiter(given, 1e12, burst=1.0, clock=loop.time),
                on_result=self._take,
                retry=RetryPolicy(random=self._random.random),
                status=self.status,
                max_concurrent_requests=IN_FLIGHT,
                clock=loop.time,
            )
            self._look()
            ended = await processor.run(self._requests())
        assert ended == "finished"
        self.virtual_seconds = loop.time()

    def _requests(self) -> Iterator[APIRequest]:
        size = Size(57, 180, 300, 1)
        for number in range(self.rows):
            content = PROMPT.format(text=TEXT.format(number))
            request = APIRequest(
                {"model": MODEL, "messages": [{"role": "user", "content": content}], **PARAMS}, {"row": number}
            )
            request.size = size
            yield request

    async def _send(self, request: APIRequest, lease: object) -> Response:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        seconds = LATENCY * self._random.uniform(0.5, 1.5)
        await asyncio.sleep(seconds)
        self.in_flight -= 1
        luck = self._random.random()
        if luck < REFUSALS:
            return Response(429, {**HEADERS, "retry-after": "1"}, orjson.dumps(REFUSED), dict(REFUSED), seconds)
        if luck < MISHAPS:
            status, error = (429, FULL) if luck < MISHAPS / 2 else (500, BROKEN)
            return Response(status, dict(HEADERS), orjson.dumps(error), dict(error), seconds)
        body = bytes(bytearray(GOOD))  # bytes of its own, as from a socket
        return Response(200, dict(HEADERS), body, orjson.loads(body), seconds)

    def _take(self, result: Result) -> None:
        self.succeeded += result.status == "succeeded"
        self._journal.append(result_line(result, record=False))
        self._unseen += 1
        if self._unseen * LOOKS >= self.rows:
            self._unseen = 0
            self._look()

    def _look(self) -> None:
        done = self.status.num_tasks_done
        self.looks.append((done, time.process_time(), resident()))
        if TENTHS * done >= (self._told + 1) * self.rows:
            self.tell(*self.tenth(self._told))
            self._told += 1
        if os.stat(self._path).st_size > MOST_JOURNAL:
            os.truncate(self._path, 0)
        if self.trace and len(self.looks) == 1:
            tracemalloc.start()
        elif self.trace and len(self.looks) == LOOKS // TENTHS:
            self._before = tracemalloc.take_snapshot()
        elif self.trace and len(self.looks) == LOOKS - 1:
            grown = tracemalloc.take_snapshot().compare_to(self._before, "lineno")
            self.traced = [str(each) for each in grown[: self.trace]]

    @property
    def growth(self) -> float:
        """Bytes a row over the last nine tenths."""
        rows, memory = (np.array([look[part] for look in self.looks], dtype=float) for part in (0, 2))
        late = rows >= self.rows / TENTHS
        return float(np.polyfit(rows[late], memory[late], 1)[0])

    def tenth(self, number: int) -> tuple[int, float, int]:
        """Of a tenth of the run: rows at its end, seconds for 100,000 of its rows, bytes of memory at its end."""
        inside = [look for look in self.looks if number <= TENTHS * look[0] / self.rows <= number + 1]
        rows, seconds, memory = zip(*inside, strict=True)
        return rows[-1], PER * float(np.quantile(np.diff(seconds) / np.diff(rows), 0.25)), memory[-1]

    @property
    def slower(self) -> float:
        """The last tenth's time for a row over the second's."""
        return self.tenth(TENTHS - 1)[1] / self.tenth(1)[1]


def tell(rows: int, seconds: float, memory: int) -> None:
    print(f"{rows:12,} {seconds:10.2f} {memory / 1e6:8.1f}", flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--limited", action="store_true", help="a limit on requests binds")
    parser.add_argument("--trace", type=int, default=0, metavar="N")
    options = parser.parse_args(argv)
    print(about("orjson"))
    began = time.monotonic()
    rate = 0.9 * IN_FLIGHT / LATENCY if options.limited else None
    print(f"{'rows':>12} {'s/100,000':>10} {'MB':>8}")
    run = LongRun(options.rows, rate, options.trace, tell).run()
    status, seconds = run.status, run.looks[-1][1] - run.looks[0][1]
    print(
        f"{run.succeeded:,} of {run.rows:,} succeeded, {status.num_requests_sent:,} sends, "
        f"{status.num_rate_limit_errors:,} 429s, {status.num_api_errors:,} 500s, up to {run.most_in_flight:,} in "
        f"flight, {LATENCY * status.num_requests_sent / run.virtual_seconds:,.0f} on average"
    )
    print(f"{1e6 * seconds / run.rows:.1f} µs of CPU a row, {run.rows / (time.monotonic() - began):,.0f} rows a second")
    print(f"growth {run.growth:.3f} bytes a row, late over early {run.slower:.2f}")
    print(*run.traced, sep="\n")
    good = run.succeeded == run.rows and run.growth < TARGET_GROWTH and run.slower < TARGET_SLOWER
    return 0 if good or options.trace else 1


if __name__ == "__main__":
    sys.exit(main())
