"""How much of an account's limits a run uses, and how often it is refused.

Each scenario runs against the simulator in a process of its own, over a real socket, with lognormal latency of a median
of 0.5 s, for about `--seconds` of work:

    python -m tests.benchmarks.limits                  all scenarios, 60 s each, a few at a time
    python -m tests.benchmarks.limits --only given     those with "given" in their name
    python -m tests.benchmarks.limits --seconds 10     a quick look; the first seconds weigh more then

Columns: utilisation is what was accepted of what the account allowed between the first and the last request; 429s are
counted for 1,000 accepted requests; ideal is the time when the last request could have been admitted at the earliest,
plus the median latency.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any

from parallel_openai import APIRequest, Client, StatusTracker
from parallel_openai._loop.background import run as run_to_end
from parallel_openai._loop.interrupts import Interrupts
from parallel_openai._requests.tokens import request_size
from parallel_openai.local import simulator

LATENCY = 0.5
REQUESTS = 3000.0
TOKENS = 300_000.0


@dataclass(frozen=True)
class Target:
    """What a scenario must reach."""

    utilisation: float
    refusals: float
    wall: float


GIVEN = Target(0.985, 0.5, 1.03)
SHOWN = Target(0.97, 2.0, 1.05)
BLIND = Target(0.85, 30.0, 1.20)
MOVED = Target(0.95, 5.0, 1.08)


@dataclass(frozen=True)
class Scenario:
    """One account, one way of knowing it, one kind of rows."""

    name: str
    target: Target
    server: dict[str, Any]
    client: dict[str, Any] = field(default_factory=dict)
    rows: str = "small"
    halve_after: float | None = None


@dataclass(frozen=True)
class Figures:
    """What came out of a scenario."""

    name: str
    utilisation: float
    refusals_per_1000: float
    wall_over_ideal: float
    seconds: float
    accepted: int
    refused: int


def scenarios() -> list[Scenario]:
    made = []
    for rows, limits in (
        ("small", {"max_requests_per_minute": REQUESTS, "max_tokens_per_minute": None}),
        ("large", {"max_requests_per_minute": None, "max_tokens_per_minute": TOKENS}),
        ("both", {"max_requests_per_minute": REQUESTS, "max_tokens_per_minute": TOKENS}),
    ):
        binds = {"small": "requests bind", "large": "tokens bind", "both": "both in turns"}[rows]
        given = {name: value for name, value in limits.items() if value is not None}
        for window in (1.0, 10.0, 60.0):
            server = {**limits, "burst_seconds": window}
            name = f"{binds}, {window:g} s window"
            made.append(Scenario(f"{name}, given", GIVEN, server, given, rows))
            made.append(Scenario(f"{name}, from headers", SHOWN, server, {}, rows))
            made.append(Scenario(f"{name}, no headers", BLIND, {**server, "headers": "none"}, {}, rows))
    requests = {"max_requests_per_minute": REQUESTS, "max_tokens_per_minute": None}
    for window in (1.0, 60.0):
        server = {**requests, "burst_seconds": window}
        load = {"background_load": (REQUESTS / 3, 0.0)}
        made.append(Scenario(f"refused are charged, {window:g} s window", SHOWN, {**server, "charge_refused": True}))
        made.append(Scenario(f"halved in mid-run, {window:g} s window", MOVED, server, halve_after=1 / 3))
        made.append(Scenario(f"another takes a third, {window:g} s window", MOVED, {**server, **load}))
    return made


def rows_of(scenario: Scenario, seconds: float) -> Iterator[APIRequest]:
    """Requests for so many seconds of work, the burst at the start included."""
    chance = random.Random(7)
    window = scenario.server["burst_seconds"]
    share = 1.0 if scenario.halve_after is None else scenario.halve_after + (1 - scenario.halve_after) / 2
    others = 2 / 3 if "background_load" in scenario.server else 1.0
    requests, tokens = 0, 0.0
    per_minute = scenario.server["max_requests_per_minute"] or float("inf")
    tokens_per_minute = scenario.server["max_tokens_per_minute"] or float("inf")
    most = per_minute / 60 * (seconds * share * others + window)
    most_tokens = tokens_per_minute / 60 * (seconds * share + window)
    while requests < most and tokens < most_tokens:
        size = {"small": 20, "large": chance.choice((60, 120, 240)), "both": chance.choice((20, 20, 20, 340))}[
            scenario.rows
        ]
        text = f"row {requests} " + "word " * (chance.randint(10, 40) if scenario.rows == "small" else size // 4)
        body = {"model": "gpt-4o-mini", "max_tokens": size, "messages": [{"role": "user", "content": text}]}
        request = APIRequest(body)
        request.size = request_size(body, "o200k_base")
        requests += 1
        tokens += max(size, len(text) / 4)
        yield request


def run(scenario: Scenario, seconds: float) -> Figures:
    """Run one scenario."""
    rows = list(rows_of(scenario, seconds))
    settings = {**scenario.server, "latency": LATENCY, "latency_sigma": 0.4, "keep_charged": False}
    with simulator.serve(separate_process=True, **settings) as server:
        client = Client(server.base_url, **scenario.client)
        if scenario.halve_after is not None:
            halve = threading.Timer(
                seconds * scenario.halve_after, server.set, kwargs={"max_requests_per_minute": REQUESTS / 2}
            )
            halve.daemon = True
            halve.start()
        status = StatusTracker()
        began = time.monotonic()
        run_to_end(client.process(rows, on_result=lambda result: None, status=status), lambda: None, Interrupts())
        wall = time.monotonic() - began
        stats = server.stats()
        client.close()
    assert status.num_tasks_succeeded == len(rows), status
    refused = sum(stats["refused"].values())
    used = max(share for share in stats["utilisation"].values() if share is not None)
    ideal = _ideal(stats, scenario)
    return Figures(scenario.name, used, 1000 * refused / len(rows), wall / ideal, wall, stats["accepted"], refused)


def _ideal(stats: dict[str, Any], scenario: Scenario) -> float:
    """The earliest that all could have been admitted and answered: without what the unused budget was worth."""
    span = stats["last_accepted"] - stats["first_accepted"]
    late = []
    rates = {"requests": scenario.server["max_requests_per_minute"], "tokens": scenario.server["max_tokens_per_minute"]}
    for dimension, rate in rates.items():
        if rate:
            used = {"requests": stats["accepted"], "tokens": stats["tokens_charged"]}[dimension]
            rate = rate / 60 * (0.5 if scenario.halve_after is not None else 1.0)
            rate -= scenario.server.get("background_load", (0.0, 0.0))[dimension == "tokens"] / 60
            late.append((stats["allowed"][dimension] - used) / rate)
    return max(span - min(late), 0.1) + LATENCY


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="work for each scenario")
    parser.add_argument("--only", default="", help="scenarios whose name holds this")
    parser.add_argument("--at-once", type=int, default=5, help="scenarios at the same time")
    parser.add_argument("--one", help="run this very scenario here and print JSON")
    options = parser.parse_args(argv)
    if options.one:
        [scenario] = [each for each in scenarios() if each.name == options.one]
        print(json.dumps(asdict(run(scenario, options.seconds))))
        return 0
    chosen = [each for each in scenarios() if options.only in each.name]
    print(f"{date.today()}, {platform.platform()}, Python {platform.python_version()}, {options.seconds:g} s of work")
    print(f"{'scenario':44} {'utilisation':>11} {'429s/1,000':>11} {'wall/ideal':>11}")
    missed = 0
    with ThreadPoolExecutor(options.at_once) as pool:
        for scenario, figures in zip(
            chosen, pool.map(lambda each: _in_process(each, options.seconds), chosen), strict=True
        ):
            good = meets(figures, scenario.target)
            missed += not good
            print(line(figures) + ("" if good else "   missed"), flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} scenarios reach their target")
    return 1 if missed else 0


def meets(figures: Figures, target: Target) -> bool:
    return (
        figures.utilisation >= target.utilisation
        and figures.refusals_per_1000 <= target.refusals
        and figures.wall_over_ideal <= target.wall
    )


def line(figures: Figures) -> str:
    used, refusals, wall = figures.utilisation, figures.refusals_per_1000, figures.wall_over_ideal
    return f"{figures.name:44} {used:11.2%} {refusals:11.2f} {wall:11.3f}"


def _in_process(scenario: Scenario, seconds: float) -> Figures:
    command = [sys.executable, "-m", "tests.benchmarks.limits", "--one", scenario.name, "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds * 4 + 60, check=False)
    if done.returncode:
        raise RuntimeError(f"{scenario.name}: {done.stderr[-2000:]}")
    return Figures(**json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    sys.exit(main())
