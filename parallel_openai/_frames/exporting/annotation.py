"""Export labelled rows as Label Studio tasks and Argilla records."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
import pandas as pd

from parallel_openai._frames.columns.readable_columns import text_columns
from parallel_openai._frames.columns.run_info import last_run_of
from parallel_openai._frames.columns.table import column_text, has_column, is_missing, keys_of, numbers_of, rows_of
from parallel_openai._requests.schemas.label_text import read_label, read_several, text_of
from parallel_openai.errors import InvalidInputError

#: Columns other than the labels that annotation tools can hold.
_EXTRA_COLUMNS = ("model", "request_key", "label_reviewed")


def label_studio_tasks(out: pd.DataFrame, text: Hashable | Sequence[Hashable] | None) -> Iterator[dict[str, Any]]:
    """Yield tasks in Label Studio's import format, for a labelling interface such as

        <View>
          <Text name="text" value="$text"/>
          <Choices name="label" toName="text"><Choice value="positive"/><Choice value="negative"/></Choices>
        </View>

    (`choice="multiple"` for several labels per row, `<Number name="label" toName="text"/>` for a score,
    `<TextArea .../>` for free text).

    Source: https://labelstud.io/guide/predictions
    """
    rows = _LabelledRows(out, text)
    for row in rows:
        task: dict[str, Any] = {"data": row.texts}
        if row.labels:
            result = [rows.region(*pair) for pair in row.labels.items()]
            prediction = {"model_version": row.model, "score": row.confidence, "result": result}
            task["predictions"] = [_without_none(prediction)]
        if row.reviewed:
            task["annotations"] = [{"result": [rows.region(*pair) for pair in row.reviewed.items()]}]
        if row.key is not None:
            task["meta"] = {"request_key": row.key}
        yield task


def argilla_records(out: pd.DataFrame, text: Hashable | Sequence[Hashable] | None) -> Iterator[dict[str, Any]]:
    """Yield records for Argilla's `Record.from_dict` and `Dataset.records.from_json`.

    The dataset's fields and questions must be named like the text and label columns. A reviewer's label becomes a
    suggestion of type `human`, because a response would need the reviewer's Argilla account.
    """
    for number, row in enumerate(_LabelledRows(out, text)):
        suggestions = {name: _by_model(label, row) for name, label in row.labels.items()}
        for name, label in row.reviewed.items():
            suggestions[name] = {"value": label, "agent": "review", "type": "human"}
        # Argilla has no suggestion of no label.
        suggestions = {name: each for name, each in suggestions.items() if each["value"] != []}
        metadata = {} if row.key is None else {"request_key": row.key}
        yield {"id": f"row-{number}", "fields": row.texts, "metadata": metadata, "suggestions": suggestions}


def _by_model(label: Any, row: _Row) -> dict[str, Any]:
    """A model's suggestion. Argilla wants a score for each of several labels, and few characters in a name.

    Source: https://github.com/argilla-io/argilla, suggestions.py among the validators and schemas of its server
    """
    is_scored_each = isinstance(label, list) and row.confidence is not None
    score = [row.confidence] * len(label) if is_scored_each else row.confidence
    agent = re.sub(r"[^a-zA-Z0-9_:./-]+", " ", row.model or "")[:200].strip()
    return _without_none({"value": label, "score": score, "agent": agent or None, "type": "model"})


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class _Row:
    """One row for export; texts and labels are keyed by column name."""

    texts: Mapping[str, str]
    labels: Mapping[str, Any]
    reviewed: Mapping[str, Any]
    confidence: float | None
    model: str | None
    key: str | None


class _LabelledRows:
    def __init__(self, out: pd.DataFrame, text: Hashable | Sequence[Hashable] | None) -> None:
        run = last_run_of(out)
        prefix = run.prefix
        self._out, self._prefix = out, prefix
        self._texts = text_columns(out, text)
        self._text_names = [column_text(column) for column in self._texts]
        asked: Mapping[str, Mapping[str, Any]] = run.labels or {"label": {}}
        columns = [prefix + name for name in asked]
        self._fields = {column_text(prefix + name): field for name, field in asked.items()}
        self._labels: list[Hashable] = [column for column in columns if has_column(out, column)]
        if not self._labels:
            raise InvalidInputError(
                f"Annotation tools need labels, and the frame has no column {columns[0]!r}. Pass a frame that "
                "label_dataframe returned."
            )
        self._reviewed = prefix + (run.reviewed or columns[0].removeprefix(prefix))
        self._extras = {name: prefix + name for name in _EXTRA_COLUMNS if has_column(out, prefix + name)}

    def __iter__(self) -> Iterator[_Row]:
        texts = rows_of(self._out, self._texts)
        labels = rows_of(self._out, self._labels)
        extras = rows_of(self._out, list(self._extras.values())) if self._extras else repeat(())
        rows = zip(texts, labels, extras, self._confidences(), strict=False)
        for row_texts, row_labels, row_extras, confidence in rows:
            yield self._row(row_texts, row_labels, dict(zip(self._extras, row_extras, strict=True)), confidence)

    def _confidences(self) -> Sequence[float]:
        column = self._prefix + "confidence"
        if column in self._fields or not has_column(self._out, column):
            return [math.nan] * len(self._out)
        confidences: list[float] = numbers_of(self._out, column).tolist()
        return confidences

    def _row(self, texts: Sequence[Any], labels: Sequence[Any], extras: Mapping[str, Any], confidence: float) -> _Row:
        names = map(column_text, self._labels)
        given = {name: self._plain(name, label) for name, label in zip(names, labels, strict=True)}
        reviewed = self._plain(self._reviewed, extras.get("label_reviewed"))
        key = next(iter(keys_of(extras.get("request_key"))), None)
        return _Row(
            {name: "" if is_missing(text) else str(text) for name, text in zip(self._text_names, texts, strict=True)},
            {name: label for name, label in given.items() if label is not None},
            {} if reviewed is None else {self._reviewed: reviewed},
            None if math.isnan(confidence) else confidence,
            None if is_missing(extras.get("model")) else str(extras["model"]),
            key if isinstance(key, str) else None,
        )

    def _plain(self, name: str, label: Any) -> Any:
        """The label as annotation tools store it: a string, a list of strings, a number for a score, or None."""
        field = self._fields.get(name, {})
        kind, choices = field.get("kind"), field.get("labels") or ()
        if kind == "several" and isinstance(label, str):
            return read_several(label, choices)
        if isinstance(label, (list, tuple, np.ndarray)):
            return [_choice(each, choices) for each in label]
        if is_missing(label):
            return None
        is_number = isinstance(label, (int, float)) and not isinstance(label, bool)
        if kind == "score" or (kind is None and is_number):
            return int(label) if float(label).is_integer() else float(label)
        return _choice(label, choices)

    def region(self, name: str, label: Any) -> dict[str, Any]:
        """The label as a Label Studio region."""
        value: dict[str, Any]
        if isinstance(label, (int, float)):
            kind, value = "number", {"number": label}
        elif self._fields.get(name, {}).get("kind") == "text":
            kind, value = "textarea", {"text": [label]}
        else:
            kind, value = "choices", {"choices": label if isinstance(label, list) else [label]}
        return {"from_name": name, "to_name": self._text_names[0], "type": kind, "value": value}


def _choice(label: Any, choices: Sequence[str]) -> str:
    try:
        text: str = read_label(label, choices)
    except ValueError:  # the column was edited, or its labels are unknown
        return text_of(label)
    return text
