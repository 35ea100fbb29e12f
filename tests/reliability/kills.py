"""Runs that are killed without warning, again and again, and then completed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from parallel_openai._json import dumps
from parallel_openai.local import simulator
from tests.reliability.worker import write_requests

ROOT = Path(__file__).parents[2]
CONCURRENCY = 20


@dataclass
class Tally:
    """What many killed runs came to.

    Attributes:
        in_flight: for each kill, the requests that the server had got by then and that had no line on the disk.
        charged_again: how often the server charged a request beyond the first time, in all.
        paid_twice: answers that were on the disk at a kill, and were charged again after it.
    """

    concurrency: int
    runs: int = 0
    rows: int = 0
    rows_lost: int = 0
    lines_too_many: int = 0
    lines_broken: int = 0
    charged_again: int = 0
    paid_twice: int = 0
    in_flight: list[int] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return len(self.in_flight)

    @property
    def good(self) -> bool:
        faults = self.rows_lost + self.lines_too_many + self.lines_broken + self.paid_twice
        most = max(self.in_flight, default=0)
        return faults == 0 and most <= self.concurrency and self.charged_again <= sum(self.in_flight)

    def __str__(self) -> str:
        return (
            f"{self.kills} kills in {self.runs} runs of {self.rows // max(self.runs, 1):,} rows: {self.rows_lost} rows "
            f"lost, {self.lines_broken} broken lines, {self.lines_too_many} lines too many, {self.paid_twice} answers "
            f"on the disk paid again; {self.charged_again} requests charged again, of {sum(self.in_flight)} in flight "
            f"at the kills ({max(self.in_flight, default=0)} at the most, {self.concurrency} allowed)."
        )


class Run(NamedTuple):
    killed: bool  # while it was still running
    seconds: float


class Forks:
    """A process that forks a run for each order, so that a run begins at once."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.worker", "--forking"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )

    def run(self, order: dict[str, Any], kill_after: float | None = None) -> Run:
        """Start a run and, if so wanted, kill it after so many seconds."""
        began = time.monotonic()
        self._tell(json.dumps(order))
        child = int(self._line())
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(child, signal.SIGKILL)
        self._tell("wait for it")
        code = int(self._line())
        assert code in (0, -signal.SIGKILL), f"the run ended with {code}"
        return Run(code != 0, time.monotonic() - began)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process of the runs has ended"
        return line


@contextmanager
def forks() -> Iterator[Forks]:
    runs = Forks()
    try:
        yield runs
    finally:
        runs.close()


def kill_and_resume(face: str, folder: Path, *, rows: int, kills: int, in_one_run: int = 4, seed: int = 0) -> Tally:
    """Kill so many runs at random moments of their lives; after some kills each comes to its end and is looked at."""
    dice, tally = random.Random(seed), Tally(CONCURRENCY)
    requests = folder / "requests.jsonl"
    write_requests(requests, rows)
    settings: dict[str, Any] = {"max_requests_per_minute": None, "latency": 0.01, "latency_sigma": 0.7}
    with simulator.serve(separate_process=True, **settings) as server, forks() as runs:
        order: dict[str, Any] = {"face": face, "base_url": server.base_url, "rows": rows, "concurrency": CONCURRENCY}
        order |= {"patience": 60, "requests": str(requests)}
        runs.run({**order, "results": str(folder / "warm.jsonl")})
        life = runs.run({**order, "results": str(folder / "measured.jsonl")}).seconds
        while tally.kills < kills:
            order["results"] = str(folder / f"results_{tally.runs}.jsonl")
            server.reset()
            watch = Watch(server, Path(order["results"]))
            for _ in range(min(dice.randint(1, in_one_run), kills - tally.kills)):
                while not runs.run(order, kill_after=dice.uniform(0, life * watch.left(rows))).killed:
                    watch.forget()  # it was done before the signal came
                    life *= 0.8
                life *= 1.05  # it follows how busy the machine is
                tally.in_flight.append(watch.look())
            runs.run(order)
            watch.add_to(tally, rows)
    return tally


class Watch:
    """What the server has charged and what the disk holds, kill by kill."""

    def __init__(self, server: simulator.Server, results: Path) -> None:
        self._server, self._results = server, results
        self._charged: Counter[str] = Counter()
        self._kept: dict[str, int] = {}  # how often what was on the disk had been charged when it was seen there first

    def left(self, rows: int) -> float:
        """The share of the rows that have no line yet."""
        return 1 - len(self._digests()) / rows

    def forget(self) -> None:
        self._results.unlink()
        self._server.reset()
        self._charged, self._kept = Counter(), {}

    def look(self) -> int:
        """After a kill: how many requests the server has got and charged that have no line."""
        before, kept = self._charged.total(), len(self._kept)
        self._charged = self._count()
        digests = self._digests()
        for digest in digests:
            self._kept.setdefault(digest, self._charged[digest])
        return (self._charged.total() - before) - (len(digests) - kept)

    def add_to(self, tally: Tally, rows: int) -> None:
        lines = self._results.read_bytes().split(b"\n")
        answers = [line for line in lines[:-1] if _is_answer(line)]
        digests, charged = self._digests(), self._count()
        tally.runs += 1
        tally.rows += rows
        tally.rows_lost += rows - len(set(digests))
        tally.lines_too_many += len(digests) - len(set(digests))
        tally.lines_broken += len(lines) - 1 - len(answers) + (lines[-1] != b"")
        tally.charged_again += charged.total() - rows
        tally.paid_twice += sum(charged[digest] > times for digest, times in self._kept.items())
        self._results.unlink()

    def _count(self) -> Counter[str]:
        """How often each body was charged, once the server is done with what the killed run had sent."""
        while (stats := self._server.stats())["in_flight"] or stats["received"] > _charges(stats).total():
            time.sleep(0.01)
        return _charges(stats)

    def _digests(self) -> list[str]:
        """The bodies of the whole lines on the disk, by the name that the server has for them."""
        if not self._results.exists():
            return []
        whole = self._results.read_bytes().split(b"\n")[:-1]
        return [sha256(dumps(json.loads(line)[0])).hexdigest() for line in whole if _is_answer(line)]


def _charges(stats: dict[str, Any]) -> Counter[str]:
    return Counter(stats["charged"]) + Counter(stats["charged_undelivered"])


def _is_answer(line: bytes) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:
        return False
    return isinstance(entry, list) and isinstance(entry[1], dict)
