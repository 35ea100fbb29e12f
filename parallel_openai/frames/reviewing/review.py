"""`review`: a person goes over labels, those least to be trusted first, and keeps every correction."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from parallel_openai.errors import InvalidInputError, MissingDependencyError
from parallel_openai.frames.reviewing import table
from parallel_openai.frames.reviewing.corrections import Correction, Corrections
from parallel_openai.frames.shown import text_columns
from parallel_openai.frames.table import check_frame, column_text, find_column, has_column, is_missing, rows_of
from parallel_openai.requests.labels import text_of

if TYPE_CHECKING:
    from parallel_openai.frames.reviewing.widget import ReviewWidget

#: What `review` adds to a frame.
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
    """Go over the labels of a frame in the notebook: the text, the model's label, keys 1 to 9 to choose.

    Shown at the end of a cell, it is a widget (JupyterLab, Notebook 7, VS Code, Colab; `pip install anywidget`). Each
    choice is on the disk before the next row is shown, so a dead kernel loses none, and the same call again goes on
    where you stopped. Without widgets it is a table, and `to_csv` and `read_csv` go by way of a spreadsheet.

    Args:
        out: what `label_dataframe` gave, or a part of it.
        text: the columns to show; None: those that the prompt was made of.
        label: the labels' column; None: that of the run (`label`).
        labels: the labels to choose from; None: those of the run.
        save_to: the file of the corrections; None: beside the answers' journal, with the ending `.review.jsonl`.
        sort: whether the least confident rows come first, before them those without a label. False: the frame's order.

    Returns:
        The review. `review.frame()` is the frame with the columns `label_reviewed` and `review_note`.

    Raises:
        InvalidInputError: a column is missing, or it has no labels to choose from.

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
    """A frame of labels under review; made by `review`.

    Attributes:
        labels: the texts of the labels to choose from.
        multi: whether a row can have several.
        path: the file of the corrections.
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
        about = out.attrs.get("parallel_openai")
        self._about: dict[str, Any] = about if isinstance(about, dict) else {}
        self._prefix: str = self._about.get("prefix", "")
        asked: dict[str, Any] = self._about.get("labels") or {}
        if label is None:
            label = self._prefix + next((name for name, field in asked.items() if field["kind"] != "text"), "label")
        self._label = find_column(out, label, "review")
        cells = out[self._label]
        self.multi = bool(cells.map(lambda value: isinstance(value, (list, tuple, np.ndarray))).any())
        field = asked.get(str(self._label).removeprefix(self._prefix), {})
        self._by_text = _choices(cells, labels, field.get("labels"), multi=self.multi)
        self.labels = list(self._by_text)
        self._shown = text_columns(out, text)
        self.path = Path(save_to) if save_to is not None else self._path()
        self._corrections = Corrections(self.path)
        self._keys = self._make_keys()
        self._order = self._make_order(sort)
        self._cells = {column_text(name): out[name].tolist() for name in dict.fromkeys([*self._shown, *self._beside()])}
        self._said = [self._text_of(value) for value in cells.tolist()]
        self._widget: ReviewWidget | None = None

    def __len__(self) -> int:
        return len(self._order)

    @property
    def reviewed(self) -> int:
        """How many of the rows to go over have been judged."""
        return sum(self._corrections.get(self._keys[row]) is not None for row in self._order)

    def frame(self) -> pd.DataFrame:
        """The frame with `label_reviewed`, missing where nobody judged, and `review_note`."""
        given = [self._corrections.get(key) for key in self._keys]
        values = [None if each is None else self._value_of(each.label) for each in given]
        notes = [self._corrections.note(key) or None for key in self._keys]
        out = self.out.copy(deep=False)
        if self._about:  # exports want to know which labels were judged
            judged = str(self._label).removeprefix(self._prefix)
            out.attrs = {**self.out.attrs, "parallel_openai": {**self._about, "reviewed": judged}}
        out[self._prefix + LABEL] = self._column(values)
        out[self._prefix + NOTE] = pd.array(notes, dtype="string")
        return out

    def correct(self, row: Hashable, label: Any, *, note: str = "") -> None:
        """Judge one row from code.

        Args:
            row: its label in the frame's index.
            label: the right label (a list of them where rows have several); None takes the judgement back.
            note: what to remember about it.

        Raises:
            InvalidInputError: there is no such row, or several, or no such label.
        """
        places = np.flatnonzero(self.out.index == row)
        if len(places) != 1:
            found = "no row" if not len(places) else f"{len(places)} rows"
            raise InvalidInputError(f"The index has {found} {row!r}.")
        self._judge(int(places[0]), self._checked(label), note)

    def to_csv(self, path: str | os.PathLike[str]) -> int:
        """Write the rows in the order of the review for a spreadsheet; fill its column `label_reviewed` there.

        Returns:
            How many rows were written.
        """
        return table.to_csv(self._rows(), Path(path))

    def read_csv(self, path: str | os.PathLike[str]) -> int:
        """Take over what was filled in.

        Returns:
            How many judgements were new or changed.

        Raises:
            InvalidInputError: it is no such file, or holds a label that there is not; then nothing is taken over.
        """
        changes = []
        rows = {key: row for row, key in enumerate(self._keys)}
        for line, (key, label, note) in table.read_csv(Path(path), multi=self.multi):
            if key not in rows:
                raise InvalidInputError(f"Line {line} of {path}: its request_key {key!r} is no row of this frame.")
            try:
                checked = self._checked(label)
            except InvalidInputError as error:
                raise InvalidInputError(f"Line {line} of {path}: {error}") from None
            before = self._corrections.get(key)
            if (before.label if before else None, self._corrections.note(key)) != (checked, note):
                changes.append((rows[key], checked, note))
        for row, checked, note in changes:
            self._judge(row, checked, note)
        return len(changes)

    # What the widget needs: rows by their position in the review.

    def item(self, position: int) -> dict[str, Any]:
        """What is shown of a row."""
        if not self._order:
            return {"at": 0, "total": 0, "reviewed": 0}
        row = self._order[position]
        correction = self._corrections.get(self._keys[row])
        cell = {name: values[row] for name, values in self._cells.items()}
        beside = {name: cell.get(self._prefix + name) for name in ("confidence", "votes", "label_reason", "error")}
        return {
            "at": position,
            "total": len(self._order),
            "reviewed": self.reviewed,
            "row": str(self.out.index[row]),
            "fields": [[column_text(name), _shown_text(cell[column_text(name)])] for name in self._shown],
            "label": self._said[row],
            "confidence": _number(beside["confidence"]),
            "votes": _shown_votes(beside["votes"]),
            "reason": _shown_text(beside["label_reason"]),
            "error": _shown_text(beside["error"]),
            "judged": correction.label if correction is not None else None,
            "note": self._corrections.note(self._keys[row]),
            "simulated": self._is_simulated(row),
            "file": str(self.path),
        }

    def choose(self, position: int, label: Any, *, note: str = "") -> None:
        """Judge the row that stands at a position."""
        self._judge(self._order[position], self._checked(label), note)

    def within(self, position: int) -> int:
        return min(max(0, position), max(0, len(self._order) - 1))

    def first_open(self) -> int:
        """The first position that nobody has judged; the last one where all are."""
        return self.next_after(-1)

    def next_after(self, position: int) -> int:
        """The next position that nobody has judged: behind this one, else before it, else this one."""
        places: list[int] = [*range(position + 1, len(self._order)), *range(max(0, position))]
        for place in places:
            if self._corrections.get(self._keys[self._order[place]]) is None:
                return place
        return self.within(position)

    @property
    def widget(self) -> ReviewWidget:
        """The widget, to be put among others.

        Raises:
            MissingDependencyError: anywidget is not installed.
        """
        if self._widget is None:
            try:
                from parallel_openai.frames.reviewing.widget import ReviewWidget
            except ImportError:
                raise MissingDependencyError(
                    'The review as a widget needs anywidget: pip install "parallel-openai[notebook]". Without it, '
                    "to_csv() and read_csv() take the rows to a spreadsheet and back."
                ) from None
            self._widget = ReviewWidget(self)
        return self._widget

    def __repr__(self) -> str:
        return (
            f"Review of {len(self):,} rows, {self.reviewed:,} of them judged; corrections in {self.path}. "
            "frame() gives the labels, to_csv() and read_csv() go by way of a spreadsheet."
        )

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        shown = {"text/plain": repr(self), "text/html": table.to_html(self._rows(table.SHOWN), repr(self))}
        try:
            bundle: Any = self.widget._repr_mimebundle_()
        except MissingDependencyError:
            return shown
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        return {**shown, **{kind: value for kind, value in (data or {}).items() if "widget" in kind}}

    # How it is made.

    def _rows(self, most: int | None = None) -> list[dict[str, Any]]:
        return [{**self.item(place), "key": self._keys[self._order[place]]} for place in range(len(self))[:most]]

    def _judge(self, row: int, label: str | list[str] | None, note: str) -> None:
        self._corrections.add(self._keys[row], Correction(label, note), model_said=self._said[row])

    def _checked(self, label: Any) -> str | list[str] | None:
        """A label as it stands in the file.

        Raises:
            InvalidInputError: there is no such label.
        """
        text: str | list[str] | None = self._text_of(label)
        for each in text if isinstance(text, list) else [text]:
            if each is not None and each not in self._by_text:
                raise InvalidInputError(f"There is no label {each!r}; there are: {', '.join(self._by_text)}.")
        if self.multi and text is not None:
            chosen = text if isinstance(text, list) else [text]
            return [each for each in self._by_text if each in chosen]
        return text

    def _text_of(self, value: Any) -> Any:
        if isinstance(value, (list, tuple, np.ndarray)):
            return [text_of(each) for each in value]
        return None if is_missing(value) else text_of(value)

    def _value_of(self, text: Any) -> Any:
        """The label itself, Enum members and numbers included; a text that is no choice any more stays a text."""
        if isinstance(text, list):
            return [self._by_text.get(each, each) for each in text]
        return self._by_text.get(text, text)

    def _column(self, values: list[Any]) -> Any:
        cells = self.out[self._label]
        if isinstance(cells.dtype, pd.CategoricalDtype):
            known = list(cells.cat.categories)
            more = [each for each in self._by_text.values() if each not in known]
            more += [each for each in dict.fromkeys(values) if each is not None and each not in known + more]
            return pd.Categorical(values, categories=[*known, *more], ordered=bool(cells.cat.ordered))
        if pd.api.types.is_integer_dtype(cells.dtype):
            return pd.array(values, dtype="Int64")
        if isinstance(cells.dtype, pd.StringDtype):
            return pd.array(values, dtype=cells.dtype)
        array = np.empty(len(values), dtype=object)
        for place, value in enumerate(values):
            array[place] = value
        return array

    def _beside(self) -> list[Hashable]:
        names = ("confidence", "votes", "label_reason", "error", "model")
        return [self._prefix + name for name in names if has_column(self.out, self._prefix + name)]

    def _path(self) -> Path:
        journal = Path(self._about.get("journal") or "answers.jsonl")
        return journal.with_name(journal.name.removesuffix(".jsonl") + ".review.jsonl")

    def _make_keys(self) -> list[str]:
        """What each row is known by in the file: the digest of what was asked, else of the texts that are shown."""
        name = self._prefix + "request_key"
        keys = self.out[name].tolist() if has_column(self.out, name) else [None] * len(self.out)
        texts = rows_of(self.out, self._shown)
        return [_key(key, values) for key, values in zip(keys, texts, strict=True)]

    def _make_order(self, sort: bool) -> list[int]:
        """The rows to go over; of those that asked the very same, the first stands for all."""
        order = list({key: row for row, key in reversed(list(enumerate(self._keys)))}.values())[::-1]
        order = [row for row, shown in zip(order, self._have_text(order), strict=True) if shown]
        name = self._prefix + "confidence"
        if not sort:
            return order
        confidence = self.out[name].tolist() if has_column(self.out, name) else [None] * len(self.out)
        labels = self.out[self._label].tolist()
        unsure = {row: _number(confidence[row]) for row in order}
        return sorted(
            order,
            key=lambda row: (
                not is_missing(labels[row]),
                unsure[row] if unsure[row] is not None else 0.0,
            ),
        )

    def _have_text(self, rows: list[int]) -> list[bool]:
        columns = [self.out[name].tolist() for name in self._shown]
        return [any(not is_missing(column[row]) for column in columns) for row in rows]

    def _is_simulated(self, row: int) -> bool:
        model = self._cells.get(self._prefix + "model")
        return model is not None and "(simulated)" in str(model[row])


def _choices(
    cells: pd.Series[Any], labels: Iterable[Any] | None, asked: Sequence[str] | None, *, multi: bool
) -> dict[str, Any]:
    """The labels to choose from, by their texts: those named, else the column's categories, else those of the run."""
    if labels is not None:
        given = list(labels)
    elif isinstance(cells.dtype, pd.CategoricalDtype):
        given = list(cells.cat.categories)
    elif multi:
        given = list(dict.fromkeys(label for value in cells if not is_missing(value) for label in value))
    else:
        given = sorted(cells.dropna().unique().tolist(), key=lambda value: (str(type(value)), value))
    by_text = {text_of(value): value for value in given}
    if asked and labels is None:  # also those that the model gave to no row
        whole = pd.api.types.is_integer_dtype(cells.dtype)
        by_text = {text: by_text.get(text, int(text) if whole else text) for text in asked}
    if not by_text:
        raise InvalidInputError(f"The column {cells.name!r} holds no label to choose from; name them with labels=.")
    return by_text


def _key(key: Any, values: Sequence[Any]) -> str:
    if isinstance(key, (list, tuple, np.ndarray)):  # of several samples, the first
        key = next(iter(key), None)
    if isinstance(key, str):
        return key
    return blake2b("\x1f".join(map(str, values)).encode("utf-8", "replace"), digest_size=16).hexdigest()


def _shown_votes(votes: Any) -> str:
    """What a row's samples said: `good 3, bad 2`."""
    if not isinstance(votes, (list, tuple, np.ndarray)):
        return ""
    counts = Counter("no answer" if is_missing(vote) else _shown_text(vote) for vote in votes)
    return ", ".join(f"{text or 'none'} {count}" for text, count in counts.most_common())


def _shown_text(value: Any) -> str:
    if isinstance(value, (list, tuple, np.ndarray)):
        return ", ".join(map(text_of, value))
    return "" if is_missing(value) else str(value)


def _number(value: Any) -> float | None:
    return None if value is None or is_missing(value) or not isinstance(value, (int, float)) else float(value)
