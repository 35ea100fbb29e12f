"""Helpers for the tests of `embed_dataframe`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

import parallel_openai as po
from parallel_openai.local import simulator

MODEL = "text-embedding-3-small"
Embed = Callable[..., pd.DataFrame]


def texts(count: int, start: int = 0) -> pd.DataFrame:
    return pd.DataFrame({"text": [f"Review number {number}" for number in range(start, start + count)]})


def sent(server: simulator.Server) -> int:
    count: int = server.stats(charged=False)["received"]
    return count


def vector_of_one(client: po.Client, text: str) -> Any:
    """What the endpoint says of a text asked about by itself."""
    one = pd.DataFrame({"text": [text]})
    out = po.process_dataframe(
        one, "text", model=MODEL, endpoint="embeddings", dimensions=8, client=client, progress=False
    )
    return out["response"][0]
