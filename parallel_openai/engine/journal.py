"""The file of finished results: JSON lines, only ever added to, whole after any crash.

A line is `[request, response]`, `[request, response, metadata]` or, for a frame's rows,
`[request, response, metadata, record]`; a failure has the list of its errors in the place of the response.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import filelock

from parallel_openai.errors import JournalError, JournalLockedError, JournalWriteError
from parallel_openai.jsonl import loads

Sync = Literal["second", "always", "never"]
Entry = list[Any]

_SYNC_EVERY = 1.0
_CHUNK = 1 << 20
_sync_file = getattr(os, "fdatasync", os.fsync)


class Journal:
    """One file of results, held by one writer. Opening repairs a torn end; close it, or use it as a context manager.

    Args:
        path: the file; it and its folder are made when missing, the file for its owner only.
        sync: how often the disk is told to keep what was written: about once a `second`, `always` (after each
            write) or `never` (the system decides; safe against a crash of the program, not of the machine).

    Raises:
        JournalLockedError: another run is writing the file.
        JournalError: the file cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str], *, sync: Sync = "second") -> None:
        self.path = Path(path)
        self._sync = sync
        self._pending: list[bytes] = []
        self._error: JournalWriteError | None = None
        self._synced_at = time.monotonic()
        self._syncing: Future[None] | None = None
        self._syncer: ThreadPoolExecutor | None = None
        self._scheduled = False
        self._lock = _lock(self.path)
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o600)
            self._end = _mend_end(self._file, self.path)
        except OSError as error:
            self._lock.release()
            if isinstance(error, JournalError):
                raise
            raise JournalError(f"The results file {self.path} cannot be opened: {error.strerror}.") from error

    def append(self, line: bytes) -> None:
        """Write one line, without its end. Lines of the same turn of the event loop go to the disk in one write.

        Raises:
            JournalWriteError: this or an earlier write failed; the file is whole up to the last line that went well.
        """
        if self._error is not None:
            raise self._error
        self._pending.append(line)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
            return
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._flush_in_loop)

    def flush(self) -> None:
        """Put what is pending on its way to the disk now."""
        self._scheduled = False
        if not self._pending:
            return
        block = b"\n".join(self._pending) + b"\n"
        self._pending.clear()
        try:
            _write_all(self._file, block)
        except OSError as error:
            self._error = self._give_up(error)
            raise self._error from error
        self._end += len(block)
        self._sync_when_due()

    def close(self) -> None:
        """Write what is pending, sync, and let the lock go. Closing twice does nothing."""
        if self._file < 0:
            return
        try:
            if self._error is None:
                self.flush()
            if self._syncing is not None:
                self._syncing.result()
            if self._sync != "never" and self._error is None:
                self._sync_now()
        finally:
            if self._syncer is not None:
                self._syncer.shutdown()
            os.close(self._file)
            self._file = -1
            self._lock.release()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _flush_in_loop(self) -> None:
        try:
            self.flush()
        except JournalWriteError:
            pass  # kept, and raised at the next append or at close

    def _sync_when_due(self) -> None:
        if self._sync == "always":
            self._sync_now()
        elif self._sync == "second" and time.monotonic() - self._synced_at >= _SYNC_EVERY:
            if self._syncing is not None:
                if not self._syncing.done():
                    return
                self._syncing.result()
            # In a thread: a slow disk must not hold up the answers that are coming in.
            self._syncer = self._syncer or ThreadPoolExecutor(1, thread_name_prefix="parallel_openai-sync")
            self._synced_at = time.monotonic()
            self._syncing = self._syncer.submit(_sync_file, self._file)

    def _sync_now(self) -> None:
        try:
            _sync_file(self._file)
        except OSError as error:
            raise self._give_up(error) from error
        self._synced_at = time.monotonic()

    def _give_up(self, error: OSError) -> JournalWriteError:
        try:
            os.ftruncate(self._file, self._end)
        except OSError:
            pass  # the torn line stays and is cut off at the next opening
        return JournalWriteError(
            f"Writing to {self.path} failed: {error.strerror}. What was written before is kept: make room and run the "
            "same again."
        )


