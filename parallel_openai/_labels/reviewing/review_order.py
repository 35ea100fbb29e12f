"""The keys of rows in the file of corrections, and the order of a review."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from parallel_openai._frames.columns.table import has_column, is_missing, keys_of, rows_of


def row_keys(out: pd.DataFrame, key_column: str, text: Sequence[Hashable]) -> list[str]:
    """Each row's request key, or else a digest of its text columns."""
    keys = out[key_column].tolist() if has_column(out, key_column) else [None] * len(out)
    return [_key(key, values) for key, values in zip(keys, rows_of(out, text), strict=True)]


def _key(key: Any, values: Sequence[Any]) -> str:
    key = next(iter(keys_of(key)), None)  # of several samples, the first
    if isinstance(key, str):
        return key
    return blake2b("\x1f".join(map(str, values)).encode("utf-8", "replace"), digest_size=16).hexdigest()


def review_order(
    out: pd.DataFrame,
    keys: Sequence[str],
    text: Sequence[Hashable],
    label: Hashable,
    confidences: npt.NDArray[np.float64] | None,
    *,
    sort: bool,
) -> list[int]:
    """The numbers of the rows to review: those with text, and of rows with the same key the first.

    Sorted, the rows without a label come first, and then the least confident.
    """
    has_text = out[list(text)].notna().any(axis=1).tolist()
    first: dict[str, int] = {}
    for row, key in enumerate(keys):
        if has_text[row]:
            first.setdefault(key, row)
    order = list(first.values())
    if not sort:
        return order
    labels = out[label].tolist()
    known = np.zeros(len(out)) if confidences is None else np.nan_to_num(confidences)
    return sorted(order, key=lambda row: (not is_missing(labels[row]), known[row]))
