"""Find the label columns of a frame, and pair the model's labels with the gold labels."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from parallel_openai._frames.columns.run_info import RunInfo, runs_of
from parallel_openai._frames.columns.table import find_column, has_column, is_missing, keys_of, rows_of
from parallel_openai._json import dumps
from parallel_openai._labels.evaluation.metrics import Bools, Pairs, kappa
from parallel_openai._requests.schemas.label_text import spelling, text_of
from parallel_openai.errors import InvalidInputError

Kind = Literal["one", "several", "score"]

#: Stands for a missing label in a confusion matrix.
NO_LABEL = "(none)"


@dataclass(frozen=True)
class LabelColumns:
    """The columns of a labelled frame that belong to one field."""

    label: Hashable  # the column of labels
    confidence: Hashable | None  # the column of confidences, if there is one
    kind: Kind | None  # one label per row, several, or a score; None if unknown
    labels: tuple[str, ...]  # the labels as strings, in order; empty if they are known only from the rows
    run: RunInfo = field(default_factory=RunInfo)  # the run that filled the column; an empty one if unknown
    prefix: str = ""  # of that run's columns


def label_columns(out: pd.DataFrame, label: Hashable | None = None, confidence: Hashable | None = None) -> LabelColumns:
    """Find the label columns by the frame's attrs, or by their names if the attrs are lost."""
    label = find_column(out, default_label(out) if label is None else label, "label=")
    found, own = run_of(out, label), str(label)
    run = found or RunInfo(prefix=own.removesuffix("label") if own.endswith("label") else "")
    prefix = run.prefix
    own = own.removeprefix(prefix)
    asked = run.labels.get(own, {})
    if confidence is None:
        guess = prefix + ("confidence" if own == "label" else f"{own}_confidence")
        is_label = guess.removeprefix(prefix) in run.labels
        confidence = guess if has_column(out, guess) and not is_label else None
    else:
        find_column(out, confidence, "confidence=")
    dtype = out[label].dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return LabelColumns(label, confidence, "one", tuple(map(label_text, dtype.categories)), run, prefix)
    kind = asked.get("kind")
    labels = tuple(map(label_text, asked.get("labels", ())))
    return LabelColumns(label, confidence, kind if kind in ("one", "several", "score") else None, labels, run, prefix)


def default_label(out: pd.DataFrame) -> str:
    """The label column of the last run that filled one."""
    run = next((run for run in runs_of(out) if run.labels), RunInfo())
    return f"{run.prefix}{run.answer or 'label'}"


def run_of(out: pd.DataFrame, label: Hashable) -> RunInfo | None:
    """The run that filled a label column, or one derived from it (`label_reviewed`); None if unknown.

    A frame that was labelled twice holds the labels of both runs.
    """
    runs = [(f"{run.prefix}{name}", run) for run in runs_of(out) for name in run.labels]
    exact = [run for name, run in runs if name == label]
    return next(iter(exact or [run for name, run in runs if str(label).startswith(f"{name}_")]), None)


def label_text(label: Any) -> str:
    """A label as a string, the same for an Enum member and its value, and for 1 and 1.0.

    >>> label_text(1.0), label_text("spam"), label_text(True)
    ('1', 'spam', 'true')
    """
    if type(label) is str:  # fast path for most rows
        return label
    if isinstance(label, enum.Enum):
        label = label.value
    if isinstance(label, (bool, np.bool_)):
        return str(label).lower()
    if isinstance(label, (float, np.floating)) and float(label).is_integer():
        return str(int(label))
    return text_of(label)


def text_reader(*columns: Iterable[Any]) -> Callable[[Any], str]:
    """Return `label_text`; if any label is a number or a bool, a variant that also takes the strings which files and
    spreadsheets make of these ("2.0", "True", "TRUE") for them.

    >>> text_reader([True], ["True"])("True"), text_reader(["True"])("True"), text_reader([2], ["2.0"])("2.0")
    ('true', 'True', '2')
    """
    cells = (value for column in columns for value in column)
    labels = (each for cell in cells for each in (cell if _is_list(cell) else (cell,)))
    if not any(isinstance(label, (bool, int, float, np.bool_, np.number)) for label in labels):
        return label_text
    return lambda label: spelling(label_text(label))


