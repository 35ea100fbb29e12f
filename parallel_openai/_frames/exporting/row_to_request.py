"""A frame of answers, and the way back from its rows to the requests that were made of them."""

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
    """A frame of answers, with the way back to the requests that were made of it."""

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
        """Each row's first request and its cells; None for a row that could not be asked.

        Raises:
            InvalidInputError: a row's request is in no place any more.
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
        """The requests made anew from the request builder; None where a function made them."""
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
            return None  # the columns it was made of were dropped; the journal has what was sent
        return builder.requests(self.out)

    def _cells(self) -> Iterator[dict[str, Any]]:
        for values in rows_of(self.out, list(self._columns.values())):
            row = dict(zip(self._columns, values, strict=True))
            if isinstance(row["request_key"], list):  # of several samples, the first
                row["request_key"] = row["request_key"][0]
            yield row


def _column_again(name: Any) -> Any:
    """A name out of the attrs, where JSON made a list of a tuple."""
    return tuple(name) if isinstance(name, list) else name


class OpenJournal:
    """The journal behind a frame, while an export reads it; empty where the file is gone."""

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
                f"The answers' file {self._path} does not hold a row's request, and the request cannot be made again "
                "from the frame (a function made it, or its columns were changed or dropped). Bring the file back, "
                "or export from the frame as it was."
            )
        return APIRequest(entry.body, entry.metadata, path=path)

    def __enter__(self) -> OpenJournal:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._known.close()
