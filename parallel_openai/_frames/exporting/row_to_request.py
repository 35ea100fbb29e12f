"""Rebuild the requests behind the rows of a result frame, from its attrs or from the journal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from parallel_openai._frames.columns.table import find_column, last_run_of, rows_of
from parallel_openai._frames.request_builder import RequestBuilder
from parallel_openai._journal.known_results import KnownResults
from parallel_openai._records import APIRequest
from parallel_openai._requests.endpoints import endpoint
from parallel_openai._requests.template import BadPromptError
from parallel_openai.errors import InvalidInputError

_NEEDED = {"endpoint", "answer", "prompt", "model", "system", "params", "journal"}


class RowToRequest:
    """A result frame, and the requests that were made of its rows."""

    def __init__(self, out: pd.DataFrame) -> None:
        about = last_run_of(out)
        if not about.keys() >= _NEEDED:
            raise InvalidInputError(
                "This frame does not come from process_dataframe or label_dataframe, or lost its attrs on the way (as "
                "merge and read_csv lose them); only format='records' works for it. To keep them: "
                "new.attrs = out.attrs."
            )
        self.out = out
        self.about: Mapping[str, Any] = about
        self.prefix: str = about.get("prefix", "")
        self.endpoint = endpoint(about["endpoint"])
        self.path = self.endpoint.path
        self._columns: dict[str, Any] = {
            "answer": self.prefix + about["answer"],
            **{name: self.prefix + name for name in ("status", "error", "request_key")},
        }
        for column in self._columns.values():
            find_column(out, column, "to_jsonl")

    def journal(self) -> OpenJournal:
        return OpenJournal(self.about["journal"])

    def requests(self, known: OpenJournal) -> Iterator[tuple[APIRequest | None, dict[str, Any]]]:
        """Yield each row's first request (None if none could be made) and its cells.

        Raises:
            InvalidInputError: a row's request can neither be rebuilt nor read from the journal.
        """
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
        if self.about.get("made_by_function"):
            return None
        builder = RequestBuilder(
            _column_again(self.about["prompt"]),
            self.about["model"],
            _column_again(self.about["system"]),
            endpoint(self.about["endpoint"]),
            self.about["params"],
            [_column_again(name) for name in self.about.get("metadata", ())],
            examples=self.about.get("examples", ()),
        )
        try:
            builder.check(self.out)
        except InvalidInputError:
            return None  # the journal has what was sent
        return builder.requests(self.out)

    def _cells(self) -> Iterator[dict[str, Any]]:
        for values in rows_of(self.out, list(self._columns.values())):
            row = dict(zip(self._columns, values, strict=True))
            if isinstance(row["request_key"], list):  # of several samples, the first
                row["request_key"] = row["request_key"][0]
            yield row


def _column_again(name: Any) -> Any:
    """A column name from the attrs, in which JSON turned tuples into lists."""
    return tuple(name) if isinstance(name, list) else name


class OpenJournal:
    """The journal of a frame, open for an export; empty if the file does not exist."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._known = KnownResults(Path(path), failures=True, simulated=True)

    def get(self, request: APIRequest) -> Any:
        return self._known.get(request)

    def request(self, key: str, path: str) -> APIRequest:
        """The request that was sent under a key.

        Raises:
            InvalidInputError: the journal does not hold it.
        """
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
