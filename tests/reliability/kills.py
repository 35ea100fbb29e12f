"""Runs that are killed with no warning, again and again, and then left to come to their end."""

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
from pathlib import Path
from typing import Any

from parallel_openai.local import simulator
from tests.reliability.worker import write_requests

ROOT = Path(__file__).parents[2]
CONCURRENCY = 20


@dataclass
class Tally:
    """What many killed runs came to."""

    runs: int = 0
    kills: int = 0
    rows: int = 0
    rows_lost: int = 0
    lines_too_many: int = 0
    lines_broken: int = 0
    charged_again: int = 0
    in_flight_at_kills: int = 0  # at the most: what may have been on its way when the signal came
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.kills} kills in {self.runs} runs of {self.rows // max(self.runs, 1):,} rows: {self.rows_lost} rows "
            f"lost, {self.lines_broken} broken lines, {self.lines_too_many} lines too many; {self.charged_again} "
            f"requests charged again, of at most {self.in_flight_at_kills} in flight at the kills."
        )


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

    def run(self, order: dict[str, Any], kill_after: float | None = None) -> bool:
        """Start a run and kill it after so many seconds; whether it was still running then."""
        self._tell(json.dumps(order))
        child = int(self._line())
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(child, signal.SIGKILL)
        self._tell("wait for it")
        code = int(self._line())
        assert code in (0, -signal.SIGKILL), f"the run ended with {code}"
        return code != 0

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
    dice, tally = random.Random(seed), Tally()
    requests = folder / "requests.jsonl"
    write_requests(requests, rows)
    settings: dict[str, Any] = {"max_requests_per_minute": None, "latency": 0.02, "latency_sigma": 0.7}
    with simulator.serve(separate_process=True, **settings) as server, forks() as runs:
        order = {"face": face, "base_url": server.base_url, "rows": rows, "concurrency": CONCURRENCY, "patience": 10}
        order["requests"] = str(requests)
        life = 0.0
        for _ in range(2):  # the first also waits for the imports
            server.reset()
            began = time.monotonic()
            runs.run({**order, "results": str(folder / f"measured_{began}.jsonl")})
            life = time.monotonic() - began
        while tally.kills < kills:
            results = folder / f"results_{tally.runs}.jsonl"
            order["results"] = str(results)
            server.reset()
            killed = 0
            for _ in range(dice.randint(1, in_one_run)):
                left = 1 - results.read_bytes().count(b"\n") / rows if results.exists() else 1.0
                killed += runs.run(order, kill_after=dice.uniform(0, life * left))
            runs.run(order)
            _look(tally, results, server.stats(), rows, killed)
            results.unlink()
    return tally


def _look(tally: Tally, results: Path, stats: dict[str, Any], rows: int, killed: int) -> None:
    lines = results.read_bytes().split(b"\n")
    broken = sum(1 for line in lines[:-1] if not _is_answer(line)) + (lines[-1] != b"")
    asked = Counter(json.dumps(json.loads(line)[0]) for line in lines[:-1] if _is_answer(line))
    charges = Counter(stats["charged"]) + Counter(stats["charged_undelivered"])
    again = charges.total() - rows
    tally.runs += 1
    tally.kills += killed
    tally.rows += rows
    tally.rows_lost += rows - len(asked)
    tally.lines_too_many += asked.total() - len(asked)
    tally.lines_broken += broken
    tally.charged_again += again
    tally.in_flight_at_kills += killed * CONCURRENCY
    if again > killed * CONCURRENCY:
        tally.problems.append(f"run {tally.runs}: {again} charged again after {killed} kills")
    if stats["max_in_flight"] > 2 * CONCURRENCY:  # of the killed run and of the next one
        tally.problems.append(f"run {tally.runs}: {stats['max_in_flight']} in flight")


def _is_answer(line: bytes) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:
        return False
    return isinstance(entry, list) and isinstance(entry[1], dict)
