"""How many calls of our own functions each additional row takes, by function.

Counted by `sys.setprofile` in all threads, as what a run of twice as many rows calls more often. A coroutine or a
generator counts each time that it goes on.

    python -m tests.benchmarks.calls label              label_dataframe
    python -m tests.benchmarks.calls process --limits   process_dataframe, with the headers of a limited account
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import pandas as pd

import parallel_openai as po
from parallel_openai._http.idle_connections import WATCHED
from tests.benchmarks.throughput import ANSWER, HEADERS, MODEL, PARAMS, PROMPT, frame
from tests.servers.static import static

LABELS = ["good", "bad", "mixed"]
OURS = str(Path(po.__file__).parent)


def answer_of(verb: str) -> str:
    if verb == "process":
        return ANSWER
    answer = json.loads(ANSWER)
    answer["choices"][0]["message"]["content"] = json.dumps({"label": "good"})
    return json.dumps(answer).replace("\\", "\\\\")  # as nginx reads it


def run(verb: str, client: po.Client, df: pd.DataFrame) -> None:
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"model": MODEL, "client": client, "save_to": f"{folder}/answers.jsonl"}
        if verb == "label":
            out = po.label_dataframe(df, PROMPT, labels=LABELS, progress=False, **options)
        else:
            out = po.process_dataframe(df, PROMPT, progress=False, **options, **PARAMS)
    assert (out["status"] == "succeeded").all(), out["error"].dropna().head()


def counted(verb: str, base_url: str, rows: int) -> Counter[str]:
    """The calls of one more row, by function."""
    counts: Counter[str] = Counter()

    def count(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(OURS):
            counts[f"{code.co_filename.removeprefix(OURS)[1:]} {code.co_name}"] += 1

    threading.setprofile(count)
    sys.setprofile(count)
    found = []
    with po.Client(base_url, "sk-static", max_concurrent_requests=20) as client:
        for size in (40, rows, 2 * rows):
            counts.clear()
            run(verb, client, frame(size))
            found.append(counts.copy())
            time.sleep(2 * WATCHED)  # until connections are used again, of which there would be more or less
    sys.setprofile(None)
    threading.setprofile(None)  # type: ignore[arg-type]  # which is how it is taken back
    return Counter({name: (found[2][name] - found[1][name]) / rows for name in found[2]})  # type: ignore[misc]


def in_process(verb: str, *arguments: str) -> str:
    """What a fresh process prints, whose threads are all its own."""
    command = [sys.executable, "-m", "tests.benchmarks.calls", verb, *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["process", "label"])
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--limits", action="store_true")
    options = parser.parse_args()
    with static(answer_of(options.verb), headers=HEADERS if options.limits else {}) as base_url:
        calls = counted(options.verb, base_url, options.rows)
    print(f"{sum(calls.values()):.1f} calls of our functions for each further row of {options.verb}_dataframe")
    for name, count in calls.most_common(400):
        if count >= 0.2:
            print(f"{count:6.2f} {name}")


if __name__ == "__main__":
    main()
