"""Rows that are labelled differently, as HTML."""

from __future__ import annotations

from typing import Any

import pandas as pd

from parallel_openai._display.html import name, table
from parallel_openai._frames.columns.table import column_text

#: Rows that are shown, and how much of a long text.
ROWS, TEXT = 20, 160


def rows_that_differ(differences: pd.DataFrame) -> str:
    """The first of them as a table."""
    shown = differences.head(ROWS)
    head = ("", *(name(column_text(column)) for column in shown.columns))
    cells = shown.astype(object).where(shown.notna(), "").itertuples(index=False, name=None)
    rows = [
        (name(str(index)[:60]), *(name(_short(value)) for value in row))
        for index, row in zip(shown.index, cells, strict=True)
    ]
    more = len(differences) - len(shown)
    rest = f'<div class="po-dim">and {more:,} more</div>' if more > 0 else ""
    return table(f"{len(differences):,} rows labelled differently", head, rows) + rest


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= TEXT else text[: TEXT - 1].rstrip() + "…"
