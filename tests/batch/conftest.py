"""A simulator whose days last a fraction of a second."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai.local import simulator
from tests.batch.scripted import Scripted, serve

DAY = 86_400.0
Verb = Callable[..., pd.DataFrame]


@pytest.fixture
def server() -> Iterator[simulator.Server]:
    with simulator.serve(max_requests_per_minute=None, batch_speed=5 * DAY) as running:
        yield running


@pytest.fixture
def ask(client: po.Client, tmp_path: Path) -> Verb:
    lane = po.BatchLane(poll_seconds=0.02)
    save_to = tmp_path / "answers.jsonl"
    return partial(
        po.process_dataframe,
        prompt="text",
        model="gpt-4o-mini",
        client=client,
        progress=False,
        lane=lane,
        save_to=save_to,
    )


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    with serve() as running:
        yield running


@pytest.fixture
def submit(scripted: Scripted, tmp_path: Path) -> Iterator[Verb]:
    with po.Client(scripted.base_url, api_key="sk-none", max_attempts=2) as client:
        yield partial(
            po.process_dataframe,
            prompt="text",
            model="gpt-4o-mini",
            client=client,
            progress=False,
            lane=lane(),
            save_to=tmp_path / "answers.jsonl",
        )


def age(journal: Path) -> None:
    """Move a journal's timestamps far into the past, so that no request can still be in transit."""
    journal.write_bytes(re.sub(rb'("(?:creating|planned)_at":)\d{5}', rb"\g<1>17000", journal.read_bytes()))


def texts(count: int) -> pd.DataFrame:
    return pd.DataFrame({"text": [f"Review {number}: it works." for number in range(count)]})


def lane(**options: object) -> po.BatchLane:
    return po.BatchLane(poll_seconds=0.02, **options)  # type: ignore[arg-type]


@contextmanager
def no_batch_ends(server: simulator.Server) -> Iterator[None]:
    """For a call that only submits, which on a busy machine would find that its batches have ended already."""
    server.set(batch_speed=1.0)
    yield
    server.set(batch_speed=5 * DAY)


def counts(out: pd.DataFrame) -> dict[str, int]:
    return {name: count for name, count in out["status"].value_counts().items() if count}


def charged(server: simulator.Server) -> list[int]:
    """The distinct numbers of charges per request."""
    return sorted(set(server.stats()["charged"].values()))
