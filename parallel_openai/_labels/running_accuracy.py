"""Judge answers against gold labels during a run, for the accuracy in the progress bar."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import pandas as pd

from parallel_openai._frames.columns.table import find_column
from parallel_openai._labels.label_columns import Labelled, label_of
from parallel_openai._labels.label_pairs import LabelColumns, cells_of, gold_texts, label_text, text_reader
from parallel_openai._labels.question import Question
from parallel_openai.errors import InvalidInputError


def make_judge(df: pd.DataFrame, gold: Hashable, question: Question) -> Callable[[int, Any], bool | None]:
    """Return a function of a row's number and answer: whether it is right, or None if the row has no gold label."""
    find_column(df, gold, "gold=")
    if not question.single:
        raise InvalidInputError(
            f"gold= works with one label per row, not with the fields of a class. Evaluate these afterwards: "
            f"po.evaluate(out, gold={gold!r}, label={question.fields[0].name!r})."
        )
    [field] = question.fields
    choices = tuple(label_text(label) for label in field.choices.values())
    columns = LabelColumns(gold, None, "several" if field.kind == "several" else "one", choices)
    sets: dict[tuple[str, ...], set[str]] = {}  # one set per distinct answer instead of one per row saves memory
    cells = cells_of(df[gold])
    read = text_reader(cells, field.choices.values())
    right = [
        None if texts is None else sets.setdefault(tuple(texts), set(texts))
        for texts in gold_texts(cells, gold, columns, read)
    ]

    def judge(row: int, labelled: Labelled) -> bool | None:
        expected = right[row]
        if expected is None:
            return None
        given = label_of(labelled, field, question)
        return expected == set(map(read, given if isinstance(given, list) else [given]))

    return judge
