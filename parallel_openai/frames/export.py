"""`to_jsonl`: a frame of answers as a file for the next tool."""

from __future__ import annotations

import enum
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from parallel_openai.engine.journal import make_line
from parallel_openai.engine.resume import KnownResults
from parallel_openai.errors import InvalidInputError
from parallel_openai.frames.recipe import Recipe
from parallel_openai.frames.table import check_frame, column_text, find_column, labels_of, rows_of
from parallel_openai.jsonl import dumps
from parallel_openai.records import APIRequest
from parallel_openai.requests.endpoints import endpoint
from parallel_openai.requests.prompts import BadPromptError

Format = Literal["records", "results", "batch", "fine-tuning"]


def to_jsonl(
    out: pd.DataFrame, path: str | os.PathLike[str], *, format: Format = "records", index: bool = False
) -> int:
    """Write a frame of answers as JSON lines, in the order of its rows.

    Args:
        out: what `process_dataframe` or `label_dataframe` gave, or a part of it in any order.
        path: the file; what it held is replaced, once the new one is whole.
        format: `records`: one object a row, all columns; any frame will do.
            `results`: `[request, response, metadata]` for each answered row and `[request, [errors], metadata]` for
            each failed one, as `process_api_requests_from_file` writes them.
            `batch`: the input of OpenAI's Batch API, one request a row; `custom_id` is `row-` and the row's number.
            `fine-tuning`: the chat messages of each succeeded row, with its answer or label as the assistant's.
        index: with `records`, whether the index is written too, under its names or as `index`.

    Returns:
        How many lines were written.

    Raises:
        InvalidInputError: the frame does not come from this package (but for `records`), or its prompts were made by
            a function and the journal that holds them is gone.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "out.jsonl"
    >>> to_jsonl(pd.DataFrame({"text": ["Zoë"], "score": [float("nan")]}), path)
    1
    >>> path.read_text("utf-8")
    '{"text":"Zoë","score":null}\\n'
    """
    check_frame(out)
    writers: dict[str, Callable[[], Iterator[bytes]]] = {
        "records": lambda: _records(out, index),
        "results": lambda: _results(_Source(out)),
        "batch": lambda: _batch(_Source(out)),
        "fine-tuning": lambda: _fine_tuning(_Source(out)),
    }
    if format not in writers:
        raise InvalidInputError(f"format must be one of {', '.join(writers)}, not {format!r}.")
    return _write(Path(path), writers[format]())


def _write(path: Path, lines: Iterator[bytes]) -> int:
    """Write beside the file and then put it in its place, so that a failure half-way leaves the old one as it was."""
    place = path.resolve()
    if place.exists() and not place.is_file():  # a pipe or a device has no place to be put in
        return _write_lines(place, lines)
    beside = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        count = _write_lines(beside, lines)
        os.replace(beside, place)
    finally:
        beside.unlink(missing_ok=True)
    return count


def _write_lines(path: Path, lines: Iterator[bytes]) -> int:
    count = 0
    # Journals and exports hold people's data, so nobody else on the machine may read them.
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        for line in lines:
            file.write(line + b"\n")
            count += 1
    return count


def _records(out: pd.DataFrame, index: bool) -> Iterator[bytes]:
    columns = list(dict.fromkeys(out.columns))
    for column in columns:
        find_column(out, column, "to_jsonl")
    names = [column_text(column) for column in columns]
    for name, count in Counter(names).items():
        if count > 1:
            raise InvalidInputError(f"{count} columns would all be named {name!r} in the file. Rename them first.")
    index_names = [str(name) if name is not None else f"index{n or ''}" for n, name in enumerate(out.index.names)]
    labels = labels_of(out) if index else iter(())
    for values in rows_of(out, columns):
        record = dict(zip(names, values, strict=True))
        if index:
            label = next(labels)
            record = {**dict(zip(index_names, label if len(index_names) > 1 else (label,), strict=True)), **record}
        yield dumps(record)


