"""How several workers on a Ray cluster share one account's limit, and what a killed worker costs.

    python -m tests.benchmarks.scale                    1, 2 and 4 workers at 300 a second, and one of two killed -9
    python -m tests.benchmarks.scale --rate 1000        where the machine carries it: the simulator is Python too

The simulator runs in a process of its own, and enforces the limit by the second. Columns: the highest count that it
received in any second, as a share of the limit; what was used of the limit between the first and the last request but
for the seconds at both ends; and 429s. The run with the kill tells the rows that came out, those that were charged
twice, and the slowest second after the kill.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd

import parallel_openai as po
from parallel_openai.local import simulator

LATENCY = 0.3


@dataclass(frozen=True)
class Figures:
    """What came out of a run."""

    workers: int
    rows: int
    succeeded: int
    fullest: float  # second, as a share of the limit
    used: float
    refused: int
    twice: int
    in_flight: int
    slowest: float  # second, as a share of the limit


def run(workers: int, rate: float, seconds: float, *, kill: bool = False) -> Figures:
    """One run of a frame by so many workers; with `kill`, one of them dies in its middle."""
    rows = int(rate * seconds)
    df = pd.DataFrame({"text": [f"row {number}" for number in range(rows)]})
    settings: dict[str, Any] = {"max_requests_per_minute": rate * 60, "burst_seconds": 1.0, "latency": LATENCY}
    with simulator.serve(separate_process=True, **settings) as server, tempfile.TemporaryDirectory() as folder:
        in_flight: list[int] = []
        killer = threading.Thread(target=_kill_one, args=(server, rows // 2, in_flight), daemon=True)
        if kill:
            killer.start()
        client = po.Client(server.base_url, max_requests_per_minute=rate * 60)
        where = Path(folder) / "answers.jsonl"
        out = po.process_dataframe(
            df, "Say {text}", model="m", client=client, lane=po.RayLane(workers), save_to=where, progress=False
        )
        stats = server.stats(charged=False)
    per_second = [count for count in stats["per_second"]["accepted"] if count]
    middle = per_second[1:-1] or per_second
    return Figures(
        workers,
        rows,
        int((out["status"] == "succeeded").sum()),
        max(per_second) / rate,
        sum(middle) / len(middle) / rate,
        sum(stats["refused"].values()),
        stats["accepted"] - rows,
        sum(in_flight),
        min(middle) / rate,
    )


def _kill_one(server: Any, after: int, in_flight: list[int]) -> None:
    while (stats := server.stats(charged=False))["received"] < after:
        time.sleep(0.05)
    workers = [int(place.parent.name) for place in Path("/proc").glob("[0-9]*/cmdline") if _is_worker(place)]
    in_flight.append(stats["in_flight"])
    os.kill(workers[0], signal.SIGKILL)


def _is_worker(place: Path) -> bool:
    try:
        return place.read_bytes().startswith(b"ray::Worker")
    except OSError:
        return False


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=300.0, help="the account's limit, requests a second")
    parser.add_argument("--seconds", type=float, default=12.0, help="work for each run")
    options = parser.parse_args(argv)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
    print(
        f"{date.today()}, {platform.platform()}, {os.cpu_count()} processors, Python {platform.python_version()}, ",
        end="",
    )
    print(f"limit {options.rate:g} a second, {options.seconds:g} s of work")
    print(f"{'workers':>7} {'fullest second':>15} {'used':>7} {'429s':>5} {'rows out':>9} {'twice':>6}")
    good = True
    for workers in (1, 2, 4):
        figures = run(workers, options.rate, options.seconds)
        print(line(figures), flush=True)
        good = good and figures.fullest <= 1.0 and figures.succeeded == figures.rows
    figures = run(2, options.rate, options.seconds, kill=True)
    print(f"{line(figures)}   one of two killed -9: {figures.twice} rows charged twice of", end=" ")
    print(f"{figures.in_flight} in flight at both; slowest second {figures.slowest:.0%} of the limit")
    ray.shutdown()
    return 0 if good and figures.succeeded == figures.rows else 1


def line(figures: Figures) -> str:
    rows = f"{figures.succeeded}/{figures.rows}"
    shares = f"{figures.fullest:15.1%} {figures.used:7.1%}"
    return f"{figures.workers:7} {shares} {figures.refused:5} {rows:>9} {figures.twice:6}"


if __name__ == "__main__":
    sys.exit(main())
