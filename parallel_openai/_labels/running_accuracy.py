"""Right labels while a run goes on: whether an answer is right, for the accuracy so far in the bar."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import pandas as pd

from parallel_openai._frames.columns.table import check_frame, find_column
from parallel_openai._labels.label_columns import Labelled, label_of
from parallel_openai._labels.label_pairs import LabelColumns, cells_of, gold_texts, label_text, text_reader
from parallel_openai._labels.question import Question
from parallel_openai.errors import InvalidInputError


def make_judge(df: pd.DataFrame, gold: Hashable, question: Question) -> Callable[[int, Any], bool | None]:
    """Tells of a row's number and its answer whether it is right; None where the row has no gold label.

    Raises:
        ColumnNotFoundError, InvalidInputError: there is no such column, or no label of it is one of the question's.
    """
    check_frame(df)
    find_column(df, gold, "gold=")
    if not question.single:
        raise InvalidInputError(
            f"gold= shows how many labels are right so far, of one label a row. Of the fields of a class, see that "
            f"afterwards: po.evaluate(out, gold={gold!r}, label={question.fields[0].name!r})."
        )
    [field] = question.fields
    choices = tuple(label_text(label) for label in field.choices.values())
    columns = LabelColumns(gold, None, "several" if field.kind == "several" else "one", choices)
    sets: dict[tuple[str, ...], set[str]] = {}  # one for each answer, and not one for each row
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
