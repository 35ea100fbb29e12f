"""The two main functions, bound to the simulator, and access to the requests that it received."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po

Verb = Callable[..., pd.DataFrame]


@pytest.fixture
def ask(client: po.Client) -> Verb:
    return partial(po.process_dataframe, model="gpt-4o-mini", client=client, progress=False)


@pytest.fixture
def label(client: po.Client) -> Verb:
    return partial(po.label_dataframe, model="gpt-4o-mini", client=client, progress=False)


@pytest.fixture
def reviews() -> pd.DataFrame:
    return pd.DataFrame({"text": ["A wonderful lamp.", "It broke, terrible.", "Great value."], "stars": [5, 1, 4]})


def journal_of(out: pd.DataFrame) -> Path:
    return Path(out.attrs["parallel_openai"]["journal"])


def asked(out: pd.DataFrame) -> list[dict[str, Any]]:
    """The bodies that were sent for a frame, in the order of its rows."""
    lines = [json.loads(line) for line in journal_of(out).read_bytes().splitlines()]
    by_key = {line[3]["key"]: line[0] for line in lines}
    return [by_key[key] for key in out["request_key"]]


def prompts(out: pd.DataFrame) -> list[str]:
    """The last message of each row."""
    return [body["messages"][-1]["content"] for body in asked(out)]


def codes(out: pd.DataFrame) -> list[str | None]:
    """Each row's error code; None for a row without one."""
    return [None if pd.isna(code) else code for code in out["error_code"]]


@pytest.fixture
def embed(client: po.Client) -> Verb:
    return partial(po.embed_dataframe, model="text-embedding-3-small", dimensions=8, client=client, progress=False)
