"""Rebuild the requests behind the rows of a result frame, from its attrs or from the journal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from parallel_openai._frames.columns.run_info import NO_ATTRS, last_run_of
from parallel_openai._frames.columns.table import find_column, keys_of, rows_of
from parallel_openai._frames.request_builder import RequestBuilder
from parallel_openai._journal.known_results import KnownResults
from parallel_openai._records import APIRequest
from parallel_openai._requests.endpoints import endpoint
from parallel_openai._requests.template import BadPromptError
from parallel_openai.errors import InvalidInputError


class RowToRequest:
    """A result frame, and the requests that were made of its rows."""

    def __init__(self, out: pd.DataFrame) -> None:
        run = last_run_of(out)
        if run.endpoint is None or run.answer is None or run.journal is None:
            raise InvalidInputError(f"{NO_ATTRS} Without them, only format='records' works.")
        self.out = out
        self.run, self.prefix, self._journal = run, run.prefix, run.journal
        self.endpoint = endpoint(run.endpoint)
        self.path = self.endpoint.path
        self._columns: dict[str, Any] = {
            "answer": self.prefix + run.answer,
            **{name: self.prefix + name for name in ("status", "error", "request_key")},
        }
        for column in self._columns.values():
            find_column(out, column, "to_jsonl")

    def journal(self) -> OpenJournal:
        return OpenJournal(self._journal)

    def requests(self, known: OpenJournal) -> Iterator[tuple[APIRequest | None, dict[str, Any]]]:
        """Yield each row's first request (None if none could be made) and its cells."""
        rendered = self._rendered()
        for row in self._cells():
            key = row["request_key"]
            request = next(rendered) if rendered is not None else None
            if isinstance(request, APIRequest) and key in (None, request.key):
                yield request, row
            elif key is not None:
                yield known.request(key, self.path), row
            else:
                yield None, row

    def _rendered(self) -> Iterator[APIRequest | BadPromptError] | None:
        """The requests, built again from the frame; None if a function made them or columns are missing."""
        run = self.run
        if run.made_by_function:
            return None
        builder = RequestBuilder(
            run.prompt, run.model, run.system, self.endpoint, run.params, run.metadata, examples=run.examples
        )
        try:
            builder.check(self.out)
        except InvalidInputError:
            return None  # the journal has what was sent
        return builder.requests(self.out)

    def _cells(self) -> Iterator[dict[str, Any]]:
        for values in rows_of(self.out, list(self._columns.values())):
            row = dict(zip(self._columns, values, strict=True))
            key = next(iter(keys_of(row["request_key"])), None)  # of several samples, the first
            yield {**row, "request_key": None if key is None else str(key)}


class OpenJournal:
    """The journal of a frame, open for an export; empty if the file does not exist."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._known = KnownResults(Path(path), failures=True, simulated=True)

    def get(self, request: APIRequest) -> Any:
        return self._known.get(request)

    def request(self, key: str, path: str) -> APIRequest:
        """The request that was sent under a key."""
        entry = self._known.entry(key)
        if entry is None:
            raise InvalidInputError(
                f"The journal {self._path} does not hold a row's request, and the request cannot be rebuilt from the "
                "frame (a function made it, or its columns were changed or dropped). Restore the file, or export from "
                "the frame as it was."
            )
        return APIRequest(entry.body, entry.metadata, path=path)

    def __enter__(self) -> OpenJournal:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._known.close()
