"""`explain`: the history of one row, from the journal."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from parallel_openai._display.blocks import Block, Heading, Number, Sentence, Table
from parallel_openai._display.display import Display
from parallel_openai._frames.columns.run_info import NO_ATTRS, RunInfo, last_run_of
from parallel_openai._frames.columns.table import check_frame, is_missing, keys_of, label_of
from parallel_openai._journal.entry import JournalEntry
from parallel_openai._journal.lines import read_entries
from parallel_openai._requests.endpoints import usage_of
from parallel_openai.errors import InvalidInputError

_HEADS = ("sent at", "waited", "status", "code", "seconds", "tokens", "request id")
_LONGEST = 300


@dataclass(frozen=True, repr=False)
class Explanation(Display):
    """The history of one row; `print` it, or let a notebook show it.

    Attributes:
        title: the row and its status.
        sends: each attempt in order: time, wait for capacity or after a failure, HTTP status (0: no answer), error
            code, seconds to the answer, prompt + completion tokens, request id.
        notes: further remarks, as sentences.
    """

    title: str
    sends: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]

    def blocks(self) -> list[Block]:
        return [Heading(self.title), Table("", _HEADS, self.sends), *map(Sentence, self.notes)]


def explain(out: pd.DataFrame, row: Hashable) -> Explanation:
    """Return the history of one row: each attempt, when it was sent, how long it took, and what came back.

    Args:
        out: what `process_dataframe` or `label_dataframe` returned, or a part of it.
        row: the row's index label, as in `out.loc[row]`. To select a row by position, or one of several with the same
            label: `explain(out.iloc[[7]], out.index[7])`.

    Returns:
        An explanation to `print`, or to show in a notebook.

    Raises:
        InvalidInputError: there is no such row, or several, or the frame does not come from this package.

    >>> import parallel_openai as po
    >>> df = pd.DataFrame({"text": ["Arrived early.", None]}, index=["a", "b"])
    >>> with po.local.simulator.serve() as server:
    ...     out = po.process_dataframe(df, "Is this review happy? {text}", model="gpt-5-mini",
    ...                                client=po.Client(server.base_url), progress=False)
    >>> print(po.explain(out, "b"))
    Row 'b': failed.
    It was never sent: The column 'text' is empty in this row (NaN or None). (missing_prompt)
    """
    check_frame(out)
    run = last_run_of(out)
    if run.journal is None:
        raise InvalidInputError(NO_ATTRS)
    position = _position(out, row)
    return _RowHistory(out, run, Path(run.journal), position).explanation(row)


def _position(out: pd.DataFrame, row: Hashable) -> int:
    positions = [position for position, label in enumerate(out.index) if _is_label(label, row)]
    if len(positions) == 1:
        return positions[0]
    if positions:
        raise InvalidInputError(
            f"{len(positions)} rows have the label {row!r}. Select one by its position: "
            f"explain(out.iloc[[{positions[0]}]], {row!r})."
        )
    raise InvalidInputError(
        f"No row has the label {row!r}. To select a row by its position: explain(out.iloc[[7]], out.index[7])."
    )


def _is_label(label: Hashable, row: Hashable) -> bool:
    return is_missing(row) if is_missing(label) else bool(label == row)


class _RowHistory:
    def __init__(self, out: pd.DataFrame, run: RunInfo, journal: Path, position: int) -> None:
        self._out = out
        self._run, self._prefix, self._journal = run, run.prefix, journal
        self._position = position
        self._keys = keys_of(self._cell("request_key"))

    def explanation(self, row: Hashable) -> Explanation:
        entries = list(_entries(self._journal, {key for key in self._keys if isinstance(key, str)}))
        sends = tuple(_row(*send) for entry in entries for send in _sends(entry))
        return Explanation(self._title(row, len(sends)), sends, tuple(self._notes(self._journal, entries)))

    def _title(self, row: Hashable, sends: int) -> str:
        times = f" It was sent {sends:,} time{'s' if sends > 1 else ''}." if sends else ""
        row = row.item() if isinstance(row, np.generic) else row
        return f"Row {row!r}: {self._cell('status')}.{times}"

    def _notes(self, journal: Path, entries: Sequence[JournalEntry]) -> Iterator[str]:
        error, code = self._cell("error"), self._cell("error_code")
        why = f"{error} ({code})" if code is not None else ""
        if not any(isinstance(key, str) for key in self._keys):
            what = "sent" if self._cell("status") == "failed" else "answered"
            yield f"It was never {what}: {why or 'the run ended first.'}"
            return
        if not journal.is_file():
            yield f"Its history is lost: the journal {journal} no longer exists."
        elif not entries:
            yield f"Its history is lost: the journal {journal} no longer holds the row."
        sent = [attempt.at for entry in entries for attempt in entry.attempts]
        if entries and not sent:
            yield "It was never sent."
        if len(self._keys) > 1:
            yield f"{len(self._keys)} samples were requested."
        repairs = sum("sent" in (entry.record or ()) for entry in entries)
        if repairs:
            yield f"An invalid answer was requested again{f', {repairs} times' if repairs > 1 else ''}."
        if sent and max(sent) < self._run.began:
            yield "This was in an earlier run: this frame's answer comes from the journal, and was not paid for again."
        elif self._cell("attempts") == 0 and sent:
            yield self._shared()
        if why:
            yield f"The error: {why}"
        elif self._answer() is not None:
            yield f"The answer: {str(self._answer())[:_LONGEST]}"

    def _shared(self) -> str:
        column = self._out[self._name("request_key")].tolist()
        attempts = self._out[self._name("attempts")].tolist()
        others = [at for at, keys in enumerate(column) if keys_of(keys) == self._keys and attempts[at] != 0]
        source = f"row {self._out.index[others[0]]!r}" if others else "another row"
        return f"It has the same request as {source} and shares its answer at no cost."

    def _answer(self) -> Any:
        return self._cell(str(self._run.answer))

    def _name(self, name: str) -> Hashable:
        return label_of(self._out, self._prefix + name)

    def _cell(self, name: str) -> Any:
        column = self._name(name)
        if column not in self._out.columns:
            raise InvalidInputError(f"explain needs the column {self._prefix + name!r}, which the frame has lost.")
        value = self._out[column].iloc[self._position]
        return None if is_missing(value) else value


def _entries(journal: Path, keys: set[str]) -> Iterator[JournalEntry]:
    if not keys or not journal.is_file():
        return
    for _, entry in read_entries(journal):
        if entry is not None and entry.lookup_key in keys:
            yield entry


def _sends(entry: JournalEntry) -> Iterator[tuple[Any, str]]:
    """Yield each attempt of a journal entry, and the tokens it was billed for, if any."""
    attempts = entry.attempts
    for number, attempt in enumerate(attempts, 1):
        usage = usage_of(attempt.bill if attempt.bill is not None or number < len(attempts) else entry.answer)
        yield attempt, f"{usage.prompt_tokens:,} + {usage.completion_tokens:,}" if usage is not None else ""


def _row(attempt: Any, tokens: str) -> tuple[str, ...]:
    return (
        datetime.fromtimestamp(min(max(attempt.at, 0.0), 2.0**33)).strftime("%Y-%m-%d %H:%M:%S"),
        Number(f"{attempt.waited:.2f} s"),
        str(attempt.status),
        attempt.error_code or "",
        Number(f"{attempt.seconds:.2f}"),
        Number(tokens),
        attempt.request_id or "",
    )
