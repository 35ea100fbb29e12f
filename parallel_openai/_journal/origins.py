"""Where the answers of a file run came from and who wrote them: kept beside the results, in `<results>.origins`.

The lines of the results say neither, since they keep the shape that other programs read. A line beside them is
`[offset, digest, place, writer]`: the results from that offset on, where a line of that digest begins, came from there,
up to the next such line. So it holds for no other file that is put under the same name.
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

#: A file that came from elsewhere may be anything.
_MOST_LINES, _LONGEST_LINE = 100_000, 10_000
#: How such a file begins.
_FIRST = b'[0,"'


class Origin(NamedTuple):
    """The server that gave answers, as `Client.place` names it in one spelling, and who wrote them down."""

    place: str
    writer: str


def here(place: str) -> Origin:
    """The origin of what this process has from a server."""
    return Origin(one_spelling(place), writer())


class Origins:
    """What is known of the origins of a file of results, as it is now."""

    def __init__(self, results: Path) -> None:
        self._offsets: list[int] = []
        self._origins: list[Origin] = []
        try:
            with open(results, "rb") as file:
                for offset, digest, origin in _lines(_beside(results)):
                    if offset >= (self._offsets[-1] if self._offsets else 0) and _line_digest(file, offset) == digest:
                        self._offsets.append(offset)
                        self._origins.append(origin)
        except FileNotFoundError:
            return
        except OSError as error:
            if isinstance(error, JournalError):
                raise
            raise JournalError(f"{_beside(results)} cannot be read: {error.strerror}.") from error

    def of(self, offset: int) -> Origin | None:
        """Where the line that begins there came from; None where nothing says it."""
        number = bisect_right(self._offsets, offset)
        return self._origins[number - 1] if number else None


def check_none_of_others(results: Path) -> None:
    """See that what lies beside results that are about to be begun, and will be written over, is of our making."""
    beside = _beside(results)
    if not (beside.exists() and results.exists()) or results.stat().st_size:
        return
    with open(beside, "rb") as file:
        head = file.read(len(_FIRST))
    if not _FIRST.startswith(head):  # of which a part may have been torn off
        raise JournalError(f"{beside} is no file of ours, and would be written over. Move it, or choose another path.")


def note_origin(results: Path, offset: int, line: bytes, origin: Origin) -> None:
    """Say where the results come from that begin with this line, which is about to be written there.

    Raises:
        OSError: that cannot be written.
    """
    beside = _beside(results)
    if offset and Origins(results).of(offset) == origin:
        return
    flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if offset else os.O_TRUNC)
    with open(os.open(beside, flags, 0o600), "ab" if offset else "wb") as file:
        before = b"\n" if offset else b""  # the last line may be torn off
        file.write(before + dumps([offset, _digest(line), *origin]) + b"\n")


def note_origin_of_last(results: Path, number: int, origin: Origin) -> None:
    """The same of so many lines at the end, which were written again.

    Raises:
        OSError: that cannot be written.
    """
    with open(results, "rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as written:
        begins = len(written)
        for _ in range(number):
            begins = written.rfind(b"\n", 0, begins - 1) + 1
        written.seek(begins)
        line = written.readline().removesuffix(b"\n")
    note_origin(results, begins, line, origin)


@cache
def writer() -> str:
    """Who writes here, such as `anna on laptop`."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user need not have a name
        user = f"user {os.getuid()}" if hasattr(os, "getuid") else "somebody"
    return f"{user} on {socket.gethostname()}"


def _beside(results: Path) -> Path:
    beside = Path(f"{results}.origins")
    check_own(beside, "Remove it, or choose another path for the results.")
    return beside


def _lines(beside: Path) -> Iterator[tuple[int, str, Origin]]:
    with open(beside, "rb") as file:
        for _ in range(_MOST_LINES):
            if not (line := file.readline(_LONGEST_LINE)):
                return
            try:
                offset, digest, place, by = loads(line)
            except (ValueError, TypeError):  # torn off, or nothing of ours
                continue
            if isinstance(offset, int) and offset >= 0 and all(isinstance(each, str) for each in (digest, place, by)):
                yield offset, digest, Origin(place, by)


def _line_digest(file: IO[bytes], offset: int) -> str:
    file.seek(offset)
    return _digest(file.readline().removesuffix(b"\n"))


def _digest(line: bytes) -> str:
    return blake2b(line, digest_size=8).hexdigest()
