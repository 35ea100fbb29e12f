"""The benchmarks of long and waiting runs, and of starts and ends, with short settings, so that they stay runnable."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._frames.columns.table import Row
from parallel_openai._limits.limiter import Limiter
from parallel_openai._records import Size
from parallel_openai.errors import AuthenticationError
from tests.benchmarks.long import IN_FLIGHT, LongRun
from tests.benchmarks.start_end import answering, write_journal
from tests.benchmarks.throughput import MODEL, PARAMS, PROMPT, frame
from tests.benchmarks.waiting import CASES, TARGET, share
from tests.limits.virtual import VirtualLoop, run_virtually


def test_a_long_run_neither_grows_nor_slows_down() -> None:
    run = LongRun(25_000).run()

    assert run.succeeded == 25_000
    assert run.most_in_flight == IN_FLIGHT
    assert run.status.num_retries > 100
    assert run.growth < 40  # what is remembered of a row would take hundreds of bytes
    assert run.slower < 2


def test_those_who_wait_for_the_limit_are_woken_only_in_their_turn() -> None:
    loop = VirtualLoop()
    limiter = Limiter(1.0, burst=1.0, clock=loop.time)
    turns = 0
    select = loop._jumping.select

    def counted(timeout: float | None = None) -> object:
        nonlocal turns
        turns += 1
        return select(timeout)

    loop._jumping.select = counted  # type: ignore[method-assign]

    async def wait() -> int:
        waiting = [asyncio.ensure_future(limiter.acquire(Size(1, 1, 1, 1))) for _ in range(3000)]
        await asyncio.sleep(600)
        for each in waiting:
            each.cancel()
        return sum(each.done() and not each.cancelled() for each in waiting)

    assert run_virtually(wait(), loop) in (10, 11)
    assert turns < 100


@pytest.mark.parametrize("name", ["frame, told to wait", "requests"])
def test_waiting_costs_next_to_nothing(name: str) -> None:
    case = CASES[name] if CASES[name].runs else replace(CASES[name], size=1000)
    assert share(case, 0.5, settle=1.0, spans=4) < TARGET


def test_the_first_row_is_sent_before_the_others_are_made(tmp_path: Path) -> None:
    made = 0

    def ask(row: Row) -> str:
        nonlocal made
        made += 1
        return str(row["text"])

    with (
        answering(0) as (base_url, _),
        po.Client(base_url, "sk-static", max_concurrent_requests=100) as client,
        pytest.raises(AuthenticationError),
    ):
        po.process_dataframe(frame(50_000), ask, model=MODEL, client=client, save_to=tmp_path / "a.jsonl")

    assert made < 2_000


def test_a_large_frame_starts_and_ends_at_once(tmp_path: Path) -> None:
    df = frame(200_000)
    with answering(0) as (base_url, _), po.Client(base_url, "sk-static", max_concurrent_requests=100) as client:
        began = time.monotonic()
        with pytest.raises(AuthenticationError) as caught:
            po.process_dataframe(df, PROMPT, model=MODEL, client=client, save_to=tmp_path / "a.jsonl")
        seconds = time.monotonic() - began

    assert isinstance(caught.value.partial, pd.DataFrame)
    assert caught.value.partial["status"].tolist() == ["cancelled"] * 200_000
    assert seconds < 4  # one look at each of its cells through pandas would take longer


def test_what_must_be_sent_goes_out_before_what_the_journal_knows_is_read(tmp_path: Path) -> None:
    read: list[float] = []

    def noted(answer: str) -> str:
        read.append(time.monotonic())
        return answer

    df, journal = frame(20_000), tmp_path / "a.jsonl"
    write_journal(journal, df[:-1])
    with answering(1) as (base_url, server), po.Client(base_url, "sk-static") as client:
        out = po.process_dataframe(df, PROMPT, model=MODEL, client=client, save_to=journal, parse=noted, **PARAMS)

    assert server.given == 1
    assert (out["status"] == "succeeded").all()
    assert server.first is not None
    assert len([at for at in read if at < server.first]) < 5_000
