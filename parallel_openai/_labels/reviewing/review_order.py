"""The rows to go over: by which name the file of corrections knows them, and in which order they come."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import pandas as pd

from parallel_openai._frames.columns.table import has_column, is_missing, rows_of


def row_keys(out: pd.DataFrame, key_column: str, shown: Sequence[Hashable]) -> list[str]:
    """What each row is known by: the digest of what was asked, else of the texts that are shown."""
    keys = out[key_column].tolist() if has_column(out, key_column) else [None] * len(out)
    return [_key(key, values) for key, values in zip(keys, rows_of(out, shown), strict=True)]


def _key(key: Any, values: Sequence[Any]) -> str:
    if isinstance(key, (list, tuple, np.ndarray)):  # of several samples, the first
        key = next(iter(key), None)
    if isinstance(key, str):
        return key
    return blake2b("\x1f".join(map(str, values)).encode("utf-8", "replace"), digest_size=16).hexdigest()


def review_order(
    out: pd.DataFrame, keys: Sequence[str], shown: Sequence[Hashable], label: Hashable, confidence: str, *, sort: bool
) -> list[int]:
    """The numbers of the rows to go over: those with a text; of those that asked the very same, the first.

    Sorted, the rows without a label come first, and then the least confident.
    """
    has_text = out[list(shown)].notna().any(axis=1).tolist()
    first: dict[str, int] = {}
    for row, key in enumerate(keys):
        if has_text[row]:
            first.setdefault(key, row)
    order = list(first.values())
    if not sort:
        return order
    labels = out[label].tolist()
    sure = out[confidence].tolist() if has_column(out, confidence) else [None] * len(out)
    return sorted(order, key=lambda row: (not is_missing(labels[row]), 0.0 if is_missing(sure[row]) else sure[row]))
