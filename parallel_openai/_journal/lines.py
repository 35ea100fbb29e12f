"""The lines of a file of results: told from anything else, and read, also while a run writes them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import IO, TypeVar

from parallel_openai._journal.entry import VERSION, JournalEntry
from parallel_openai._json import loads_quickly
from parallel_openai.errors import JournalError

Content = TypeVar("Content")

#: A file that begins with more damaged lines than these is none of ours.
_MOST_DAMAGED = 1000
_FIRST_READ, _CHUNK = 4096, 1 << 20
#: Bytes read ahead; with Python's own 8 kB, reading a line of 1 kB takes three times as long.
READ_AHEAD = 1 << 18


def read_entries(path: str | os.PathLike[str]) -> Iterator[tuple[int, JournalEntry | None]]:
    """Each whole line's offset and content; None for a line that is damaged. A torn end is left out.

    It may be read while a run writes it.

    Raises:
        JournalError: it cannot be opened; or no line, or none of the first thousand, is one of ours, so that it is
            something else; or a later version wrote it.
    """
    for offset, entry in read_lines(path, JournalEntry.read):
        if entry is not None and entry.record:
            check_version(path, entry)
        yield offset, entry


def check_version(path: str | os.PathLike[str], entry: JournalEntry) -> None:
    """See that a line is none of a later version.

    Raises:
        JournalError: it is.
    """
    if entry.version > VERSION:
        raise JournalError(
            f"{path} holds a line of version {entry.version} of the journal, and this parallel_openai reads up to "
            f"{VERSION}. Update it, or choose another path."
        )


def read_lines(
    path: str | os.PathLike[str], read: Callable[[bytes], Content | None]
) -> Iterator[tuple[int, Content | None]]:
    """The same for those who want something else of a line; `read` gives it, or None where the line is damaged.

    Raises:
        JournalError: it cannot be opened; or no line, or none of the first thousand, is one of ours, so that it is
            something else.
    """
    with open_to_read(path) as file:
        offset = 0
        damaged: list[int] | None = []  # those before the first good line
        for line in file:
            entry = read(line)
            whole = line.endswith(b"\n")
            if damaged is None:
                if whole or entry is not None:
                    yield offset, entry
            elif entry is not None and (content := JournalEntry.read(line)) is not None:  # all of it, not its end alone
                if not is_ours(content):
                    raise none_of_ours(path)
                yield from ((each, None) for each in damaged)
                yield offset, entry
                damaged = None
            elif whole:
                damaged.append(offset)
                if len(damaged) >= _MOST_DAMAGED:
                    break
            elif not (damaged or _may_be_torn(line)):
                damaged.append(offset)
            offset += len(line)
        if damaged:
            raise none_of_ours(path)


def none_of_ours(path: str | os.PathLike[str]) -> JournalError:
    return JournalError(
        f"{path} is no file of results: its first line is not [request, response]. "
        "Choose another path, so that it is not added to."
    )


def refuse_what_is_no_file(path: str | os.PathLike[str]) -> None:
    """Such as a pipe, which would be waited for without end; a folder is refused on opening.

    Raises:
        JournalError: something of the kind is there.
    """
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise JournalError(f"{path} is no ordinary file, and answers must be kept in one. Choose another path.")


def open_to_read(path: str | os.PathLike[str]) -> IO[bytes]:
    """The file, with much read ahead.

    Raises:
        JournalError: it cannot be opened.
    """
    refuse_what_is_no_file(path)
    try:
        return open(path, "rb", buffering=READ_AHEAD)
    except OSError as error:
        raise cannot_be_opened(path, error) from error


def cannot_be_opened(path: str | os.PathLike[str], error: OSError) -> JournalError:
    return JournalError(f"The results file {path} cannot be opened: {error.strerror}. Choose another path for it.")


def likely_lines(path: str | os.PathLike[str], lines: int, size: int) -> int:
    """How many lines a file has, if all are as its first ones, which take so many bytes.

    Where the others are much longer, it is no more than one for each kilobyte.
    """
    whole = os.path.getsize(path)
    return min(whole * lines // max(size, 1), whole // 1024)


def _may_be_torn(tail: bytes) -> bool:
    """Whether a file's only line can be the beginning of one of ours, and is not the whole of something else."""
    start = tail.lstrip()
    if start.startswith(b"[{") and start[2:3] not in (b'"', b"}", b""):
        return False
    try:
        json.loads(tail)  # which reads NaN and the like, that other programs write
    except (ValueError, RecursionError):
        return start.startswith(b"[{"[: len(start)])
    return False


def read_entry_at(file: int, offset: int) -> JournalEntry | None:
    """The line that begins at an offset of an open file; None where it is damaged."""
    chunks: list[bytes] = []
    while True:
        chunk = read_at(file, _FIRST_READ if not chunks else _CHUNK, offset)
        end = chunk.find(b"\n")
        chunks.append(chunk if end < 0 else chunk[:end])
        if end >= 0 or not chunk:
            break
        offset += len(chunk)
    # For the answer in it; who wants the metadata reads the file.
    return JournalEntry.read(b"".join(chunks), loads_quickly)


#: What a request has one of, whatever the endpoint, beside its model, and what an answer has at least one of.
ASKS = ("messages", "input", "prompt")
_ANSWERS = ("id", "object", "usage", "error")
_LISTS = ("choices", "output", "data", "results")


def is_ours(entry: JournalEntry) -> bool:
    """Whether a line can only be one of a file of results, and is no list of records or of messages.

    >>> is_ours(JournalEntry({"model": "m"}, {"choices": []})), is_ours(JournalEntry({"prompt": "a"}, {"prompt": "b"}))
    (True, False)
    """
    request, answer, metadata, record = entry
    tells_of_batch = isinstance(metadata, dict) and "batch" in metadata and answer is None
    if tells_of_batch if record is None else "key" in record:
        return True
    asked = [name for name in ASKS if request.get(name) is not None]
    if not (asked or "model" in request) or "role" in request:
        return False
    if not isinstance(answer, dict):
        return isinstance(answer, list)
    if any(answer.get(name) is not None for name in asked):  # it asks as well: two records of somebody's data
        return False
    speaks = any(name in answer for name in _ANSWERS) or any(isinstance(answer.get(name), list) for name in _LISTS)
    return speaks or bool(asked and "model" in request)


def read_at(file: int, count: int, offset: int) -> bytes:
    """Up to so many bytes from there, without regard to where the file stands."""
    if hasattr(os, "pread"):
        return os.pread(file, count, offset)
    os.lseek(file, offset, os.SEEK_SET)  # Windows; appending does not heed the position
    return os.read(file, count)
