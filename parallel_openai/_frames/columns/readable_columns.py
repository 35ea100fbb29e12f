"""Choose the text columns of a result frame to show to people."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import pandas as pd

from parallel_openai._frames.columns.answer_columns import COLUMNS
from parallel_openai._frames.columns.run_info import last_run_of
from parallel_openai._frames.columns.table import columns_by_text, find_column, has_column
from parallel_openai._requests.template import parse_template
from parallel_openai.errors import InvalidInputError

#: Columns that a call or a review may add, in addition to COLUMNS.
_ADDED = ("reasoning", "tool_calls", "label_reason", "label_reviewed", "review_note", "confidence", "votes")
_OURS = {*COLUMNS, *_ADDED, "response", "label"}


def text_columns(out: pd.DataFrame, text: Hashable | Sequence[Hashable] | None) -> list[Hashable]:
    """The named columns, or else the columns of the prompt, or else all text columns that no run added."""
    if text is not None:
        several = isinstance(text, (list, tuple)) and not has_column(out, text)
        names: list[Hashable] = list(text) if several else [text]  # type: ignore[call-overload]
        return [find_column(out, name, "text") for name in names]
    run = last_run_of(out)
    prompt = run.prompt
    if has_column(out, prompt):
        return [prompt]
    by_text = columns_by_text(out)
    if isinstance(prompt, str) and not run.made_by_function:
        try:
            columns = [by_text[name] for name in parse_template(prompt, list(by_text)).columns if name in by_text]
        except InvalidInputError:  # its columns were renamed or dropped
            columns = []
        if columns:
            return columns
    ours = {run.prefix + name for name in (*_OURS, *(run.columns or run.labels))}
    # Without rows, pandas 2 cannot distinguish strings from other objects.
    kinds = ("string",) if len(out) else ("string", "empty")
    columns = [
        name
        for name in dict.fromkeys(out.columns)
        if name not in ours and pd.api.types.infer_dtype(out[name], skipna=True) in kinds
    ]
    if not columns:
        raise InvalidInputError("The frame has no text column to show; name one with text=.")
    return columns
