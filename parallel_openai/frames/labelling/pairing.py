"""Which columns of a frame hold the labels, and how its right labels and the model's are put side by side."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from parallel_openai.errors import InvalidInputError
from parallel_openai.frames.labelling.metrics import Bools, Pairs
from parallel_openai.frames.table import find_column, has_column, rows_of
from parallel_openai.requests.labels import text_of

Kind = Literal["one", "several", "score"]

#: In the place of a label where there is none.
NO_LABEL = "(none)"


@dataclass(frozen=True)
class LabelColumns:
    """The columns of a labelled frame, for one thing that was filled in.

    Attributes:
        label: the labels.
        confidence: how sure each is; None where that is not known.
        kind: one label a row, several, or a score.
        labels: the texts of the labels, in order; empty where they are not known but from the rows.
    """

    label: Hashable
    confidence: Hashable | None
    kind: Kind | None
    labels: tuple[str, ...]


def label_columns(out: pd.DataFrame, label: Hashable | None = None, confidence: Hashable | None = None) -> LabelColumns:
    """The columns of a frame that was labelled, by what its attrs say, where these are still there.

    Raises:
        ColumnNotFoundError, InvalidInputError: there is no such column, or several.
    """
    about = out.attrs.get("parallel_openai")
    about = about if isinstance(about, Mapping) else {}
    prefix = str(about.get("prefix", ""))
    label = find_column(out, prefix + str(about.get("answer", "label")) if label is None else label, "label=")
    told = about.get("labels")
    own = str(label).removeprefix(prefix)
    asked = told.get(own, {}) if isinstance(told, Mapping) else {}
    if confidence is None:
        guess = prefix + ("confidence" if own == "label" else f"{own}_confidence")
        confidence = guess if has_column(out, guess) else None
    else:
        find_column(out, confidence, "confidence=")
    dtype = out[label].dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return LabelColumns(label, confidence, "one", tuple(map(label_text, dtype.categories)))
    kind = asked.get("kind")
    labels = tuple(map(label_text, asked.get("labels", ())))
    return LabelColumns(label, confidence, kind if kind in ("one", "several", "score") else None, labels)


def label_text(label: Any) -> str:
    """A label as text, the same whether it is an Enum's member or its value, 1 or 1.0.

    >>> label_text(1.0), label_text("spam"), label_text(True)
    ('1', 'spam', 'true')
    """
    if type(label) is str:  # as most are, in columns of millions
        return label
    if isinstance(label, enum.Enum):
        label = label.value
    if isinstance(label, (bool, np.bool_)):
        return str(label).lower()
    if isinstance(label, (float, np.floating)) and float(label).is_integer():
        return str(int(label))
    return text_of(label)


def as_text(value: Any) -> str | None:
    """A cell's label as text; of several, whatever their order, one text for them all; None where there is none.

    >>> as_text(["b", "a"]), as_text(None)
    ('a, b', None)
    """
    if value is None:
        return None
    return ", ".join(sorted(map(label_text, value))) if _is_list(value) else label_text(value)


@dataclass(frozen=True)
class Paired:
    """Right and given labels, row by row.

    Attributes:
        kind: one label a row, several, or a score.
        labels: the texts of all labels, those of the question first.
        gold, given: the texts of each row: a list of them, empty where there is none.
        has_gold, has_label: whether there is one at all.
        strange: gold labels that are none of the question's, and how often.
    """

    kind: Kind
    labels: tuple[str, ...]
    gold: Sequence[Sequence[str]]
    given: Sequence[Sequence[str]]
    has_gold: Bools
    has_label: Bools
    strange: Mapping[str, int]

    @property
    def right(self) -> Bools:
        same = [set(gold) == set(given) for gold, given in zip(self.gold, self.given, strict=True)]
        right: Bools = np.array(same, dtype=bool) & self.has_label & self.has_gold
        return right

    def pairs(self, rows: Bools) -> Pairs:
        """Those of some rows, counted."""
        number = {text: at for at, text in enumerate(self.labels)}
        chosen: list[int] = np.flatnonzero(rows).tolist()
        if self.kind == "several":
            gold, given = (np.zeros((len(chosen), len(self.labels)), dtype=bool) for _ in range(2))
            for line, row in enumerate(chosen):
                gold[line, [number[text] for text in self.gold[row]]] = True
                given[line, [number[text] for text in self.given[row]]] = True
            return Pairs.of_sets(gold, given, self.has_label[chosen])
        gold_codes = np.array([number[self.gold[row][0]] for row in chosen], dtype="int64")
        given_codes = np.array([number[self.given[row][0]] if self.given[row] else -1 for row in chosen], dtype="int64")
        return Pairs.of_codes(gold_codes, given_codes, len(self.labels))


def pair(out: pd.DataFrame, columns: LabelColumns, gold: Hashable) -> Paired:
    """Put the right labels beside the given ones.

    Raises:
        InvalidInputError: no row has a right label, or none of these is one of the labels.
    """
    find_column(out, gold, "gold=")
    given_values, gold_values = (_cells(out, column) for column in (columns.label, gold))
    lists = any(_is_list(value) for value in [*given_values, *gold_values])
    kind: Kind = columns.kind or ("several" if lists else "one")
    given, right = (_texts(values, kind, name) for values, name in ((given_values, columns.label), (gold_values, gold)))
    has_gold = np.array([value is not None for value in gold_values], dtype=bool)
    has_label = np.array([value is not None for value in given_values], dtype=bool)
    if not has_gold.any():
        raise InvalidInputError(f"No row has a gold label: the column {gold!r} is empty.")
    labels, strange = _all_labels(columns, given, right, gold)
    if kind == "score":
        labels = tuple(sorted(labels, key=_number))
    return Paired(kind, labels, right, given, has_gold, has_label, strange)


def gold_texts(df: pd.DataFrame, gold: Hashable, columns: LabelColumns) -> list[list[str] | None]:
    """The right labels of each row as texts; None where there are none.

    Raises:
        InvalidInputError: none of them is one of the labels.
    """
    values = _cells(df, gold)
    texts = _texts(values, columns.kind or "one", gold)
    _all_labels(columns, (), texts, gold)
    return [None if value is None else row for value, row in zip(values, texts, strict=True)]


def _cells(out: pd.DataFrame, column: Hashable) -> list[Any]:
    return [value for (value,) in rows_of(out, [column])]


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple, set, frozenset, np.ndarray))


def _texts(values: Iterable[Any], kind: Kind, column: Hashable) -> list[list[str]]:
    texts: list[list[str]] = []
    alone: dict[str, list[str]] = {}  # one list for each text, and not one for each row
    for value in values:
        if value is None:
            texts.append([])
        elif kind == "several":
            if not _is_list(value):
                raise InvalidInputError(f"The column {column!r} must hold lists of labels, and has {value!r:.80}.")
            texts.append(list(dict.fromkeys(map(label_text, value))))
        elif _is_list(value):
            raise InvalidInputError(f"The column {column!r} must hold one label a row, and has {value!r:.80}.")
        else:
            text = label_text(value)
            texts.append(alone.setdefault(text, [text]))
    return texts


def _all_labels(
    columns: LabelColumns, given: Sequence[Sequence[str]], right: Sequence[Sequence[str]], gold: Hashable
) -> tuple[tuple[str, ...], dict[str, int]]:
    known = list(columns.labels) or sorted({text for row in given for text in row})
    counts = Counter(text for row in right for text in row)
    strange = {text: count for text, count in counts.items() if text not in known}
    if counts and len(strange) == len(counts) and known:
        raise InvalidInputError(
            f"No gold label in {gold!r} is one of the labels: {_few(strange)} there, {_few(known)} here. Give both the "
            f"same names, such as with out[{gold!r}].replace({{...}})."
        )
    others = sorted({text for row in given for text in row} - set(known) - set(strange))
    return (*known, *others, *sorted(strange)), strange


def _few(texts: Iterable[str]) -> str:
    every = list(texts)
    return ", ".join(map(repr, every[:5])) + (", ..." if len(every) > 5 else "")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidInputError(f"A score must be a number, not {text!r}.") from None
