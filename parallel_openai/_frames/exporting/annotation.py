"""Labelled rows for annotators: tasks for Label Studio, records for Argilla."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
import pandas as pd

from parallel_openai._frames.columns.readable_columns import text_columns
from parallel_openai._frames.columns.table import column_text, has_column, is_missing, last_run_of, rows_of
from parallel_openai._requests.schemas.label_schema import read_label, read_several, text_of
from parallel_openai.errors import InvalidInputError

#: Beside the answer, what an annotator's tool has a place for.
_BESIDE = ("confidence", "model", "request_key", "label_reviewed")


def label_studio_tasks(out: pd.DataFrame, text: Hashable | Sequence[Hashable] | None) -> Iterator[dict[str, Any]]:
    """Tasks as Label Studio's import takes them, for a labelling interface such as

        <View>
          <Text name="text" value="$text"/>
          <Choices name="label" toName="text"><Choice value="positive"/><Choice value="negative"/></Choices>
        </View>

    (`choice="multiple"` for several labels a row, `<Number name="label" toName="text"/>` for a score, `<TextArea .../>`
    for a text).
    Source: https://labelstud.io/guide/predictions
    """
    rows = _LabelledRows(out, text)
    for row in rows:
        task: dict[str, Any] = {"data": row.texts}
        if row.labels:
            result = [rows.region(*pair) for pair in row.labels.items()]
            told = _without_none({"model_version": row.model, "score": row.confidence, "result": result})
            task["predictions"] = [told]
        if row.judged:
            task["annotations"] = [{"result": [rows.region(*pair) for pair in row.judged.items()]}]
        if row.key is not None:
            task["meta"] = {"request_key": row.key}
        yield task


def argilla_records(out: pd.DataFrame, text: Hashable | Sequence[Hashable] | None) -> Iterator[dict[str, Any]]:
    """Records as Argilla's `Record.from_dict` and `Dataset.records.from_json` take them; the fields and questions of
    its dataset must bear the names of the text and label columns. What a person judged goes in as a human's suggestion,
    since a response would need that person's Argilla account.
    """
    for number, row in enumerate(_LabelledRows(out, text)):
        suggestions = {
            name: _without_none({"value": label, "score": row.confidence, "agent": row.model, "type": "model"})
            for name, label in row.labels.items()
        }
        for name, label in row.judged.items():
            suggestions[name] = {"value": label, "agent": "review", "type": "human"}
        metadata = {} if row.key is None else {"request_key": row.key}
        yield {"id": f"row-{number}", "fields": row.texts, "metadata": metadata, "suggestions": suggestions}


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class _Row:
    """What is told of a row: its texts and labels by their columns' names, and what stands beside them."""

    texts: Mapping[str, str]
    labels: Mapping[str, Any]
    judged: Mapping[str, Any]
    confidence: float | None
    model: str | None
    key: str | None


class _LabelledRows:
    """A frame's rows as `_Row`s.

    Attributes:
        shown: the names of the text columns.
    """

    def __init__(self, out: pd.DataFrame, text: Hashable | Sequence[Hashable] | None) -> None:
        about = last_run_of(out)
        prefix = about.get("prefix", "")
        self._out = out
        self._texts = text_columns(out, text)
        self.shown = [column_text(column) for column in self._texts]
        asked: Mapping[str, Any] = about.get("labels") or {"label": {}}
        columns = [prefix + name for name in asked]
        self._asked = {column_text(prefix + name): told for name, told in asked.items()}
        self._labels: list[Hashable] = [column for column in columns if has_column(out, column)]
        if not self._labels:
            raise InvalidInputError(
                f"An annotator's tool wants labels, and the frame has no column {columns[0]!r}: it is for what "
                "label_dataframe gives."
            )
        self._judged = prefix + (about.get("reviewed") or columns[0].removeprefix(prefix))
        self._beside = {name: prefix + name for name in _BESIDE if has_column(out, prefix + name)}

    def __iter__(self) -> Iterator[_Row]:
        texts = rows_of(self._out, self._texts)
        labels = rows_of(self._out, self._labels)
        beside = rows_of(self._out, list(self._beside.values())) if self._beside else repeat(())
        for said, given, rest in zip(texts, labels, beside, strict=False):
            yield self._row(said, given, dict(zip(self._beside, rest, strict=True)))

    def _row(self, texts: Sequence[Any], labels: Sequence[Any], beside: Mapping[str, Any]) -> _Row:
        names = map(column_text, self._labels)
        given = {name: self._plain(name, label) for name, label in zip(names, labels, strict=True)}
        judged = self._plain(self._judged, beside.get("label_reviewed"))
        key = beside.get("request_key")
        key = key[0] if isinstance(key, list) and key else key
        return _Row(
            {name: "" if is_missing(text) else str(text) for name, text in zip(self.shown, texts, strict=True)},
            {name: label for name, label in given.items() if label is not None},
            {} if judged is None else {self._judged: judged},
            None if is_missing(beside.get("confidence")) else float(beside["confidence"]),
            None if is_missing(beside.get("model")) else str(beside["model"]),
            key if isinstance(key, str) else None,
        )

    def _plain(self, name: str, label: Any) -> Any:
        """A label as annotators' tools have it: a text for a choice, a list of them, a number for a score, or None."""
        told = self._asked.get(name, {})
        kind, choices = told.get("kind"), told.get("labels") or ()
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
        """A label as one of Label Studio's regions."""
        value: dict[str, Any]
        if isinstance(label, (int, float)):
            kind, value = "number", {"number": label}
        elif self._asked.get(name, {}).get("kind") == "text":
            kind, value = "textarea", {"text": [label]}
        else:
            kind, value = "choices", {"choices": label if isinstance(label, list) else [label]}
        return {"from_name": name, "to_name": self.shown[0], "type": kind, "value": value}


def _choice(label: Any, choices: Sequence[str]) -> str:
    try:
        text: str = read_label(label, choices)
    except ValueError:  # the column was edited, or nothing is known of its labels
        return text_of(label)
    return text
