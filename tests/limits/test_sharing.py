"""Real processes share one account, and one of them is killed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pytest

from parallel_openai import Client
from parallel_openai.errors import InvalidInputError
from parallel_openai.local import simulator
from parallel_openai.local.simulator import Server

LIMIT = 1200  # a minute: 20 a second
RUN = """
import sys, tempfile
tempfile.tempdir = "."
import pandas as pd, parallel_openai as po
base_url, name, rows, limit = sys.argv[1:]
client = po.Client(base_url, max_requests_per_minute=float(limit), burst=1.0, shared="lab")
df = pd.DataFrame({"text": [f"{name} {n}" for n in range(int(rows))]})
po.process_dataframe(df, "{text}", model="m", client=client, progress=False, save_to=name + ".jsonl")
"""


@contextmanager
def running(server: Server, name: str, rows: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", RUN, server.base_url, name, str(rows), str(LIMIT)])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def account() -> Iterator[Server]:
    """Enforces the limit by the second and shows nothing of it."""
    with simulator.serve(max_requests_per_minute=LIMIT, burst_seconds=2.0, headers="none", latency=0.05) as server:
        yield server


def received(server: Server) -> int:
    count: int = server.stats(charged=False)["received"]
    return count


def wait_for_answers(name: str, count: int) -> None:
    """Until that process has so many in its journal."""
    journal = Path(f"{name}.jsonl")
    give_up_at = time.monotonic() + 60
    while not journal.exists() or journal.read_bytes().count(b"\n") < count:
        assert time.monotonic() < give_up_at
        time.sleep(0.05)


def per_second(server: Server, seconds: float) -> Iterator[float]:
    """The pace, again and again over so many seconds, while a process has rows left."""
    while (before := received(server)) < 600:
        began = time.monotonic()
        time.sleep(seconds)
        yield (received(server) - before) / (time.monotonic() - began)


def test_two_processes_share_the_limit_and_a_killed_ones_share_is_returned(account: Server) -> None:
    """What a busy machine held up is sent a moment later, so that one stretch may be faster or slower."""
    with running(account, "one", 1000):
        wait_for_answers("one", 20)
        with running(account, "other", 1000) as other:
            wait_for_answers("other", 30)
            together = any(pace <= 20 * 1.15 for pace in islice(per_second(account, 2.0), 3))
            refused = account.stats(charged=False)["refused"]
            other.kill()
            other.wait()
        # With half of the limit it would get this far in no stretch.
        alone = any(pace >= 20 * 0.8 for pace in per_second(account, 2.0))
    assert refused == {}
    assert together
    assert alone


def test_a_shared_name_that_is_a_path_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="shared must be a name"):
        Client(shared="../elsewhere")
