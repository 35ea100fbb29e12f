"""What the disk refuses of a batch's files, and files of the server on their way to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from parallel_openai.errors import JournalError, JournalWriteError

#: Bytes a second that a file of the server must come at in the long run.
SLOWEST = 10_000


class TooLongError(Exception):
    """A file of the server is longer than what was asked for can be."""


class TooSlowError(Exception):
    """A file of the server comes in drops, so that its end is out of sight."""


class _DiskError(Exception):
    """The disk refuses. No OSError, which would be taken for one of the network."""


@contextmanager
def on_disk(place: Path) -> Iterator[None]:
    """What the disk refuses, said as it is of the journal.

    Raises:
        JournalWriteError: in the place of other OSErrors.
    """
    try:
        yield
    except JournalError:
        raise
    except OSError as error:
        raise JournalWriteError(
            f"Writing to {place} failed: {error.strerror or error}. What was written before is kept: make room and run "
            "the same again."
        ) from error


@contextmanager
def download_to(place: Path, most: int, seconds: float) -> Iterator[Callable[[bytes], None]]:
    """Takes the pieces of a file that may have so many bytes, and may take so long and a second more for each SLOWEST
    bytes.

    Raises:
        TooSlowError: it takes longer.
        TooLongError: there are more. What came until then is in the file.
        JournalWriteError: the disk refuses. The file is removed again, which makes room for the journal.
    """
    try:
        with on_disk(place), open(place, "wb", buffering=0) as file:
            yield _writer(file, most, seconds)
    except _DiskError as error:
        place.unlink(missing_ok=True)
        with on_disk(place):
            raise error.__cause__ or error from None


def _writer(file: FileIO, most: int, seconds: float) -> Callable[[bytes], None]:
    size, began = 0, time.monotonic()

    def write(piece: bytes) -> None:
        nonlocal size
        size += len(piece)
        try:
            rest = memoryview(piece)
            while rest:
                rest = rest[file.write(rest) :]
        except OSError as error:
            raise _DiskError from error
        if size > most:
            raise TooLongError
        if time.monotonic() - began > seconds + size / SLOWEST:
            raise TooSlowError

    return write
