"""Show rows that are labelled differently."""

from __future__ import annotations

import pandas as pd

from parallel_openai._display.blocks import Block, Sentence, Table, counted, shortened
from parallel_openai._frames.columns.table import column_text

#: Rows in the table.
ROWS = 20


def rows_that_differ(differences: pd.DataFrame) -> list[Block]:
    """Return the first rows as a table, which renders as nothing if it is empty."""
    shown = differences.head(ROWS)
    cells = shown.astype(object).where(shown.notna(), "").itertuples(index=False, name=None)
    rows = [
        (shortened(str(index), 60), *(shortened(str(value)) for value in row))
        for index, row in zip(shown.index, cells, strict=True)
    ]
    head = ("", *map(column_text, shown.columns))
    more = len(differences) - len(shown)
    rest = [Sentence(f"and {more:,} more")] if more else []
    return [Table(f"{counted(len(differences), 'row')} labelled differently", head, rows), *rest]
