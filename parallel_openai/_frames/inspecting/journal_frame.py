"""`read_journal`: what a file of results holds, as a frame; also while a run is writing it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from parallel_openai._arguments import is_file, path_of
from parallel_openai._journal.entry import key_of, record_of
from parallel_openai._journal.lines import Entry, read_entries
from parallel_openai._json import dumps
from parallel_openai.errors import InvalidInputError, JournalError

COLUMNS = ("request", "response", "metadata", "status", "error_code", "error", "attempts", "at", "request_key")


def read_journal(path: str | os.PathLike[str]) -> pd.DataFrame:
    """What a file of results holds, one row for each request; also while a run is writing it.

    Args:
        path: a journal of `process_dataframe` and the like, or the results of `process_api_requests_from_file`.

    Returns:
        A frame in the order of the answers, with `request` and `response` (as JSON gives them; None for a failure),
        `metadata`, `status`, `error_code`, `error`, `attempts`, `at` (when it was last sent, UTC) and `request_key`.
        If a request occurs several times, a success goes before a failure, and a later line before an
        earlier one. Lines of a file run carry no key, attempts and times; each is a row, except a failure that was
        answered later. `attrs["damaged_lines"]` counts the lines that cannot be read.

    Raises:
        InvalidInputError: there is no such file.
        JournalError: it is something else.

    >>> import parallel_openai as po
    >>> df = pd.DataFrame({"text": ["Arrived early.", "It leaks."]})
    >>> with po.local.simulator.serve() as server:
    ...     out = po.process_dataframe(df, "text", model="gpt-5-mini", save_to="answers.jsonl",
    ...                                client=po.Client(server.base_url), progress=False)
    >>> po.read_journal("answers.jsonl")["status"].tolist()
    ['succeeded', 'succeeded']
    """
    place = path_of(path, "path")
    if not is_file(place):
        raise InvalidInputError(f"There is no file of results {place} (in {Path.cwd()}).")
    entries: dict[Any, Entry] = {}
    damaged = 0
    try:
        for offset, entry in read_entries(place):
            if entry is None:
                damaged += 1
            elif entry[0]:  # an empty body is none: such lines tell of batches
                _put(entries, offset, entry)
    except JournalError:
        raise
    except OSError as error:
        raise JournalError(f"The results file {place} cannot be read: {error.strerror}.") from error
    out = _frame([_cells(entry) for entry in entries.values()])
    out.attrs["damaged_lines"] = damaged
    return out


def _put(entries: dict[Any, Entry], offset: int, entry: Entry) -> None:
    """Keep the line, unless a better one of the same request is there."""
    key = key_of(entry)
    if key is None:
        asked = dumps([entry[0], entry[2] if len(entry) > 2 else None], sort_keys=True)
        if _is_answer(entry):
            entries.pop(asked, None)
            entries[offset] = entry
        else:
            entries[asked] = entry
        return
    before = entries.get(key)
    if before is not None and _is_answer(before) and not _is_answer(entry):
        return
    entries.pop(key, None)  # so that it stands where its last line does
    entries[key] = entry


def _is_answer(entry: Entry) -> bool:
    return isinstance(entry[1], Mapping)


def _cells(entry: Entry) -> dict[str, Any]:
    record = record_of(entry)
    attempts = record.get("attempts")
    sends = [each for each in attempts if isinstance(each, dict)] if isinstance(attempts, list) else []
    good = _is_answer(entry)
    errors = entry[1] if isinstance(entry[1], list) else [entry[1]]
    return {
        "request": entry[0],
        "response": entry[1] if good else None,
        "metadata": entry[2] if len(entry) > 2 else None,
        "status": "succeeded" if good else "failed",
        "error_code": None if good else str(record.get("error_code") or "error"),
        "error": None if good else str(record.get("error") or (errors[-1] if errors else "")),
        "attempts": len(sends) if "attempts" in record else None,
        "at": moment(sends[-1].get("at")) if sends else None,
        "request_key": key_of(entry),
    }


def moment(value: Any) -> float | None:
    """When a send was, if that is a time at all."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 2**33
    return float(value) if good else None


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    columns = {name: [row[name] for row in rows] for name in COLUMNS}
    objects = {name: _objects(columns[name]) for name in ("request", "response", "metadata")}
    return pd.DataFrame(
        {
            **objects,
            "status": pd.Categorical(columns["status"], categories=["succeeded", "failed", "cancelled"]),
            "error_code": pd.array(columns["error_code"], dtype="string[python]"),
            "error": pd.array(columns["error"], dtype="string[python]"),
            "attempts": pd.array(columns["attempts"], dtype="Int64"),
            "at": pd.to_datetime(pd.Series(columns["at"], dtype="float64"), unit="s", utc=True),
            "request_key": pd.array(columns["request_key"], dtype="string[python]"),
        }
    )


def _objects(values: list[Any]) -> Any:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
