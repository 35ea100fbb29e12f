"""A run that waits for workers, or has lost them, without a cluster."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import parallel_openai as po
from parallel_openai._frames.process import answer_reader, make_builder
from parallel_openai._frames.run_options import Options
from parallel_openai._progress.progress import Progress
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._ray import worker_pool
from parallel_openai._ray.cluster import AccountActor
from parallel_openai._ray.dataset import _DatasetRun
from parallel_openai._ray.worker_pool import _Run
from parallel_openai._records import APIRequest
from parallel_openai.errors import RunStoppedError


class Opening:
    """A worker's call that never comes to its end, as where no machine is left for it."""

    def future(self) -> Future[str]:
        return Future()


def test_a_run_that_lost_its_last_worker_stops_with_a_clear_error_unless_another_starts() -> None:
    asyncio.run(loses_its_workers())


async def loses_its_workers() -> None:
    run = _Run(iter([]), lambda result: None, StatusTracker(), po.Client("http://127.0.0.1:9/v1"), None)
    with pytest.raises(asyncio.TimeoutError):  # the cluster is busy with others
        await asyncio.wait_for(run.wait_for(Opening(), within=0.01), 0.1)
    run.give_back({1: APIRequest({"model": "m"})}, RuntimeError("it has died"))
    other = asyncio.current_task()
    assert other is not None
    run.working.add(other)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(run.wait_for(Opening(), within=0.01), 0.1)
    run.working.clear()
    with pytest.raises(RunStoppedError, match="has lost its last worker, and has started no other within 0 s"):
        await run.wait_for(Opening(), within=0.01)
    for _ in range(1, worker_pool.MOST_DEATHS):
        run.give_back({}, OSError("gone."))
    with pytest.raises(RunStoppedError, match=r"11 workers died one after the other .*: OSError: gone\. What was"):
        run.give_back({}, OSError("gone.\nIt was 1 of 2."))


def test_a_worker_ended_before_it_started_logs_no_error() -> None:
    asyncio.run(is_ended_while_it_opens())


async def is_ended_while_it_opens() -> None:
    opening: Future[str] = Future()
    run = _Run(iter([]), lambda result: None, StatusTracker(), po.Client("http://127.0.0.1:9/v1"), None)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(run.wait_for(SimpleNamespace(future=lambda: opening)), 0.01)
    await asyncio.sleep(0)
    assert opening.cancelled()


def test_a_worker_that_learns_late_of_the_end_still_delivers_its_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "DRAIN_SECONDS", 0.3)
    asyncio.run(ends_with_a_request_on_its_way())


async def ends_with_a_request_on_its_way() -> None:
    run = _Run(iter([]), lambda result: None, StatusTracker(), po.Client("http://127.0.0.1:9/v1"), None)

    async def serve() -> None:
        await asyncio.sleep(0.2)  # in the call in which it hears of it
        await asyncio.sleep(run.left_to_drain())

    serving = asyncio.ensure_future(serve())
    run.working.add(serving)
    await run.drain()
    assert serving.done()


class AccountHere:
    """The account's books, in this process."""

    def __init__(self) -> None:
        self._actor = AccountActor(None, None)

    def ask(self, method: str, *args: Any) -> Any:
        return getattr(self._actor, method)(*args)


class Waiting:
    """A dataset whose rows never come, as Ray waits for machines in the place of lost ones."""

    def materialize(self) -> None:
        threading.Event().wait()


def test_a_dataset_run_stops_with_a_clear_error_if_the_cluster_has_no_machine_left(tmp_path: Path) -> None:
    resources = {"CPU": 2.0}
    ray = SimpleNamespace(cluster_resources=lambda: resources)
    client = po.Client("http://127.0.0.1:9/v1")
    builder = make_builder("text", "m", None, "chat.completions", None, 1, (), {})
    run = _DatasetRun(ray, client, builder, answer_reader(builder), Options(), tmp_path, 2, None)
    run.account = AccountHere()  # type: ignore[assignment]  # all that it asks an account for
    progress = Progress(run.status, client, show=False)
    lost = threading.Timer(1.0, resources.clear)
    lost.start()
    began = time.monotonic()
    with pytest.raises(RunStoppedError, match="has lost its last worker, and has started no other within 0 s"):
        run._materialized(Waiting(), progress, within=0.3)
    assert time.monotonic() - began > 1.0
