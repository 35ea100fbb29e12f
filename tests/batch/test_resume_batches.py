"""After an interrupt, a kill or in another process, what was submitted is collected once and nothing is sent twice."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import parallel_openai as po
from parallel_openai._batch.batch_state import live_parts
from parallel_openai.errors import InvalidInputError
from parallel_openai.local import simulator
from parallel_openai.local.simulator import Server
from tests.batch.conftest import DAY, Verb, charged, counts, lane, no_batch_ends, texts

needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send itself this signal")
WORKER = """
import sys
import parallel_openai as po
from tests.batch.conftest import lane, texts
base_url, rows, path = sys.argv[1:]
po.process_dataframe(texts(int(rows)), "text", model="gpt-4o-mini", client=po.Client(base_url), progress=False,
                     lane=lane(max_requests=20, rounds=20), save_to=path)
"""


@contextmanager
def interrupted_once(server: Server, done: Any) -> Iterator[None]:
    """Send SIGINT to this process when the server's statistics reach a condition."""

    def interrupt() -> None:
        give_up_at = time.monotonic() + 20
        while not done(server.stats()["batches"]) and time.monotonic() < give_up_at:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@needs_signals
def test_an_interrupt_leaves_the_batches_at_the_server_and_says_so(
    ask: Verb, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.set(batch_speed=1.0)
    with interrupted_once(server, lambda batches: batches["created"] == 2), pytest.raises(KeyboardInterrupt) as stop:
        ask(texts(40), lane=lane(max_requests=20), progress=True)
    out: Any = stop.value.partial  # type: ignore[attr-defined]
    assert counts(out) == {"cancelled": 40}
    assert out["error_code"].eq("in_batch").all()
    assert out.attrs["parallel_openai"]["ended"] == "interrupted"
    assert f"batch collect --save_filepath {tmp_path / 'answers.jsonl'}" in capsys.readouterr().err
    server.set(batch_speed=10 * DAY)
    assert counts(ask(texts(40))) == {"succeeded": 40}
    assert server.stats()["batches"]["created"] == 2
    assert charged(server) == [1]


def test_without_waiting_the_call_submits_and_the_same_call_collects_later(ask: Verb, server: Server) -> None:
    with no_batch_ends(server):
        submitted = ask(texts(10), lane=lane(wait=False))
    assert counts(submitted) == {"cancelled": 10}
    assert submitted.attrs["parallel_openai"]["ended"] == "submitted"
    out = ask(texts(12))
    assert counts(out) == {"succeeded": 12}
    assert server.stats()["batches"]["requests"] == 12


def test_without_waiting_the_call_says_too_that_all_is_done_or_the_budget_used_up(ask: Verb) -> None:
    ask(texts(3), max_tokens=50)
    done = ask(texts(3), max_tokens=50, lane=lane(wait=False))
    more = ask(texts(4), max_tokens=50, lane=lane(wait=False), budget_tokens=50)
    assert [out.attrs["parallel_openai"]["ended"] for out in (done, more)] == ["finished", "budget"]


def test_rows_that_are_no_longer_requested_are_kept_in_the_journal(ask: Verb, server: Server) -> None:
    ask(texts(10), lane=lane(wait=False))
    assert counts(ask(texts(3))) == {"succeeded": 3}
    assert counts(ask(texts(10), lane="online")) == {"succeeded": 10}
    assert server.stats()["received"] == 0


def test_another_process_can_collect_without_the_frame(ask: Verb, server: Server, tmp_path: Path) -> None:
    server.set(batch_expire=0.3)
    with no_batch_ends(server):
        ask(texts(30), lane=lane(wait=False))
    status = po.collect_batches(
        tmp_path / "answers.jsonl", client=po.Client(server.base_url), lane=lane(rounds=20), progress=False
    )
    assert (status.num_tasks_succeeded, status.ended) == (30, "finished")
    assert counts(ask(texts(30), lane="online")) == {"succeeded": 30}
    assert charged(server) == [1]


def test_the_journal_alone_is_enough_to_collect(ask: Verb, server: Server, tmp_path: Path) -> None:
    with no_batch_ends(server):
        ask(texts(10), lane=lane(wait=False))
    shutil.rmtree(tmp_path / "answers.jsonl.batches")
    assert counts(ask(texts(10))) == {"succeeded": 10}
    assert server.stats()["batches"]["requests"] == 10


def test_cancelled_batches_return_the_answers_so_far(ask: Verb, server: Server, tmp_path: Path) -> None:
    server.set(batch_validation_seconds=0.0)
    client = po.Client(server.base_url)
    with no_batch_ends(server):
        ask(texts(100), lane=lane(wait=False))
    server.set(batch_speed=3600.0)
    while po.batch_status(tmp_path / "answers.jsonl", client=client)[0].completed < 10:
        time.sleep(0.02)
    [cancelled] = po.cancel_batches(tmp_path / "answers.jsonl", client=client)
    assert cancelled.status in ("cancelling", "cancelled")
    status = po.collect_batches(tmp_path / "answers.jsonl", client=client, lane=lane(), progress=False)
    assert 10 <= status.num_tasks_succeeded < 100
    server.set(batch_speed=10 * DAY)
    assert counts(ask(texts(100))) == {"succeeded": 100}
    assert charged(server) == [1]


def test_cancelling_an_ended_batch_shows_how_it_ended(ask: Verb, server: Server, tmp_path: Path) -> None:
    client, journal = po.Client(server.base_url), tmp_path / "answers.jsonl"
    with no_batch_ends(server):
        ask(texts(3), lane=lane(wait=False))
    while po.batch_status(journal, client=client)[0].status != "completed":
        time.sleep(0.02)
    assert [str(each).partition(": ")[2] for each in po.cancel_batches(journal, client=client)] == [
        "completed, 3 of 3 done"
    ]


def test_a_missing_journal_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="nowhere"):
        po.batch_status(tmp_path / "nowhere.jsonl")


