"""The lines of a file of results: made, told from anything else, and read, also while a run writes them.

A line is `[request, response]`, `[request, response, metadata]` or, for a frame's rows,
`[request, response, metadata, record]`; a failure has the list of its errors in the place of the response.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import IO, Any, TypeVar

from parallel_openai._json import loads, loads_quickly
from parallel_openai.errors import JournalError

Entry = list[Any]
Content = TypeVar("Content")

#: A file that begins with more damaged lines than these is none of ours.
_MOST_DAMAGED = 1000
_FIRST_READ, _CHUNK = 4096, 1 << 20
#: Bytes read ahead; with Python's own 8 kB, reading a line of 1 kB takes three times as long.
READ_AHEAD = 1 << 18


def read_entries(path: str | os.PathLike[str]) -> Iterator[tuple[int, Entry | None]]:
    """Each whole line's offset and content; None for a line that is damaged. A torn end is left out.

    It may be read while a run writes it.

    Raises:
        JournalError: it cannot be opened; or no line, or none of the first thousand, is one of ours, so that it is
            something else.
    """
    return read_lines(path, parse_line)


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
            elif entry is not None and (content := parse_line(line)) is not None:  # it read all, and not only the end
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


def read_entry_at(file: int, offset: int) -> Entry | None:
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
    return parse_line(b"".join(chunks), loads_quickly)


def parse_line(line: bytes, read: Callable[[bytes], Any] = loads) -> Entry | None:
    """The line's list of two to four, or None.

    >>> parse_line(b'[{"model":"m"},{"id":"1"}]')
    [{'model': 'm'}, {'id': '1'}]
    >>> parse_line(b'[{"model":"m"},{"id"') is None
    True
    """
    try:
        entry = read(line)
    except ValueError:
        return None
    return entry if isinstance(entry, list) and 2 <= len(entry) <= 4 and isinstance(entry[0], dict) else None


#: What a request has one of, whatever the endpoint, beside its model, and what an answer has at least one of.
_ASKS = ("messages", "input", "prompt")
_ANSWERS = ("id", "object", "usage", "error")
_LISTS = ("choices", "output", "data", "results")


def is_ours(entry: Entry | None) -> bool:
    """Whether a line can only be one of a file of results, and is no list of records or of messages.

    >>> is_ours([{"model": "m"}, {"choices": []}]), is_ours([{"prompt": "a"}, {"prompt": "b"}])
    (True, False)
    """
    if entry is None:
        return False
    request, answer, *beside = entry
    about = beside[-1] if beside else None
    if isinstance(about, dict) and ("key" if len(beside) == 2 else "batch") in about and (beside[1:] or answer is None):
        return True
    asked = [name for name in _ASKS if request.get(name) is not None]
    if not (asked or "model" in request) or "role" in request:
        return False
    if not isinstance(answer, dict):
        return isinstance(answer, list)
    if any(answer.get(name) is not None for name in asked):  # it asks as well: two records of somebody's data
        return False
    speaks = any(name in answer for name in _ANSWERS) or any(isinstance(answer.get(name), list) for name in _LISTS)
    return speaks or bool(asked and "model" in request)


def make_line(body: bytes, answer: bytes, *rest: bytes) -> bytes:
    """One line of JSON parts, each of which may come with line breaks between its tokens.

    >>> make_line(b'{"a":1}', b'{\\n "b": 2\\n}')
    b'[{"a":1},{  "b": 2 }]'
    """
    line = b"[" + b",".join((body, answer, *rest)) + b"]"
    if b"\n" in line or b"\r" in line:  # in JSON a line break never stands inside a string
        line = line.replace(b"\n", b" ").replace(b"\r", b" ")
    return line


def read_at(file: int, count: int, offset: int) -> bytes:
    """Up to so many bytes from there, without regard to where the file stands."""
    if hasattr(os, "pread"):
        return os.pread(file, count, offset)
    os.lseek(file, offset, os.SEEK_SET)  # Windows; appending does not heed the position
    return os.read(file, count)
