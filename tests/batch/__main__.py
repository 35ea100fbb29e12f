"""A long run through the Batch API that is killed twice: `python -m tests.batch --long`.

It uses the simulator with a fast clock. Some rows expire, the process is killed while it submits and again while it
collects, and another process completes the run. Prints the rows in and out, the batches, how often the server processed
each request, the time and the peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from parallel_openai.local import simulator

ROOT = Path(__file__).parents[2]
DAY = 86_400.0
WORKER = """
import json, resource, sys, time
import pandas as pd
import parallel_openai as po

base_url, rows, path = sys.argv[1:]
began = time.monotonic()
texts = [f"Review {number}: the lamp came on day {number % 9} and it works." for number in range(int(rows))]
df = pd.DataFrame({"text": texts})
lane = po.BatchLane(rounds=20, poll_seconds=0.5, max_requests=min(50_000, len(df) * 5 // 12))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
out = po.process_dataframe(df, "Is this review happy? {text}", model="gpt-4o-mini", client=po.Client(base_url),
                           progress=False, lane=lane, save_to=path)
print(json.dumps({
    "statuses": {name: int(count) for name, count in out["status"].value_counts().items()},
    "in_place": int(sum(text[:16] in answer for text, answer in zip(out["text"], out["response"]))),
    "cost_usd": float(out["cost_usd"].sum()),
    "attempts": {int(k): int(v) for k, v in out["attempts"].value_counts().items()},
    "seconds": time.monotonic() - began, "mb_before": before // 1024,
    "mb_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}, default=int))
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.batch", description=__doc__)
    parser.add_argument("--long", action="store_true", help="120,000 rows instead of 6,000")
    parser.add_argument("--expire", type=float, default=0.1)
    args = parser.parse_args()
    rows = 120_000 if args.long else 6_000
    with tempfile.TemporaryDirectory() as folder:
        told = run(rows, args.expire, Path(folder))
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"
    )
    print(json.dumps(told, indent=2))
    good = (
        told["statuses"].get("succeeded") == told["in_place"] == told["answers_in_the_journal"] == rows
        and told["lines_of_one_key"] == told["times_a_request_was_worked_on"] == [1]
        and told["requests_worked_on"] == rows
    )
    print("Nothing was lost and nothing submitted twice." if good else "SOMETHING IS WRONG.")
    return 0 if good else 1


def run(rows: int, expire: float, folder: Path) -> dict[str, Any]:
    journal = folder / "answers.jsonl"
    # A day lasts 10 s, so that the kills happen during submission and collection.
    settings: dict[str, Any] = {"batch_speed": DAY / 10, "batch_expire": expire, "answer_tokens": 30}
    began = time.monotonic()
    with simulator.serve(separate_process=True, max_requests_per_minute=None, **settings) as server:
        command = [sys.executable, "-c", WORKER, server.base_url, str(rows), str(journal)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        kills = [
            kill_when(command, environment, lambda: server.stats(charged=False)["batches"]["created"] >= 2),
            kill_when(command, environment, lambda: answers(journal) > rows // 5),
        ]
        last = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, timeout=1800)
        stats = server.stats()
    with open(journal, "rb") as file:
        keys = Counter(json.loads(line)[3]["key"] for line in file if not line.startswith(b"[{},"))
    return {
        "rows_in": rows,
        **json.loads(last.stdout),
        "kills": kills,
        "answers_in_the_journal": len(keys),
        "lines_of_one_key": sorted(set(keys.values())),
        "batches": stats["batches"],
        "requests_worked_on": stats["charged_distinct"],
        "times_a_request_was_worked_on": sorted(set(stats["charged"].values())),
        "journal_mb": journal.stat().st_size // 2**20,
        "seconds_in_all": time.monotonic() - began,
    }


def kill_when(command: list[str], environment: dict[str, str], moment: Any) -> dict[str, Any]:
    """Start the run and kill it as soon as `moment()` is true."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    began = time.monotonic()
    while process.poll() is None and not moment():
        time.sleep(0.05)
    killed = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return {"killed": killed, "after": round(time.monotonic() - began, 1)}


def answers(journal: Path) -> int:
    """The approximate number of answers in the journal."""
    return journal.read_bytes().count(b'"simulated"') if journal.exists() else 0


if __name__ == "__main__":
    sys.exit(main())
