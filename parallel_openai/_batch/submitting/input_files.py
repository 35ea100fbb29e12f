"""The parts of a run on disk: the files to upload, and what the API does not get of each row.

A part `x` is two files: `x.jsonl`, the input file of its batch, and `x.rows`, with a line for each of its lines:
`[custom_id, offset, key, sample, metadata, attempts]`. They are in a folder beside the journal until the part's answers
are in the journal. If the folder is lost, the input file can be downloaded again, but the rest cannot be restored.
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

from parallel_openai._batch.batch_state import Part
from parallel_openai._batch.collecting.download_bounds import max_answer_bytes
from parallel_openai._batch.disk_writes import on_disk
from parallel_openai._batch.part_failures import LostError
from parallel_openai._disk.file_ownership import check_own
from parallel_openai._journal.entry import attempts_of
from parallel_openai._json import dumps, loads
from parallel_openai._log import log
from parallel_openai._records import APIRequest, Attempt
from parallel_openai._requests.tokens import size_of


@dataclass(frozen=True, slots=True)
class Row:
    """A request with its name in the part and its earlier attempts."""

    custom_id: str
    request: APIRequest
    attempts: tuple[Attempt, ...] = ()


#: The kinds of files of a part, and the pattern of its name: the run and a number.
_KINDS = ("jsonl", "rows", "output", "error")
_OURS = re.compile(r".+-[0-9]{4,}")
#: The file with the time at which the batches of the folder were cancelled.
_CANCELLED = "cancelled"
_ADVICE = "Remove it, or use another journal, since files in this folder are written over and deleted."


class Unknown:
    """The metadata of a row whose `.rows` file is lost; only a call with the same row can restore it."""


UNKNOWN = Unknown()


class RowInfo(NamedTuple):
    """A line of the `.rows` file, without its custom_id."""

    offset: int
    key: str
    sample: int
    metadata: Any
    attempts: Sequence[Any]


def row_name(key: str, metadata: Any, *, record: bool) -> str:
    """What names a row in a run: its request's key. Without a `record`, as in files, also its metadata, since equal
    requests of two lines are distinct."""
    return key if record or metadata is None else f"{key} {dumps(metadata, sort_keys=True).decode()}"


class InputFiles:
    """The folder of a journal's parts.

    Args:
        journal: the journal's path; the folder's name is its name and `.batches`.
    """

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self.folder = journal.with_name(journal.name + ".batches")
        check_own(self.folder, _ADVICE)

    def path(self, name: str, kind: str = "jsonl") -> Path:
        """The path of a part's file: `jsonl`, `rows`, or `output` and `error` while they are read.

        Raises:
            JournalError: it is a link, as one that came with a copied folder, or another user's.
        """
        return self._own(f"{name}.{kind}")

    def _own(self, name: str) -> Path:
        check_own(self.folder / name, _ADVICE)
        return self.folder / name

    def open(self, name: str, kind: str = "jsonl") -> IO[bytes]:
        return open(self.path(name, kind), "rb")

    def make_folder(self) -> None:
        with on_disk(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def writer(self, part: Part) -> PartWriter:
        self.make_folder()
        with on_disk(self.folder):
            return PartWriter(part, self.path(part.name), self.path(part.name, "rows"))

    def holds(self, name: str) -> bool:
        """Whether the part's input file exists."""
        return self.path(name).exists()

    def knows_rows(self, name: str) -> bool:
        """Whether both files of the part exist."""
        return self.holds(name) and self.path(name, "rows").exists()

    def is_complete(self, name: str, count: int) -> bool:
        """Whether the part's input file exists with this many rows."""
        try:
            return len(self._infos_from_input(name)) == count
        except (OSError, LostError):
            return False

    def row_infos(self, name: str, count: int | None = None) -> dict[str, RowInfo]:
        """The rows of a part by custom_id, in order.

        Args:
            count: the expected number of rows; None: not checked.

        Raises:
            LostError: the files are damaged.
        """
        infos = self._stored_infos(name) if self.knows_rows(name) else self._infos_from_input(name)
        if count not in (None, len(infos)):
            raise LostError(f"{self.path(name)} is damaged: it has {len(infos):,} rows instead of {count:,}.")
        return infos

    def _stored_infos(self, name: str) -> dict[str, RowInfo]:
        with open(self.path(name, "rows"), "rb") as file:
            try:
                return {str(custom_id): RowInfo(*rest) for custom_id, *rest in map(loads, file)}
            except (ValueError, TypeError) as error:
                raise LostError(f"{self.path(name, 'rows')} is damaged ({error}).") from error

    def _infos_from_input(self, name: str) -> dict[str, RowInfo]:
        """The rows from the input file alone, in which a custom_id is the key, possibly with a number appended."""
        found, end = dict[str, RowInfo](), 0
        with open(self.path(name), "rb") as file:
            try:
                for raw in file:
                    custom_id = str(loads(raw)["custom_id"])
                    found[custom_id] = RowInfo(end, custom_id.partition("-")[0], 0, UNKNOWN, [])
                    end += len(raw)
            except (ValueError, TypeError, KeyError) as error:
                raise LostError(f"The input file {self.path(name)} is damaged ({error!r}).") from error
        return found

    def rows(self, name: str, path: str) -> Iterator[Row]:
        """The rows of a part, read one by one. Damaged ones are logged and left out."""
        infos = self.row_infos(name)
        with open(self.path(name), "rb") as file:
            for custom_id, info in infos.items():
                try:
                    row = read_row(file, custom_id, info, path)
                except LostError as error:
                    log.warning("%s", error)
                    continue
                yield row

    def cancel(self) -> None:
        """Cancel all parts planned so far, also for a run in another process that holds the journal."""
        self.make_folder()
        with on_disk(self.folder):
            self._own(_CANCELLED).write_text(repr(time.time()))

    def is_cancelled(self, since: float) -> bool:
        """Whether `cancel` was called at `since` (seconds since the epoch) or later."""
        try:
            return float(self._own(_CANCELLED).read_text()[:40]) >= since
        except (OSError, ValueError):
            return False

    def tidy(self, names: Set[str]) -> None:
        """Remove the files of all other parts, which a crashed call may have left."""
        for file in self.folder.iterdir() if self.folder.is_dir() else ():
            name, _, kind = file.name.rpartition(".")
            if kind in _KINDS and _OURS.fullmatch(name) and name not in names:
                self.remove(name)

    def remove(self, name: str) -> None:
        """Remove a part's files, and the folder with the last part."""
        for kind in _KINDS:
            self.path(name, kind).unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            if [each.name for each in self.folder.iterdir()] == [_CANCELLED]:
                (self.folder / _CANCELLED).unlink()
            self.folder.rmdir()


