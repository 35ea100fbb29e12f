"""The parts of a run on the disk: what is uploaded, and beside it what the API is not told of each row.

A part `x` is two files: `x.jsonl`, the input file of its batch, and `x.rows`, with a line for each line of that:
`[custom_id, offset, key, sample, metadata, attempts]`. They lie in a folder beside the journal until the part's answers
are in the journal. Where the folder was lost, the server has the input file, and nobody the rest.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from parallel_openai._batch.collecting.download_bounds import most_bytes
from parallel_openai._batch.disk_errors import on_disk
from parallel_openai._batch.part_failures import LostError
from parallel_openai._disk.file_ownership import check_own
from parallel_openai._journal.entry import attempts_of
from parallel_openai._json import dumps, loads
from parallel_openai._log import log
from parallel_openai._records import APIRequest, Attempt, Size
from parallel_openai._requests.encodings import encoding_for_model
from parallel_openai._requests.tokens import request_size


@dataclass(frozen=True, slots=True)
class Row:
    """A request under the name that it has in its part, with the sends that brought no answer."""

    custom_id: str
    request: APIRequest
    attempts: tuple[Attempt, ...] = ()


#: The files of a part, and how a part is called: by its run and a number.
_KINDS = ("jsonl", "rows", "output", "error")
_OURS = re.compile(r".+-[0-9]{4,}")
#: The file that says when the batches of the folder were cancelled.
_CANCELLED = "cancelled"


class Unknown:
    """The metadata of a row whose part was lost here: only who asks for the row again can tell it."""


UNKNOWN = Unknown()


class Place(NamedTuple):
    """What is known of a row without reading its request."""

    offset: int
    key: str
    sample: int
    metadata: Any
    attempts: Sequence[Any]


class InputFiles:
    """The folder of a journal's parts.

    Args:
        journal: the journal's path; the folder's name is its name and `.batches`.
    """

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self.folder = journal.with_name(journal.name + ".batches")
        check_own(self.folder, "Remove it, or take another journal: nobody named it, and files in it are removed.")

    def place(self, name: str, kind: str = "jsonl") -> Path:
        """Where a file of a part lies: `jsonl`, `rows`, or `output` and `error` while they are read."""
        return self.folder / f"{name}.{kind}"

    def open(self, name: str, kind: str = "jsonl") -> IO[bytes]:
        return open(self.place(name, kind), "rb")

    def make_folder(self) -> None:
        with on_disk(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def writer(self, name: str) -> PartWriter:
        self.make_folder()
        with on_disk(self.folder):
            return PartWriter(self.place(name), self.place(name, "rows"))

    def holds(self, name: str) -> bool:
        """Whether the part's input file is here."""
        return self.place(name).exists()

    def knows_rows(self, name: str) -> bool:
        """Whether all that was known of its rows is."""
        return self.holds(name) and self.place(name, "rows").exists()

    def is_whole(self, name: str, count: int) -> bool:
        """Whether the part's input file is here with so many rows."""
        try:
            return len(self._places_of_input(name)) == count
        except (OSError, LostError):
            return False

    def places(self, name: str, count: int | None = None) -> dict[str, Place]:
        """Each row of a part by its custom_id, in the part's order.

        Args:
            count: how many there must be; None: that was seen already.

        Raises:
            LostError: the files are damaged.
        """
        places = self._places(name) if self.knows_rows(name) else self._places_of_input(name)
        if count not in (None, len(places)):
            raise LostError(f"{self.place(name)} is damaged: there are {len(places):,} rows of {count:,}.")
        return places

    def _places(self, name: str) -> dict[str, Place]:
        with open(self.place(name, "rows"), "rb") as file:
            try:
                return {str(custom_id): Place(*rest) for custom_id, *rest in map(loads, file)}
            except (ValueError, TypeError) as error:
                raise LostError(f"{self.place(name, 'rows')} is damaged ({error}).") from error

    def _places_of_input(self, name: str) -> dict[str, Place]:
        """From the input file alone: a row's name is its key, with a number behind it where the same is asked again."""
        found, end = dict[str, Place](), 0
        with open(self.place(name), "rb") as file:
            try:
                for raw in file:
                    custom_id = str(loads(raw)["custom_id"])
                    found[custom_id] = Place(end, custom_id.partition("-")[0], 0, UNKNOWN, [])
                    end += len(raw)
            except (ValueError, TypeError, KeyError) as error:
                raise LostError(f"The input file {self.place(name)} is damaged ({error!r}).") from error
        return found

    def rows(self, name: str, path: str) -> Iterator[Row]:
        """All rows of a part, read one by one; but for those that are damaged, which are named in the log."""
        places = self.places(name)
        with open(self.place(name), "rb") as file:
            for custom_id, place in places.items():
                try:
                    row = read_row(file, custom_id, place, path)
                except LostError as error:
                    log.warning("%s", error)
                    continue
                yield row

    def cancel(self) -> None:
        """Note that nothing of what is planned by now is to be submitted any more: for a run in another process too,
        which holds the journal."""
        self.make_folder()
        with on_disk(self.folder):
            (self.folder / _CANCELLED).write_text(repr(time.time()))

    def is_cancelled(self, since: float) -> bool:
        """Whether that was noted at this moment (seconds since 1970) or later."""
        try:
            return float((self.folder / _CANCELLED).read_text()[:40]) >= since
        except (OSError, ValueError):
            return False

    def tidy(self, names: Set[str]) -> None:
        """Remove what belongs to none of these parts: a call that died may have left it."""
        for file in self.folder.iterdir() if self.folder.is_dir() else ():
            name, _, kind = file.name.rpartition(".")
            if kind in _KINDS and _OURS.fullmatch(name) and name not in names:
                self.remove(name)

    def remove(self, name: str) -> None:
        """Forget a part; the folder goes with the last one."""
        for kind in _KINDS:
            self.place(name, kind).unlink(missing_ok=True)
        with suppress(OSError):  # others are there
            if [each.name for each in self.folder.iterdir()] == [_CANCELLED]:
                (self.folder / _CANCELLED).unlink()
            self.folder.rmdir()


