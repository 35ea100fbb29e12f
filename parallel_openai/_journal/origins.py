"""Records which server a file run's answers came from and who wrote them, in `<results>.origins` beside the results.

The results themselves keep the format that other programs read, which has no field for either. A line of the origins
file is `[offset, digest, place, writer]` and covers the results from that offset to the next one recorded. The digest
is that of the results line at the offset, so that a line does not apply if another file is put under the same name.
"""

from __future__ import annotations

import getpass
import os
import socket
from bisect import bisect_right
from collections.abc import Iterator
from functools import cache
from hashlib import blake2b
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import IO, NamedTuple

from parallel_openai._disk.file_ownership import check_own
from parallel_openai._http.addresses.url_checks import one_spelling
from parallel_openai._json import dumps, loads
from parallel_openai.errors import JournalError

#: Bounds on what is read, since a file that came from elsewhere may hold anything.
_MOST_LINES, _LONGEST_LINE = 100_000, 10_000
#: How an origins file begins.
_FIRST = b'[0,"'


class Origin(NamedTuple):
    """The server that answered (`Client.place`, in canonical spelling) and who wrote the answers down."""

    place: str
    writer: str


def here(place: str) -> Origin:
    """The origin of answers that this process gets from a server."""
    return Origin(one_spelling(place), writer())


class Origins:
    """The origins recorded for a results file, as far as they fit its present content."""

    def __init__(self, results: Path) -> None:
        self._offsets: list[int] = []
        self._origins: list[Origin] = []
        try:
            with open(results, "rb") as file:
                for offset, digest, origin in _lines(_origins_path(results)):
                    if offset >= (self._offsets[-1] if self._offsets else 0) and _line_digest(file, offset) == digest:
                        self._offsets.append(offset)
                        self._origins.append(origin)
        except FileNotFoundError:
            return
        except OSError as error:
            if isinstance(error, JournalError):
                raise
            raise JournalError(f"{_origins_path(results)} cannot be read: {error.strerror}.") from error

    def of(self, offset: int) -> Origin | None:
        """The origin of the line that begins at an offset, or None if none is recorded."""
        number = bisect_right(self._offsets, offset)
        return self._origins[number - 1] if number else None


def refuse_other_origins_file(results: Path) -> None:
    """Before new results are begun, refuse to overwrite a file of another program that has the origins file's name.

    Raises:
        JournalError: there is one.
    """
    path = _origins_path(results)
    if not (path.exists() and results.exists()) or results.stat().st_size:
        return
    with open(path, "rb") as file:
        head = file.read(len(_FIRST))
    if not _FIRST.startswith(head):  # a torn file of ours holds only the beginning of it
        raise JournalError(f"{path} is no file of ours, and would be written over. Move it, or choose another path.")


def record_origin(results: Path, offset: int, line: bytes, origin: Origin) -> None:
    """Record the origin of the results from an offset on, where `line` is about to be written.

    Raises:
        OSError: the origins file cannot be written.
    """
    path = _origins_path(results)
    if offset and Origins(results).of(offset) == origin:
        return
    flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if offset else os.O_TRUNC)
    with open(os.open(path, flags, 0o600), "ab" if offset else "wb") as file:
        before = b"\n" if offset else b""  # the last line may be torn
        file.write(before + dumps([offset, _digest(line), *origin]) + b"\n")


def record_origin_of_last(results: Path, number: int, origin: Origin) -> None:
    """Record the origin of the last `number` lines, which were written again.

    Raises:
        OSError: the origins file cannot be written.
    """
    with open(results, "rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as written:
        start = len(written)
        for _ in range(number):
            start = written.rfind(b"\n", 0, start - 1) + 1
        written.seek(start)
        line = written.readline().removesuffix(b"\n")
    record_origin(results, start, line, origin)


@cache
def writer() -> str:
    """Who writes here, for example `anna on laptop`."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user without a name, as in some containers
        user = f"user {os.getuid()}" if hasattr(os, "getuid") else "somebody"
    return f"{user} on {socket.gethostname()}"


def _origins_path(results: Path) -> Path:
    # Beside the file itself, like its lock, so that the file has the same origins under every name.
    path = Path(f"{os.path.realpath(results) if os.path.islink(results) else results}.origins")
    check_own(path, "Remove it, or choose another path for the results.")
    return path


def _lines(path: Path) -> Iterator[tuple[int, str, Origin]]:
    with open(path, "rb") as file:
        for _ in range(_MOST_LINES):
            if not (line := file.readline(_LONGEST_LINE)):
                return
            try:
                offset, digest, place, by = loads(line)
            except (ValueError, TypeError):  # torn, or not ours
                continue
            if isinstance(offset, int) and offset >= 0 and all(isinstance(each, str) for each in (digest, place, by)):
                yield offset, digest, Origin(place, by)


def _line_digest(file: IO[bytes], offset: int) -> str:
    file.seek(offset)
    return _digest(file.readline().removesuffix(b"\n"))


def _digest(line: bytes) -> str:
    return blake2b(line, digest_size=8).hexdigest()