def read_entries(path: str | os.PathLike[str]) -> Iterator[tuple[int, Entry | None]]:
    """Each whole line's offset and content; None for a line that is damaged. A torn end is left out.

    Raises:
        JournalError: the first line is not one of ours, so the file is something else.
    """
    with open(path, "rb") as file:
        offset = 0
        for line in file:
            entry = parse_line(line)
            if line.endswith(b"\n") or entry is not None:
                if entry is None and offset == 0:
                    raise JournalError(
                        f"{path} is no file of results: its first line is not [request, response]. "
                        "Choose another path, so that it is not added to."
                    )
                yield offset, entry
            offset += len(line)


def read_entry_at(file: int, offset: int) -> Entry:
    """The line that begins at an offset of an open file."""
    chunks: list[bytes] = []
    while True:
        chunk = _read_at(file, _FIRST_READ if not chunks else _CHUNK, offset)
        end = chunk.find(b"\n")
        chunks.append(chunk if end < 0 else chunk[:end])
        if end >= 0 or not chunk:
            break
        offset += len(chunk)
    entry = parse_line(b"".join(chunks))
    if entry is None:
        raise JournalError("A line of the results file changed while it was in use.")
    return entry


_FIRST_READ = 4096


def parse_line(line: bytes) -> Entry | None:
    """The line's list of two to four, or None.

    >>> parse_line(b'[{"model":"m"},{"id":"1"}]')
    [{'model': 'm'}, {'id': '1'}]
    >>> parse_line(b'[{"model":"m"},{"id"') is None
    True
    """
    try:
        entry = loads(line)
    except ValueError:
        return None
    return entry if _is_entry(entry) else None


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, list) and 2 <= len(entry) <= 4 and isinstance(entry[0], dict)


def make_line(body: bytes, answer: bytes, *rest: bytes) -> bytes:
    """One line of JSON parts, each of which may come with line breaks between its tokens.

    >>> make_line(b'{"a":1}', b'{\\n "b": 2\\n}')
    b'[{"a":1},{  "b": 2 }]'
    """
    line = b"[" + b",".join((body, answer, *rest)) + b"]"
    if b"\n" in line or b"\r" in line:  # in JSON a line break never stands inside a string
        line = line.replace(b"\n", b" ").replace(b"\r", b" ")
    return line


def _mend_end(file: int, path: Path) -> int:
    """Cut a torn last line off, end a whole one, and give the file's length."""
    end = os.fstat(file).st_size
    start_of_last = _after_last_newline(file, end)
    if start_of_last == end:
        return end
    tail = _read_exactly(file, start_of_last, end - start_of_last)
    if parse_line(tail) is not None:
        _write_all(file, b"\n")
        return end + 1
    if start_of_last == 0 and not tail.startswith(b"[{"[: len(tail)]):
        raise JournalError(
            f"{path} is no file of results: its first line is not [request, response]. "
            "Choose another path, so that it is not added to."
        )
    os.ftruncate(file, start_of_last)
    return start_of_last


def _after_last_newline(file: int, end: int) -> int:
    while end > 0:
        start = max(0, end - _CHUNK)
        found = _read_exactly(file, start, end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _read_exactly(file: int, offset: int, count: int) -> bytes:
    chunks = []
    while count > 0 and (chunk := _read_at(file, count, offset)):
        chunks.append(chunk)
        offset, count = offset + len(chunk), count - len(chunk)
    return b"".join(chunks)


def _read_at(file: int, count: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(file, count, offset)
    os.lseek(file, offset, os.SEEK_SET)  # Windows; appending does not heed the position
    return os.read(file, count)


def _write_all(file: int, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(file, view) :]


def _lock(path: Path) -> filelock.BaseFileLock:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JournalError(f"The folder {path.parent} cannot be made: {error.strerror}.") from error
    place = path.with_name(path.name + ".lock")
    lock = filelock.FileLock(place, timeout=0, mode=0o600)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise JournalLockedError(
            f"{path} is being written by {_holder(place)}. Wait for it or stop it; to have both, "
            "give this run a save path of its own."
        ) from None
    except OSError as error:
        raise JournalError(f"{path} cannot be locked: {error.strerror}.") from error
    _leave_name(place)
    return lock


def _leave_name(place: Path) -> None:
    try:
        place.write_text(f"process {os.getpid()} on {socket.gethostname()}", "utf-8")
    except OSError:
        pass  # Windows keeps a locked file shut; only the message to the next one to come is poorer for it


def _holder(place: Path) -> str:
    try:
        return place.read_text("utf-8") or "another run"
    except OSError:
        return "another run"
