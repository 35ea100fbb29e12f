"""The labels a reviewer can choose: the column's values, and the strings for them in the widget and in files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from parallel_openai._frames.columns.answer_columns import object_column
from parallel_openai._frames.columns.table import is_missing
from parallel_openai._requests.schemas.label_text import read_label, read_several, text_of
from parallel_openai.errors import InvalidInputError


@dataclass(frozen=True)
class Choices:
    """The labels to choose from."""

    by_text: Mapping[str, Any]  # the labels by their strings
    multi: bool  # whether a row can have several

    def text(self, label: Any) -> Any:
        """A label as a string, a list as a list of strings, None if it is missing."""
        if isinstance(label, (list, tuple, np.ndarray)):
            return [self._known(each) or text_of(each) for each in label]
        return None if is_missing(label) else self._known(label) or text_of(label)

    def _known(self, label: Any) -> str | None:
        try:
            found: str = read_label(label, self.by_text)
        except ValueError:
            return None
        return found

    def checked(self, label: Any) -> str | list[str] | None:
        """A label as the file of corrections stores it."""
        several = isinstance(label, (list, tuple, set, frozenset, np.ndarray))
        if not several and is_missing(label):
            return None
        if several and not self.multi:
            raise InvalidInputError(f"Rows have one label here, and {label!r} are several.")
        chosen = [self._checked(each) for each in (label if several else [label])]
        return [each for each in self.by_text if each in chosen] if self.multi else chosen[0]

    def _checked(self, label: Any) -> str:
        text = self._known(label)
        if text is None:
            raise InvalidInputError(f"There is no label {text_of(label)!r}; there are: {', '.join(self.by_text)}.")
        return text

    def read(self, cell: str) -> str | list[str] | None:
        """The label in a spreadsheet's cell; None if it is empty."""
        if not cell.strip() and cell not in self.by_text:
            return None
        if not self.multi:
            return self.checked(cell)
        try:
            return self.checked(read_several(cell, self.by_text))
        except ValueError as error:
            raise InvalidInputError(f"There is no label {cell!r}: it {error}.") from None

    def label(self, text: Any) -> Any:
        """The label itself, such as an Enum member or number; a string that is no longer a choice is returned as is."""
        if isinstance(text, list):
            return [self.by_text.get(each, each) for each in text]
        return self.by_text.get(text, text)

    def column(self, texts: Sequence[Any], like: pd.Series[Any]) -> Any:
        labels = [None if text is None else self.label(text) for text in texts]
        if isinstance(like.dtype, pd.CategoricalDtype):
            known = list(like.cat.categories)
            needed = [*self.by_text.values(), *(label for label in labels if label is not None)]
            more = [label for label in dict.fromkeys(needed) if label not in known]
            # With another dtype, members of a `class Tone(str, Enum)` would become plain strings.
            categories = pd.Index([*known, *more], dtype=object if like.cat.categories.dtype == object else None)
            return pd.Categorical(labels, categories=categories, ordered=bool(like.cat.ordered))
        types = {type(label) for label in labels} - {type(None)}
        if pd.api.types.is_integer_dtype(like.dtype) and types <= {int}:
            return pd.array(labels, dtype="Int64")
        if pd.api.types.is_bool_dtype(like.dtype) and types <= {bool}:
            return pd.array(labels, dtype="boolean")
        if isinstance(like.dtype, pd.StringDtype):
            return pd.array(labels, dtype=like.dtype)
        return object_column(labels)


def choices_of(cells: pd.Series[Any], labels: Iterable[Any] | None, asked: Mapping[str, Any]) -> Choices:
    """The choices in `labels`, or else the column's categories or values and the labels of the run."""
    multi = asked.get("kind") == "several" or bool(
        cells.map(lambda value: isinstance(value, (list, tuple, np.ndarray))).any()
    )
    if labels is not None and (isinstance(labels, str) or not isinstance(labels, Iterable)):
        raise InvalidInputError(f"labels must be a list of labels, not {labels!r:.200}.")
    by_text = {text_of(value): value for value in (_found(cells, multi=multi) if labels is None else labels)}
    if labels is None and asked.get("labels"):  # also those that the model gave to no row
        by_text = _of_the_question(asked["labels"], list(by_text.values()))
    if not by_text:
        raise InvalidInputError(f"The column {cells.name!r} holds no label to choose from; name them with labels=.")
    return Choices(by_text, multi)


def _of_the_question(texts: Sequence[str], found: Sequence[Any]) -> dict[str, Any]:
    """The run's labels by their strings, with the type of those in the column."""
    labels: dict[str, Any] = {text: text for text in texts}
    kinds = {type(label) for label in found}
    if kinds == {bool}:
        labels = {text: text.lower() == "true" for text in texts}
    elif kinds and kinds <= {int, float} and all(text.lstrip("+-").isdecimal() for text in texts):
        labels = {text: int(text) for text in texts}
    elif kinds == {float} and all(map(_is_fraction, texts)):
        labels = {text: float(text) for text in texts}
    for label in found:
        try:
            text = read_label(label, texts)
        except ValueError:
            continue  # the column was edited
        if type(label) is not float or text_of(label) == text:
            labels[text] = label
    return labels


def _is_fraction(text: str) -> bool:
    try:
        return text_of(float(text)) == text
    except ValueError:
        return False


def _found(cells: pd.Series[Any], *, multi: bool) -> Iterable[Any]:
    if isinstance(cells.dtype, pd.CategoricalDtype):
        return list(cells.cat.categories)
    if multi:
        return dict.fromkeys(
            label for value in cells if isinstance(value, (list, tuple, np.ndarray)) for label in value
        )
    return sorted(cells.dropna().unique().tolist(), key=lambda value: (str(type(value)), value))
