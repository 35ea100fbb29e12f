"""One run in a process of its own, to be killed, starved of disk or traced by the tests.

`python -m tests.reliability.worker JSON` runs once. With `--forking` it reads one such JSON a line and runs each in a
fork of itself, so that the imports, which take longer than a run, are done once; for each it prints the fork's process
id, reads a line, and prints the fork's status when it has ended.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd

import parallel_openai as po
from parallel_openai._records import Usage
from parallel_openai._requests.prices import price
from parallel_openai._requests.tokens import request_size
from parallel_openai.errors import ParallelOpenAIError


def rows(count: int) -> pd.DataFrame:
    return pd.DataFrame(
        {"text": [f"Review {number}: it {'works' if number % 3 else 'leaks'}." for number in range(count)]}
    )


def write_requests(path: Path, count: int) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for number, text in enumerate(rows(count)["text"]):
            body = {
                "model": "gpt-4o-mini",
                "messages": [{"role": "user", "content": text}],
                "metadata": {"row": number},
            }
            file.write(json.dumps(body) + "\n")


def run(order: dict[str, Any]) -> dict[str, Any]:
    """Do what the order says and tell how it went."""
    faulthandler.dump_traceback_later(order.get("patience", 60), exit=True)  # a hang is told, and ends
    if "file_size" in order:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_size"], order["file_size"]))
    if "uid" in order:
        os.setuid(order["uid"])
    client = po.Client(
        order["base_url"],
        max_concurrent_requests=order.get("concurrency", 20),
        max_requests_per_minute=order.get("max_requests_per_minute"),
        sync=order.get("sync", "second"),
    )
    options = {"client": client, "progress": False}
    began = time.monotonic()
    try:
        if order["face"] == "frame":
            frame = rows(order["rows"])
            out = po.process_dataframe(frame, "text", model="gpt-4o-mini", save_to=order["results"], **options)
            told: dict[str, Any] = {"statuses": out["status"].value_counts().to_dict()}
        else:
            status = po.process_api_requests_from_file(order["requests"], order["results"], **options)
            told = {"statuses": {"succeeded": status.num_tasks_succeeded, "failed": status.num_tasks_failed}}
    except ParallelOpenAIError as error:
        told = {"error": type(error).__name__, "message": str(error), "statuses": _statuses(error)}
    faulthandler.cancel_dump_traceback_later()
    return {**told, "seconds": time.monotonic() - began}


def _statuses(error: ParallelOpenAIError) -> dict[str, int]:
    partial = getattr(error, "partial", None)
    if isinstance(partial, pd.DataFrame):
        return dict(partial["status"].value_counts())
    return {} if partial is None else {"succeeded": partial.num_tasks_succeeded, "failed": partial.num_tasks_failed}


def run_in_forks() -> None:
    for name in ("cl100k_base", "o200k_base"):
        request_size({"messages": []}, name)
    price("gpt-4o-mini", Usage(1, 1))
    import uvloop  # noqa: F401 - imported now, so that each fork has it

    assert threading.active_count() == 1, "a fork of several threads may hang"
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            told = run(json.loads(line))
            os._exit(0 if "error" not in told else 1)
        print(child, flush=True)
        sys.stdin.readline()  # until then it is not waited for, so that nobody else gets its number
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--forking":
        run_in_forks()
    else:
        print(json.dumps(run(json.loads(sys.argv[1])), default=int))