def read_row(file: IO[bytes], custom_id: str, place: Place, path: str) -> Row:
    """A row's request, from the open input file.

    Raises:
        LostError: it is not there.
    """
    try:
        file.seek(place.offset)
        request = APIRequest(loads(file.readline())["body"], place.metadata, path=path, sample=place.sample)
    except (ValueError, TypeError, KeyError) as error:
        raise LostError(f"The input file {file.name} is damaged: it has no row {custom_id!r:.100}.") from error
    if not isinstance(request.request_json, dict):
        raise LostError(f"The input file {file.name} is damaged: row {custom_id!r:.100} asks nothing.")
    request.key = place.key
    request.measure = _size_of
    return Row(custom_id, request, attempts_of({"attempts": list(place.attempts)}))


def _size_of(request: APIRequest) -> Size:
    model = request.request_json.get("model")
    return request_size(request.request_json, encoding_for_model(None if model is None else str(model)), request.path)


class PartWriter:
    """A part while it fills up.

    Attributes:
        requests, bytes, tokens, inputs: what is in it; tokens are those of the prompts, as far as they are known.
        answer_bytes: how long the answers may be together.
        has_metadata: whether any row has some.
    """

    def __init__(self, place: Path, rows: Path) -> None:
        self.requests = self.bytes = self.tokens = self.inputs = self.answer_bytes = 0
        self.has_metadata = False
        self._place = place
        self._file, self._rows = open(place, "wb"), open(rows, "wb")  # noqa: SIM115 - both are closed by `close`

    def add(self, row: Row, line: bytes) -> None:
        request = row.request
        attempts = [
            {name: value for name, value in each._asdict().items() if value is not None} for each in row.attempts
        ]
        place = Place(self.bytes, request.key, request.sample, request.metadata, attempts)
        with on_disk(self._place):
            self._file.write(line)
            self._rows.write(dumps([row.custom_id, *place]) + b"\n")
        self.requests += 1
        self.bytes += len(line)
        self.tokens += tokens_of(request)
        self.inputs += inputs_of(request)
        self.answer_bytes += most_bytes(request, inputs_of(request))
        self.has_metadata = self.has_metadata or request.metadata is not None

    def close(self) -> None:
        """From here on the part survives the machine."""
        with on_disk(self._place):
            for file in (self._file, self._rows):
                file.flush()
                os.fsync(file.fileno())
                file.close()

    def abandon(self) -> None:
        """Let the files go, which are not needed any more."""
        for file in (self._file, self._rows):
            with suppress(OSError):
                file.close()


def make_line(row: Row) -> bytes:
    """The row's line of the input file.

    >>> make_line(Row("a", APIRequest({"model": "gpt-5-mini"})))
    b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"gpt-5-mini"}}\\n'
    """
    name, url = dumps(row.custom_id), dumps(f"/v1/{row.request.path}")
    return b'{"custom_id":%b,"method":"POST","url":%b,"body":%b}\n' % (name, url, row.request.body)


def tokens_of(request: APIRequest) -> int:
    return request.size.prompt_tokens if request.size is not None else len(request.body) // 4


def inputs_of(request: APIRequest) -> int:
    """How many inputs of embeddings it counts for."""
    given = request.request_json.get("input")
    return len(given) if isinstance(given, (list, tuple)) and given and not isinstance(given[0], int) else 1
