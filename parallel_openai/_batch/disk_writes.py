"""Writes a batch's files: disk errors stop the run, and downloads have limits of size and time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from parallel_openai.errors import JournalError, JournalWriteError

#: The lowest accepted speed of a download, on average.
MIN_BYTES_PER_SECOND = 10_000


class TooLongError(Exception):
    """A downloaded file is longer than the answers to its requests can be."""


class TooSlowError(Exception):
    """A download is slower than `MIN_BYTES_PER_SECOND`."""


class _DiskError(Exception):
    """Writing to disk failed. Not an OSError, which would be taken for a network error."""


@contextmanager
def on_disk(path: Path) -> Iterator[None]:
    """Raise JournalWriteError, as for the journal itself, instead of OSError.

    Raises:
        JournalWriteError: writing failed.
    """
    try:
        yield
    except JournalError:
        raise
    except OSError as error:
        raise JournalWriteError(
            f"Writing to {path} failed: {error.strerror or error}. What was written before is kept: make room and "
            "run the same call again."
        ) from error


@contextmanager
def download_to(path: Path, max_bytes: int, seconds: float) -> Iterator[Callable[[bytes], None]]:
    """A function that writes chunks of a download to a file.

    Args:
        seconds: the time allowed, plus a second for each `MIN_BYTES_PER_SECOND` bytes received.

    Raises:
        TooSlowError: the download took longer.
        TooLongError: it has more than `max_bytes`. What was received is in the file.
        JournalWriteError: writing failed. The file is removed, which makes room for the journal.
    """
    try:
        with on_disk(path), open(path, "wb", buffering=0) as file:
            yield _writer(file, max_bytes, seconds)
    except _DiskError as error:
        path.unlink(missing_ok=True)
        with on_disk(path):
            raise error.__cause__ or error from None


def _writer(file: FileIO, max_bytes: int, seconds: float) -> Callable[[bytes], None]:
    size, began = 0, time.monotonic()

    def write(chunk: bytes) -> None:
        nonlocal size
        size += len(chunk)
        try:
            rest = memoryview(chunk)
            while rest:
                rest = rest[file.write(rest) :]
        except OSError as error:
            raise _DiskError from error
        if size > max_bytes:
            raise TooLongError
        if time.monotonic() - began > seconds + size / MIN_BYTES_PER_SECOND:
            raise TooSlowError

    return write