def as_text(value: Any, text: Callable[[Any], str] = label_text) -> str | None:
    """A cell's label as a string; several as JSON, whatever their order; None if it is missing.

    >>> as_text(["b", "a"]), as_text(["a, b"]), as_text(None)
    ('["a","b"]', '["a, b"]', None)
    """
    if value is None:
        return None
    return dumps(sorted(map(text, value))).decode() if _is_list(value) else text(value)


def label_order(columns: Iterable[pd.Series[Any]], texts: Iterable[str]) -> dict[str, float] | None:
    """Each label's position: numbers by value, ordered categories by rank; None if the labels have no order, or two
    columns declare different ones.
    """
    cells, labels = list(columns), list(texts)
    if any(map(_are_numbers, cells)):
        try:
            return {text: float(text) for text in labels}
        except ValueError:
            return None
    dtypes = [each.dtype for each in cells]
    ordered = [each for each in dtypes if isinstance(each, pd.CategoricalDtype) and each.ordered]
    declared = {tuple(map(label_text, each.categories)) for each in ordered}
    [order] = declared if len(declared) == 1 else [()]
    return {text: float(rank) for rank, text in enumerate(order)} if order and set(labels) <= set(order) else None


def _are_numbers(column: pd.Series[Any]) -> bool:
    dtype = column.dtype
    values = dtype.categories if isinstance(dtype, pd.CategoricalDtype) else column.dropna()
    plain = {type(value.value if isinstance(value, enum.Enum) else value) for value in values}
    return bool(plain) and all(issubclass(each, (int, float, np.number)) and each is not bool for each in plain)


@dataclass(frozen=True)
class Paired:
    """Gold and given labels, row by row, as strings."""

    kind: Kind  # one label per row, several, or a score
    labels: tuple[str, ...]  # all labels, those of the question first
    # Each row's labels, which may be none.
    gold: Sequence[Sequence[str]]
    given: Sequence[Sequence[str]]
    # Whether the row counts and has one.
    has_gold: Bools
    has_label: Bools
    unknown: Mapping[str, int]  # gold labels that are not among the question's, and how often they occur
    excluded: int = 0  # the number of rows with a gold label that were left out

    @property
    def right(self) -> Bools:
        same = [set(gold) == set(given) for gold, given in zip(self.gold, self.given, strict=True)]
        right: Bools = np.array(same, dtype=bool) & self.has_label & self.has_gold
        return right

    def kappa(self, rows: Bools, order: Mapping[str, float] | None) -> float:
        """Cohen's kappa on some rows that have both; a set of several labels counts as one category."""
        if self.kind != "several":
            pairs = self.pairs(rows)
            table = pairs.gold.T @ (pairs.given * pairs.counts[:, None])
            return kappa(table, None if order is None else np.array([order[text] for text in self.labels]))
        chosen: list[int] = np.flatnonzero(rows).tolist()
        sides = [[tuple(sorted(texts[row])) for row in chosen] for texts in (self.gold, self.given)]
        codes, kinds = pd.factorize(pd.Series([*sides[0], *sides[1]], dtype=object))
        table = np.zeros((len(kinds), len(kinds)))
        np.add.at(table, (codes[: len(chosen)], codes[len(chosen) :]), 1.0)
        return kappa(table)

    def pairs(self, rows: Bools) -> Pairs:
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


def example_rows(out: pd.DataFrame, label: Hashable | None) -> Bools:
    """Which rows were among the few-shot examples, by the keys of their requests."""
    columns = label_columns(out, label)
    examples, name = set(columns.run.example_keys), f"{columns.prefix}request_key"
    if not examples or not has_column(out, name):
        return np.zeros(len(out), dtype=bool)
    return np.array([bool(examples.intersection(keys_of(keys))) for keys in out[name]], dtype=bool)


