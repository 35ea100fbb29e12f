"""Reading a results file line by line, even while a run writes to it, and refusing a file of any other kind."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from itertools import chain
from typing import IO, TypeVar

from parallel_openai._journal.entry import VERSION, JournalEntry
from parallel_openai._json import loads_quickly, values_in
from parallel_openai.errors import JournalError

Content = TypeVar("Content")

#: A file that begins with this many damaged lines is taken for something else.
_MOST_DAMAGED = 1000
_FIRST_READ, _CHUNK = 4096, 1 << 20
#: The read buffer, in bytes. With Python's default of 8 kB, reading a line of 1 kB takes three times as long.
READ_AHEAD = 1 << 18


def read_entries(path: str | os.PathLike[str]) -> Iterator[tuple[int, JournalEntry | None]]:
    """Yield each line's offset and entry, or None for a damaged line. A torn last line is left out.

    Raises:
        JournalError: the file cannot be opened, is no results file (none of its first thousand lines is one of ours),
            or was written by a later version.
    """
    for offset, entry in read_lines(path, JournalEntry.read):
        if entry is not None and entry.record:
            check_version(path, entry)
        yield offset, entry


def check_version(path: str | os.PathLike[str], entry: JournalEntry) -> None:
    """Raise JournalError if a later version wrote the line."""
    if entry.version > VERSION:
        raise JournalError(
            f"{path} holds a line of version {entry.version} of the journal, and this parallel_openai reads up to "
            f"{VERSION}. Update it, or choose another path."
        )


def read_lines(
    path: str | os.PathLike[str], read: Callable[[bytes], Content | None]
) -> Iterator[tuple[int, Content | None]]:
    """As `read_entries`, with the caller's own `read`, which returns None for a damaged line. Versions are not checked.

    Raises:
        JournalError: the file cannot be opened, or is no results file.
    """
    with open_to_read(path) as file:
        offset = 0
        damaged: list[int] | None = []  # offsets of damaged lines before the first good one; None from there on
        for line in chain.from_iterable(map(records_in, file)):
            entry = read(line)
            whole = line.endswith(b"\n")
            if damaged is None:
                if whole or entry is not None:
                    yield offset, entry
            elif entry is not None and (content := JournalEntry.read(line)) is not None:  # `read` may see only the end
                if not is_ours(content):
                    raise not_a_results_file(path)
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
            raise not_a_results_file(path)


def records_in(line: bytes) -> list[bytes]:
    """The line; or the records in it, if somebody put a file without a last newline before another one.

    >>> records_in(b'[{"model":"m"},{"id":"1"}][{"model":"m"},{"id":"2"}]\\n')
    [b'[{"model":"m"},{"id":"1"}]', b'[{"model":"m"},{"id":"2"}]\\n']
    """
    if b"][{" not in line or JournalEntry.read(line) is not None:
        return [line]
    return values_in(line)


def not_a_results_file(path: str | os.PathLike[str]) -> JournalError:
    return JournalError(
        f"{path} is no file of results: its first line is not [request, response]. "
        "Choose another path, so that it is not added to."
    )


def refuse_special_file(path: str | os.PathLike[str]) -> None:
    """Raise JournalError for a pipe or a device, on which opening could block forever. (Opening refuses a folder.)"""
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise JournalError(f"{path} is no ordinary file, and answers must be kept in one. Choose another path.")


def open_to_read(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a results file with a large buffer, or raise JournalError."""
    refuse_special_file(path)
    try:
        return open(path, "rb", buffering=READ_AHEAD)
    except OSError as error:
        raise cannot_be_opened(path, error) from error


def cannot_be_opened(path: str | os.PathLike[str], error: OSError) -> JournalError:
    return JournalError(f"The results file {path} cannot be opened: {error.strerror}. Choose another path for it.")


def likely_lines(path: str | os.PathLike[str], lines: int, size: int) -> int:
    """Estimate how many lines a file has from its first `lines`, which take `size` bytes; at most one per kilobyte."""
    whole = os.path.getsize(path)
    return min(whole * lines // max(size, 1), whole // 1024)


def _may_be_torn(line: bytes) -> bool:
    """Whether a file's only line may be the beginning of one of ours, rather than some other JSON."""
    start = line.lstrip()
    if start.startswith(b"[{") and start[2:3] not in (b'"', b"}", b""):
        return False
    try:
        json.loads(line)  # the standard library's, since it also reads the NaN that other programs write
    except (ValueError, RecursionError):
        return start.startswith(b"[{"[: len(start)])
    return False


def read_entry_at(file: int, offset: int) -> JournalEntry | None:
    """The entry at an offset of an open file, or None if it is damaged. Integers beyond 64 bits may become floats."""
    chunks: list[bytes] = []
    while True:
        chunk = read_at(file, _FIRST_READ if not chunks else _CHUNK, offset)
        end = chunk.find(b"\n")
        chunks.append(chunk if end < 0 else chunk[:end])
        if end >= 0 or not chunk:
            break
        offset += len(chunk)
    return JournalEntry.read(records_in(b"".join(chunks))[0], loads_quickly)


#: A request to any endpoint has one of the first, beside its model; an answer has one of the others.
PROMPT_FIELDS = ("messages", "input", "prompt")
_ANSWERS = ("id", "object", "usage", "error")
_LISTS = ("choices", "output", "data", "results")


def is_ours(entry: JournalEntry) -> bool:
    """Whether a line is one of a results file, and not a list of records or of messages.

    >>> is_ours(JournalEntry({"model": "m"}, {"choices": []})), is_ours(JournalEntry({"prompt": "a"}, {"prompt": "b"}))
    (True, False)
    """
    request, answer, metadata, record = entry
    is_batch_mark = isinstance(metadata, dict) and "batch" in metadata and answer is None
    if is_batch_mark if record is None else "key" in record:
        return True
    prompts = [name for name in PROMPT_FIELDS if request.get(name) is not None]
    if not (prompts or "model" in request) or "role" in request:
        return False
    if not isinstance(answer, dict):
        return isinstance(answer, list)
    if any(answer.get(name) is not None for name in prompts):  # both have a prompt: two records of somebody's data
        return False
    is_answer = any(name in answer for name in _ANSWERS) or any(isinstance(answer.get(name), list) for name in _LISTS)
    return is_answer or bool(prompts and "model" in request)


def read_at(file: int, count: int, offset: int) -> bytes:
    """Read up to `count` bytes at an offset, whatever the file's current position."""
    if hasattr(os, "pread"):
        return os.pread(file, count, offset)
    os.lseek(file, offset, os.SEEK_SET)  # Windows; harmless, since appending ignores the position
    return os.read(file, count)
