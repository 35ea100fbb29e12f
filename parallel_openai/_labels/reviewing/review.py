"""`review`: go over labels by hand, the least confident first, and keep every correction."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from parallel_openai._arguments import path_of
from parallel_openai._disk.file_ownership import check_own
from parallel_openai._display.html import to_html
from parallel_openai._frames.columns.readable_columns import text_columns
from parallel_openai._frames.columns.run_info import ATTRS, last_run_of
from parallel_openai._frames.columns.table import (
    check_frame,
    column_text,
    find_column,
    has_column,
    is_missing,
    label_of,
    numbers_of,
)
from parallel_openai._frames.journal_path import USED
from parallel_openai._labels.label_pairs import label_columns, run_of
from parallel_openai._labels.reviewing import review_sheet as table
from parallel_openai._labels.reviewing.choices import choices_of
from parallel_openai._labels.reviewing.judgements import Judgement, Judgements
from parallel_openai._labels.reviewing.review_order import review_order, row_keys
from parallel_openai._requests.schemas.label_text import text_of
from parallel_openai.errors import InvalidInputError, MissingDependencyError

if TYPE_CHECKING:
    from parallel_openai._labels.reviewing.widget import ReviewWidget

#: The columns that `review` adds to a frame.
LABEL, NOTE = "label_reviewed", "review_note"


def review(
    out: pd.DataFrame,
    *,
    text: Hashable | Sequence[Hashable] | None = None,
    label: Hashable = None,
    labels: Iterable[Any] | None = None,
    save_to: str | os.PathLike[str] | None = None,
    sort: bool = True,
) -> Review:
    """Review the labels of a frame in the notebook: it shows the text and the model's label, keys 1 to 9 choose.

    As the last expression of a cell it is a widget (JupyterLab, Notebook 7, VS Code, Colab; `pip install anywidget`).
    Each choice is on disk before the next row is shown, so nothing is lost if the kernel dies, and the same call
    continues where you stopped. Without widgets it is a table, and `to_csv` and `read_csv` exchange the rows with a
    spreadsheet.

    Args:
        out: what `label_dataframe` returned, or a part of it.
        text: the columns to show; None: those the prompt was made of.
        label: the column of labels; None: that of the run (`label`).
        labels: the labels to choose from; None: those of the run.
        save_to: the file of corrections; None: next to the journal, with the suffix `.review.jsonl`.
        sort: True for rows without a label first, then the least confident. False: the frame's order.

    Returns:
        The review. `review.frame()` is the frame with the columns `label_reviewed` and `review_note`.

    Raises:
        InvalidInputError: a column is missing, or there are no labels to choose from.

    >>> import parallel_openai as po
    >>> df = pd.DataFrame({"text": ["A wonderful lamp.", "It broke in a week, terrible."]})
    >>> with po.local.simulator.serve() as server:
    ...     out = po.label_dataframe(df, "What is the sentiment? {text}", labels=["positive", "negative"],
    ...                              model="gpt-4o-mini", client=po.Client(server.base_url), progress=False)
    >>> review = po.review(out)
    >>> review.correct(1, "positive", note="meant as a joke")
    >>> review.frame()["label_reviewed"].tolist()
    [nan, 'positive']
    """
    return Review(out, text, label, labels, save_to, sort)


class Review:
    """A review of a frame's labels, made by `review`.

    Attributes:
        labels: the labels to choose from, as strings.
        multi: whether a row can have several.
        path: the file of corrections.
    """

    def __init__(
        self,
        out: pd.DataFrame,
        text: Hashable | Sequence[Hashable] | None,
        label: Hashable,
        labels: Iterable[Any] | None,
        save_to: str | os.PathLike[str] | None,
        sort: bool,
    ) -> None:
        check_frame(out)
        self.out = out
        last = last_run_of(out)
        if label is None:
            first = next((name for name, field in last.labels.items() if field.get("kind") != "text"), "label")
            label = last.prefix + first
        self._label = find_column(out, label, "review")
        self._run = run_of(out, label) or last
        self._prefix = self._run.prefix
        cells = out[self._label]
        self._choices = choices_of(cells, labels, self._run.labels.get(str(self._label).removeprefix(self._prefix), {}))
        self.labels, self.multi = list(self._choices.by_text), self._choices.multi
        self._text_columns = text_columns(out, text)
        self.path = path_of(save_to, "save_to") if save_to is not None else self._path()
        self._corrections = Judgements(self.path)
        self._row_keys = row_keys(out, self._prefix + "request_key", self._text_columns)
        confidence = label_columns(out, self._label).confidence
        self._confidences = None if confidence is None else numbers_of(out, confidence)
        self._order = review_order(out, self._row_keys, self._text_columns, self._label, self._confidences, sort=sort)
        self._queued = {self._row_keys[row] for row in self._order}
        self._open = {key for key in self._queued if self._corrections.get(key) is None}
        self._cells = self._columns()
        self._model_labels = [self._choices.text(value) for value in cells.tolist()]
        self._widget: ReviewWidget | None = None

    def __len__(self) -> int:
        return len(self._order)

    @property
    def reviewed(self) -> int:
        """How many of the rows have been reviewed."""
        return len(self._order) - len(self._open)

    def frame(self) -> pd.DataFrame:
        """The frame with `label_reviewed`, missing if a row was not reviewed, and `review_note`."""
        given = [self._corrections.get(key) for key in self._row_keys]
        texts = [None if each is None else each.label for each in given]
        notes = [self._corrections.note(key) or None for key in self._row_keys]
        out = self.out.copy(deep=False)
        if ATTRS in self.out.attrs and self._run == last_run_of(self.out):  # exports read this
            judged = str(self._label).removeprefix(self._prefix)
            out.attrs = {**self.out.attrs, ATTRS: replace(self._run, reviewed=judged).dump()}
        out[label_of(out, self._prefix + LABEL)] = self._choices.column(texts, self.out[self._label])
        out[label_of(out, self._prefix + NOTE)] = pd.array(notes, dtype="string")
        return out

    def correct(self, row: Hashable, label: Any, *, note: str = "") -> None:
        """Set the label of one row from code.

        Args:
            row: its label in the frame's index.
            label: the right label (a list if rows have several); None undoes the correction.
            note: a note to keep with it.

        Raises:
            InvalidInputError: there is no such row, or several, or no such label.
        """
        rows = np.flatnonzero(self.out.index == row)
        if len(rows) != 1:
            found = "no row" if not len(rows) else f"{len(rows)} rows"
            raise InvalidInputError(f"The index has {found} {row!r}.")
        self._judge(int(rows[0]), self._choices.checked(label), note)

    def to_csv(self, path: str | os.PathLike[str], *, spreadsheet: bool = True) -> int:
        """Write the rows in the order of the review for a spreadsheet, whose column `label_reviewed` you then fill in.

        Several labels are written as `hot | thick`, and an empty list as `[]`.

        Args:
            path: the file.
            spreadsheet: whether cells that a spreadsheet would run as formulas (`=1+1`, `@name`) get an apostrophe in
                front, which `read_csv` removes. False: for other tools, unchanged.

        Returns:
            The number of rows.

        Raises:
            InvalidInputError: the file cannot be written.
        """
        return table.to_csv(self._rows(), path_of(path, "path"), escape=spreadsheet)

    def read_csv(self, path: str | os.PathLike[str]) -> int:
        """Read the labels and notes that were filled in.

        Returns:
            The number of new or changed rows.

        Raises:
            InvalidInputError: `to_csv` did not write this file, or a label in it does not exist; nothing is changed.
        """
        changes = []
        rows = {key: row for row, key in enumerate(self._row_keys)}
        for line, (key, label, note) in table.read_csv(path_of(path, "path")):
            if key not in rows:
                raise InvalidInputError(f"Line {line} of {path}: no row of this frame has the request_key {key!r}.")
            try:
                checked = self._choices.read(label)
            except InvalidInputError as error:
                raise InvalidInputError(f"Line {line} of {path}: {error}") from None
            before = self._corrections.get(key)
            if (before.label if before else None, self._corrections.note(key)) != (checked, note):
                changes.append((rows[key], checked, note))
        for row, checked, note in changes:
            self._judge(row, checked, note)
        return len(changes)

    # For the widget, which addresses rows by their position in the review.

    def item(self, position: int) -> dict[str, Any]:
        if not self._order:
            return {"at": 0, "total": 0, "reviewed": 0}
        row = self._order[position]
        correction = self._corrections.get(self._row_keys[row])
        cell = {name: values[row] for name, values in self._cells.items()}
        confidence = None if self._confidences is None else float(self._confidences[row])
        return {
            "at": position,
            "total": len(self._order),
            "reviewed": self.reviewed,
            "row": str(self.out.index[row]),
            "fields": [[column_text(name), _display_text(cell[column_text(name)])] for name in self._text_columns],
            "label": self._model_labels[row],
            "confidence": None if is_missing(confidence) else confidence,
            "votes": _display_votes(cell.get("*votes")),
            "reason": _display_text(cell.get("*label_reason")),
            "error": _display_text(cell.get("*error")),
            "judged": correction.label if correction is not None else None,
            "note": self._corrections.note(self._row_keys[row]),
            "simulated": "(simulated)" in str(cell.get("*model")),
            "file": str(self.path),
        }

    def choose(self, position: int, label: Any, *, note: str = "") -> None:
        self._judge(self._order[position], self._choices.checked(label), note)

    def within(self, position: int) -> int:
        return min(max(0, position), max(0, len(self._order) - 1))

    def first_open(self) -> int:
        """The first position that is not reviewed; the first of all if none is left."""
        return self.next_after(-1)

    def next_after(self, position: int) -> int:
        """The next position that is not reviewed: after this one, else before it, else this one."""
        others = [*range(position + 1, len(self._order)), *range(max(0, position))]
        is_open = (each for each in others if self._row_keys[self._order[each]] in self._open)
        return next(is_open, self.within(position))

    @property
    def widget(self) -> Any:  # an anywidget.AnyWidget, whose own base has no types
        """The anywidget, for use in a layout.

        Raises:
            MissingDependencyError: anywidget is not installed.
        """
        if self._widget is None:
            try:
                from parallel_openai._labels.reviewing.widget import ReviewWidget
            except ImportError as error:
                what = "The review as a widget (to_csv() and read_csv() take the rows to a spreadsheet and back) needs"
                raise MissingDependencyError.of(what, "anywidget", error) from error
            self._widget = ReviewWidget(self)
        return self._widget

    def __repr__(self) -> str:
        return (
            f"Review of {len(self):,} rows, {self.reviewed:,} of them reviewed; corrections in {self.path}. "
            "frame() returns the labels; to_csv() and read_csv() exchange the rows with a spreadsheet."
        )

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        static = {"text/plain": repr(self), "text/html": to_html(table.to_blocks(self._rows(table.SHOWN), repr(self)))}
        try:
            bundle: Any = self.widget._repr_mimebundle_()
        except MissingDependencyError:
            return static
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        return {**static, **{kind: value for kind, value in (data or {}).items() if "widget" in kind}}

    def _rows(self, most: int | None = None) -> list[dict[str, Any]]:
        return [{**self.item(each), "key": self._row_keys[self._order[each]]} for each in range(len(self))[:most]]

    def _judge(self, row: int, label: str | list[str] | None, note: str) -> None:
        key = self._row_keys[row]
        self._corrections.add(key, Judgement(label, note), model_said=self._model_labels[row])
        if label is None:
            self._open |= self._queued & {key}
        else:
            self._open.discard(key)

    def _path(self) -> Path:
        journal = path_of(self._run.journal or "answers.jsonl", "The journal's name in the frame's attrs")
        path = journal.with_name(journal.name.removesuffix(".jsonl") + ".review.jsonl")
        if os.path.abspath(journal) not in USED:
            _check_within(path)
        check_own(path)
        return path

    def _companion(self, what: str) -> str:
        """The name of a column that goes with the label; with several fields it starts with the field's name."""
        field = str(self._label).removeprefix(self._prefix)
        own = field in self._run.labels and field != "label" and what == "votes"
        return f"{self._prefix}{field}_{what}" if own else self._prefix + what

    def _columns(self) -> dict[str, list[Any]]:
        """The columns to show: the text by name, and others by `*` and their kind."""
        companions = {what: self._companion(what) for what in ("votes", "label_reason", "error", "model")}
        return {
            **{column_text(name): self.out[name].tolist() for name in self._text_columns},
            **{f"*{what}": self.out[name].tolist() for what, name in companions.items() if has_column(self.out, name)},
        }


def _check_within(path: Path) -> None:
    """Refuse a path from a loaded frame's attrs that is outside the working directory."""
    if not Path(os.path.realpath(path.parent)).is_relative_to(os.path.realpath(".")):
        raise InvalidInputError(
            "The frame was not made in this process, and its corrections would be written outside the working "
            f"directory. If that is what you want, pass save_to={str(path)!r}."
        )


def _display_votes(votes: Any) -> str:
    """The votes counted: `good 3, bad 2`."""
    if not isinstance(votes, (list, tuple, np.ndarray)):
        return ""
    counts = Counter("no answer" if is_missing(vote) else _display_text(vote) for vote in votes)
    return ", ".join(f"{text or 'none'} {count}" for text, count in counts.most_common())


def _display_text(value: Any) -> str:
    if isinstance(value, (list, tuple, np.ndarray)):
        return ", ".join(map(text_of, value))
    return "" if is_missing(value) else str(value)