def pair(out: pd.DataFrame, columns: LabelColumns, gold: Hashable, excluded: Bools | None = None) -> Paired:
    """Pair gold and given labels; gold labels of the rows `excluded` are ignored."""
    find_column(out, gold, "gold=")
    given_values, gold_values = (cells_of(out[column]) for column in (columns.label, gold))
    lists = any(_is_list(value) for value in [*given_values, *gold_values])
    kind: Kind = columns.kind or ("several" if lists else "one")
    text = text_reader(given_values, gold_values)
    given, right = (
        _texts(values, kind, name, text) for values, name in ((given_values, columns.label), (gold_values, gold))
    )
    has_gold = np.array([value is not None for value in gold_values], dtype=bool)
    has_label = np.array([value is not None for value in given_values], dtype=bool)
    if not has_gold.any():
        raise InvalidInputError(f"No row has a gold label: the column {gold!r} is empty.")
    left_out = 0 if excluded is None else int((has_gold & excluded).sum())
    if excluded is not None:
        has_gold &= ~excluded
    if not has_gold.any():
        raise InvalidInputError(f"All rows with a gold label in {gold!r} are among the few-shot examples.")
    labels, unknown = _all_labels(columns, given, right, gold, text)
    if kind == "score":
        labels = tuple(sorted(labels, key=_number))
    return Paired(kind, labels, right, given, has_gold, has_label, unknown, left_out)


def gold_texts(
    cells: Sequence[Any], gold: Hashable, columns: LabelColumns, read: Callable[[Any], str]
) -> list[list[str] | None]:
    """Each row's gold labels as strings; None if it has none."""
    texts = _texts(cells, columns.kind or "one", gold, read)
    _all_labels(columns, (), texts, gold, read)
    return [None if value is None else row for value, row in zip(cells, texts, strict=True)]


def cells_of(column: pd.Series[Any]) -> list[Any]:
    """A column's labels; None if missing or blank, and lists without their missing items."""
    return [_cleaned(value) for (value,) in rows_of(column.to_frame("label"), ["label"])]


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.strip() else None
    if not _is_list(value):
        return value
    kept = [each for each in value if not is_missing(each) and not (isinstance(each, str) and not each.strip())]
    return kept if kept or not len(value) else None


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple, set, frozenset, np.ndarray))


def _texts(values: Iterable[Any], kind: Kind, column: Hashable, read: Callable[[Any], str]) -> list[list[str]]:
    texts: list[list[str]] = []
    singles: dict[str, list[str]] = {}  # one list per label instead of one per row saves memory
    for value in values:
        if value is None:
            texts.append([])
        elif kind == "several":
            if not _is_list(value):
                raise InvalidInputError(f"The column {column!r} must hold lists of labels, and has {value!r:.80}.")
            texts.append(list(dict.fromkeys(map(read, value))))
        elif _is_list(value):
            raise InvalidInputError(f"The column {column!r} must hold one label per row, and has {value!r:.80}.")
        else:
            text = read(value)
            texts.append(singles.setdefault(text, [text]))
    return texts


def _all_labels(
    columns: LabelColumns,
    given: Sequence[Sequence[str]],
    right: Sequence[Sequence[str]],
    gold: Hashable,
    read: Callable[[Any], str],
) -> tuple[tuple[str, ...], dict[str, int]]:
    known = list(map(read, columns.labels)) or sorted({text for row in given for text in row})
    counts = Counter(text for row in right for text in row)
    unknown = {text: count for text, count in counts.items() if text not in known}
    if counts and len(unknown) == len(counts) and known:
        raise InvalidInputError(
            f"No gold label in {gold!r} is one of the labels: {_few(unknown)} there, {_few(known)} here. Give both the "
            f"same names, such as with out[{gold!r}].replace({{...}})."
        )
    others = sorted({text for row in given for text in row} - set(known) - set(unknown))
    return (*known, *others, *sorted(unknown)), unknown


def _few(texts: Iterable[str]) -> str:
    every = list(texts)
    return ", ".join(map(repr, every[:5])) + (", ..." if len(every) > 5 else "")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidInputError(f"A score must be a number, not {text!r}.") from None