def read_row(file: IO[bytes], custom_id: str, info: RowInfo, path: str) -> Row:
    """Read a row's request from the open input file.

    Raises:
        LostError: the file is damaged there.
    """
    try:
        file.seek(info.offset)
        request = APIRequest(loads(file.readline())["body"], info.metadata, path=path, sample=info.sample)
    except (ValueError, TypeError, KeyError) as error:
        raise LostError(f"The input file {file.name} is damaged: row {custom_id!r:.100} cannot be read.") from error
    if not isinstance(request.request_json, dict):
        raise LostError(f"The input file {file.name} is damaged: row {custom_id!r:.100} has no request.")
    request.key = info.key
    request.measure = size_of
    return Row(custom_id, request, attempts_of(list(info.attempts)))


class PartWriter:
    """Writes the files of a part, and counts in it what they hold."""

    def __init__(self, part: Part, path: Path, rows: Path) -> None:
        self.part = part
        self.inputs = 0  # of embeddings
        self._path = path
        self._file, self._rows = open(path, "wb"), open(rows, "wb")  # noqa: SIM115 - both are closed by `close`

    def add(self, row: Row, line: bytes) -> None:
        request, part = row.request, self.part
        attempts = [
            {name: value for name, value in each._asdict().items() if value is not None} for each in row.attempts
        ]
        info = RowInfo(part.bytes, request.key, request.sample, request.metadata, attempts)
        with on_disk(self._path):
            self._file.write(line)
            self._rows.write(dumps([row.custom_id, *info]) + b"\n")
        self.inputs += inputs_of(request)
        part.requests += 1
        part.bytes += len(line)
        part.tokens += tokens_of(request)
        part.answer_bytes += max_answer_bytes(request, inputs_of(request))
        part.has_metadata = part.has_metadata or request.metadata is not None

    def close(self) -> None:
        """Close the files and sync them to disk."""
        with on_disk(self._path):
            for file in (self._file, self._rows):
                file.flush()
                os.fsync(file.fileno())
                file.close()

    def abandon(self) -> None:
        """Close the files, which are about to be removed."""
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
    """The number of embedding inputs of a request, which the Batch API limits."""
    given = request.request_json.get("input")
    return len(given) if isinstance(given, (list, tuple)) and given and not isinstance(given[0], int) else 1