def _results(source: _Source) -> Iterator[bytes]:
    with source.journal() as known:
        for request, row in source.requests(known):
            if request is None or row["status"] == "cancelled":
                continue
            result = known.get(request)
            if result is not None and result.response is not None:
                answer = dumps(result.response)
            else:
                answer = dumps(list(result.errors) if result is not None and result.errors else [row["error"]])
            metadata = () if request.metadata is None else (dumps(request.metadata),)
            yield make_line(request.body, answer, *metadata)


def _batch(source: _Source) -> Iterator[bytes]:
    url = f"/v1/{source.path}"
    with source.journal() as known:
        for number, (request, row) in enumerate(source.requests(known)):
            if request is None and row["status"] == "cancelled":
                raise InvalidInputError(
                    f"Row {number} was never sent, and its request cannot be made again from the frame (a function "
                    "made it, or its columns were dropped). Run the frame to its end first."
                )
            if request is not None:
                head = dumps({"custom_id": f"row-{number}", "method": "POST", "url": url})
                yield head[:-1] + b',"body":' + request.body + b"}"


def _fine_tuning(source: _Source) -> Iterator[bytes]:
    with source.journal() as known:
        for request, row in source.requests(known):
            answer = row["answer"]
            if request is None or row["status"] != "succeeded" or answer is None:
                continue
            if isinstance(answer, list):
                answer = answer[0]
            messages = [*request.request_json.get("messages", ()), {"role": "assistant", "content": _as_text(answer)}]
            yield dumps({"messages": messages})


def _as_text(answer: Any) -> str:
    if isinstance(answer, enum.Enum):
        answer = answer.value
    return answer if isinstance(answer, str) else dumps(answer).decode()


class _Source:
    """A frame of answers, with the way back to the requests that were made of it."""

    def __init__(self, out: pd.DataFrame) -> None:
        about = out.attrs.get("parallel_openai")
        if not isinstance(about, dict):
            raise InvalidInputError(
                "This frame does not come from process_dataframe or label_dataframe, or lost its attrs on the way (as "
                "merge and read_csv lose them); only format='records' works for it. To keep them: "
                "new.attrs = out.attrs."
            )
        self.out = out
        self.about: Mapping[str, Any] = about
        self.prefix: str = about.get("prefix", "")
        self.path = endpoint(about["endpoint"]).path
        self._columns = {
            "answer": self.prefix + about["answer"],
            **{name: self.prefix + name for name in ("status", "error", "request_key")},
        }
        for column in self._columns.values():
            find_column(out, column, "to_jsonl")

    def journal(self) -> _OpenJournal:
        return _OpenJournal(self.about["journal"])

    def requests(self, known: _OpenJournal) -> Iterator[tuple[APIRequest | None, dict[str, Any]]]:
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
        """The requests made anew from the recipe; None where a function made them."""
        if self.about.get("made_by_function"):
            return None
        recipe = Recipe(
            _column_again(self.about["prompt"]),
            self.about["model"],
            _column_again(self.about["system"]),
            endpoint(self.about["endpoint"]),
            self.about["params"],
            [_column_again(name) for name in self.about.get("metadata", ())],
            examples=self.about.get("examples", ()),
        )
        try:
            recipe.check(self.out)
        except InvalidInputError:
            return None  # the columns it was made of were dropped; the journal has what was sent
        return recipe.requests(self.out)

    def _cells(self) -> Iterator[dict[str, Any]]:
        for values in rows_of(self.out, list(self._columns.values())):
            row = dict(zip(self._columns, values, strict=True))
            if isinstance(row["request_key"], list):  # of several samples, the first
                row["request_key"] = row["request_key"][0]
            yield row


def _column_again(name: Any) -> Any:
    """A name out of the attrs, where JSON made a list of a tuple."""
    return tuple(name) if isinstance(name, list) else name


class _OpenJournal:
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
        return APIRequest(entry[0], entry[2], path=path)

    def __enter__(self) -> _OpenJournal:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._known.close()