def steps(journal: Path) -> list[bytes]:
    return journal.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("lines", [1, 2, 3, 4], ids=["planned", "uploaded", "creating", "created"])
def test_whatever_the_journal_last_says_the_next_call_submits_nothing_twice(
    ask: Verb, server: Server, tmp_path: Path, lines: int
) -> None:
    """As after a kill, when the server had done more than the journal recorded."""
    journal = tmp_path / "answers.jsonl"
    with no_batch_ends(server):
        ask(texts(10), lane=lane(wait=False))
    written = steps(journal)
    assert len(written) == 4
    # Long ago, so that nothing can be on its way to the server any more.
    written = [re.sub(rb'("creating_at":)\d{5}', rb"\g<1>17000", line) for line in written]
    journal.write_bytes(b"".join(written[:lines]))
    if lines < 3:  # that the batch was asked for was written before it was asked for
        server.reset()
    assert counts(ask(texts(10))) == {"succeeded": 10}
    assert server.stats()["batches"]["created"] == 1
    assert charged(server) == [1]


def test_a_damaged_step_is_skipped(ask: Verb, tmp_path: Path) -> None:
    journal = tmp_path / "answers.jsonl"
    ask(texts(3))
    journal.write_bytes(journal.read_bytes() + b'[{},null,{"batch":{"event":"planned","name":5}}]\n')
    assert live_parts(journal) == []
    assert counts(ask(texts(3))) == {"succeeded": 3}


@needs_signals
def test_runs_that_are_killed_submit_nothing_twice_and_lose_nothing(tmp_path: Path) -> None:
    journal = tmp_path / "answers.jsonl"
    settings: dict[str, Any] = {"max_requests_per_minute": None, "batch_speed": DAY * 2, "batch_expire": 0.1}
    with simulator.serve(separate_process=True, **settings) as server:
        command = [sys.executable, "-c", WORKER, server.base_url, "60", str(journal)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        for batches in (2, 4):
            process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
            while server.stats()["batches"]["created"] < batches and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()
        subprocess.run(command, env=environment, check=True, timeout=60)
        answered = [line for line in steps(journal) if not line.startswith(b"[{},")]
        keys = [json.loads(line)[3]["key"] for line in answered]
        assert len(keys) == len(set(keys)) == 60
        assert charged(server) == [1]
        assert server.stats()["charged_distinct"] == 60
