"""Expand a result frame to one row per choice of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from parallel_openai._frames.columns.answer_columns import Reader
from parallel_openai._frames.columns.table import label_of
from parallel_openai._frames.request_builder import RequestBuilder
from parallel_openai.errors import InvalidInputError

CHOICE = "choice"
#: Columns that count all choices of a row together.
_BILLED = ("prompt_tokens", "completion_tokens", "cost_usd", "attempts")


def check_choices(builder: RequestBuilder) -> None:
    """Check that a call requests several choices."""
    number = builder.params.get("n")
    if isinstance(number, bool) or not isinstance(number, int) or number < 2:
        raise InvalidInputError(f"explode= makes a row of each choice, and needs n= above 1, not n={number!r}.")
    if builder.samples != 1:
        raise InvalidInputError("explode= makes rows of the n= choices of an answer; leave out samples=.")


def explode(out: pd.DataFrame, values: Sequence[Any], reader: Reader, prefix: str) -> pd.DataFrame:
    """Return the frame with a row for each choice, and a column that numbers them from 0.

    Args:
        out: the frame, one row per request.
        values: each row's list of choices' values; None without an answer.
        reader: makes the answer's columns.
        prefix: of the new columns.

    Usage is counted at the first choice and is 0 at the others, so that sums are unchanged. A row without an answer
    stays one row, with a missing choice number.
    """
    values = [None if value and len(value) == 1 and value[0] is None else value for value in values]
    counts = [len(value) if value else 1 for value in values]
    out = out.set_flags(allows_duplicate_labels=True)
    long = out.iloc[np.repeat(np.arange(len(out)), counts)]
    numbers = [number if value else None for value in values for number in range(len(value) if value else 1)]
    later = np.array([bool(number) for number in numbers], dtype=bool)

    def named(name: str) -> Any:
        return label_of(out, prefix + name)

    cells = reader.columns([each for value in values for each in (value or [None])], ())
    changed = {named(name): pd.Series(cells[name], index=long.index) for name in reader.names}
    changed |= {named(name): long[named(name)].mask(later, 0) for name in _BILLED}
    long = long.copy()
    for name, column in changed.items():
        long[name] = column
    position = list(long.columns).index(named(reader.name))
    long.insert(position, named(CHOICE), pd.Series(numbers, dtype="Int64", index=long.index))
    return long
