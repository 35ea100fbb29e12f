"""`read_journal`: read a journal as a frame."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import pandas as pd

from parallel_openai._arguments import check_file, path_of
from parallel_openai._frames.columns.answer_columns import object_column, status_column
from parallel_openai._journal.entry import JournalEntry
from parallel_openai._journal.lines import read_entries
from parallel_openai._json import dumps
from parallel_openai.errors import JournalError

COLUMNS = ("request", "response", "metadata", "status", "error_code", "error", "attempts", "at", "request_key")


def read_journal(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a file of results, one row per request; a run may be writing it.

    Args:
        path: a journal of `process_dataframe` and the like, or the results of `process_api_requests_from_file`.

    Returns:
        A frame in the order of the answers, with `request` and `response` (parsed JSON; None for a failure),
        `metadata`, `status`, `error_code`, `error`, `attempts`, `at` (of the last attempt, UTC) and `request_key`. If
        a request occurs several times, a success wins over a failure, then the later line over the earlier one.
        Lines of a file run have no key, attempts and times; each is a row, except a failure that was answered later.
        `attrs["damaged_lines"]` counts the unreadable lines.

    Raises:
        InvalidInputError: there is no such file.
        JournalError: it is not a file of results, or cannot be read.

    >>> import parallel_openai as po
    >>> df = pd.DataFrame({"text": ["Arrived early.", "It leaks."]})
    >>> with po.local.simulator.serve() as server:
    ...     out = po.process_dataframe(df, "text", model="gpt-5-mini", save_to="answers.jsonl",
    ...                                client=po.Client(server.base_url), progress=False)
    >>> po.read_journal("answers.jsonl")["status"].tolist()
    ['succeeded', 'succeeded']
    """
    file = path_of(path, "path")
    check_file(file, "file of results")
    entries: dict[Any, JournalEntry] = {}
    damaged = 0
    try:
        for offset, entry in read_entries(file):
            if entry is None:
                damaged += 1
            elif entry.body:  # lines about batches have an empty body
                _put(entries, offset, entry)
    except JournalError:
        raise
    except OSError as error:
        raise JournalError(f"The results file {file} cannot be read: {error.strerror}.") from error
    out = frame_of([_cells(entry) for entry in entries.values()], COLUMNS)
    out.attrs["damaged_lines"] = damaged
    return out


def _put(entries: dict[Any, JournalEntry], offset: int, entry: JournalEntry) -> None:
    """Keep the line, unless there is a better one of the same request."""
    key = entry.key
    if key is None:
        request = dumps([entry.body, entry.metadata], sort_keys=True)
        if entry.is_good:
            entries.pop(request, None)
            entries[offset] = entry
        else:
            entries[request] = entry
        return
    before = entries.get(key)
    if before is not None and before.is_good and not entry.is_good:
        return
    entries.pop(key, None)  # moves it to the end
    entries[key] = entry


def _cells(entry: JournalEntry) -> dict[str, Any]:
    good = entry.is_good
    return {
        "request": entry.body,
        "response": entry.answer if good else None,
        "metadata": entry.metadata,
        "status": "succeeded" if good else "failed",
        "error_code": None if good else entry.error_code,
        "error": None if good else entry.error,
        "attempts": len(entry.attempts) if "attempts" in (entry.record or ()) else None,
        "at": sent_at(entry),
        "request_key": entry.key,
    }


def sent_at(entry: JournalEntry) -> float | None:
    """The time of the last attempt in seconds since 1970; None if there is no valid one."""
    at = entry.attempts[-1].at if entry.attempts else 0.0
    return at if 0.0 < at < 2**33 else None


def frame_of(rows: list[dict[str, Any]], names: Iterable[str]) -> pd.DataFrame:
    """Cells of a journal as a frame; the columns' types follow from their names."""
    return pd.DataFrame({name: _column(name, [row[name] for row in rows]) for name in names})


def _column(name: str, values: list[Any]) -> Any:
    match name:
        case "request" | "response" | "metadata":
            return object_column(values)
        case "status":
            return status_column(values)
        case "attempts":
            return pd.array(values, dtype="Int64")
        case "at":
            return pd.to_datetime(pd.Series(values, dtype="float64"), unit="s", utc=True)
    return pd.array(values, dtype="string[python]")
