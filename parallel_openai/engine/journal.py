"""The file of finished results: JSON lines, only ever added to, whole after any crash."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Literal

from parallel_openai.engine.lines import parse_line, read_at, read_entries
from parallel_openai.engine.locking import lock
from parallel_openai.errors import InvalidInputError, JournalError, JournalWriteError

Sync = Literal["second", "always", "never"]

_SYNC_EVERY = 1.0
_CHUNK = 1 << 20
_sync_file = getattr(os, "fdatasync", os.fsync)


class Journal:
    """One file of results, held by one writer. Opening repairs a torn end; close it, or use it as a context manager.

    Used with `with` inside a task, a disk that refuses ends the task at once, as a timeout would: nothing more is paid
    for that could not be kept, and the `with` raises the JournalWriteError.

    Args:
        path: the file; it and its folder are made when missing, the file for its owner only.
        sync: how often the disk is told to keep what was written: about once a `second`, `always` (after each
            write) or `never` (the system decides; safe against a crash of the program, not of the machine).

    Raises:
        InvalidInputError: there is no such `sync`.
        JournalLockedError: another run is writing the file.
        JournalError: the file cannot be opened, or is something else.
    """

    def __init__(self, path: str | os.PathLike[str], *, sync: Sync = "second") -> None:
        check_sync(sync)
        self.path = Path(path)
        self._sync = sync
        self._pending: list[bytes] = []
        self._error: JournalWriteError | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._owner: asyncio.Task[Any] | None = None  # the task that ends when the disk refuses
        self._cancelled_owner = False
        self._scheduled = False
        self._synced_at = time.monotonic()
        self._dirty = False
        self._timer: asyncio.TimerHandle | None = None
        self._syncing: Future[None] | None = None
        self._syncer: ThreadPoolExecutor | None = None
        self._file = -1
        if self.path.exists() and not (self.path.is_file() or self.path.is_dir()):  # a folder is refused on opening
            raise JournalError(
                f"{self.path} is no ordinary file, and answers must be kept in one. Choose another path."
            )
        self._lock = lock(self.path)
        try:
            self._file = _open(self.path)
            _refuse_what_is_not_ours(self.path)
            _mend_end(self._file)
        except OSError as error:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1
            self._lock.release()
            if isinstance(error, JournalError):
                raise
            raise JournalError(
                f"The results file {self.path} cannot be opened: {error.strerror}. Choose another path for it."
            ) from error

    def append(self, line: bytes) -> None:
        """Write one line, without its end. Lines of the same turn of the event loop go to the disk in one write.

        Raises:
            JournalWriteError: this or an earlier write failed; the file is whole up to the last line that went well.
        """
        if self._error is not None:
            if self._cancelled_owner:
                return  # the run is ending; what still comes in goes into its partial result, and raising would lose it
            raise self._error
        self._pending.append(line)
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
            return
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush_in_loop)

    def flush(self) -> None:
        """Put what is pending on its way to the disk now.

        Raises:
            JournalWriteError: the disk refuses.
        """
        self._scheduled = False
        if not self._pending:
            return
        block = b"\n".join(self._pending) + b"\n"
        self._pending.clear()
        try:
            _write_all(self._file, block)
        except OSError as error:
            _mend_quietly(self._file)  # the lines that went well before stay
            raise self._give_up(error) from error
        self._dirty = True
        self._sync_in_time()

    def close(self) -> None:
        """Write what is pending, sync, and let the lock go. Closing twice does nothing.

        Raises:
            JournalWriteError: the disk refuses, or refused what was written since the last word of it.
        """
        if self._file < 0:
            return
        if self._timer is not None:
            self._timer.cancel()
        try:
            if self._error is None:
                self.flush()
            if self._syncing is not None:
                wait([self._syncing])
                self._look_at_sync(self._syncing)
            if self._error is None and self._dirty and self._sync != "never":
                self._sync_now()
        finally:
            if self._syncer is not None:
                self._syncer.shutdown()
            os.close(self._file)
            self._file = -1
            self._lock.release()

    def __enter__(self) -> Journal:
        try:
            self._owner = asyncio.current_task()
        except RuntimeError:  # no loop, so nothing to end
            pass
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        try:
            self.close()
        except JournalWriteError:
            pass  # it is kept, and raised below unless there is worse
        owner, self._owner = self._owner, None
        if self._error is None:
            return
        if self._cancelled_owner and owner is not None:
            uncancel = getattr(owner, "uncancel", None)  # from Python 3.11 on
            if uncancel is not None:
                uncancel()
        if error is None or isinstance(error, asyncio.CancelledError):
            raise self._error from self._error.__cause__

    def _flush_in_loop(self) -> None:
        try:
            self.flush()
        except JournalWriteError:
            self._end_owner()

    def _end_owner(self) -> None:
        if self._owner is not None and not self._owner.done() and not self._cancelled_owner:
            self._cancelled_owner = True
            self._owner.cancel()

    def _sync_in_time(self) -> None:
        """See that what was written is on the disk within about a second, also when nothing more is written."""
        if self._sync == "always":
            self._sync_now()
        elif self._sync == "second":
            due = self._synced_at + _SYNC_EVERY - time.monotonic()
            if self._loop is None:
                if due <= 0:
                    self._sync_now()
            elif self._timer is None:
                self._timer = self._loop.call_later(max(due, 0.0), self._sync_in_thread)

    def _sync_in_thread(self) -> None:
        """In a thread, since a slow disk must not hold up the answers that are coming in."""
        self._timer = None
        if self._file < 0 or self._error is not None or not self._dirty:
            return
        assert self._loop is not None
        if self._syncing is not None and not self._syncing.done():  # a very slow disk
            self._timer = self._loop.call_later(_SYNC_EVERY, self._sync_in_thread)
            return
        self._dirty = False
        self._synced_at = time.monotonic()
        self._syncer = self._syncer or ThreadPoolExecutor(1, thread_name_prefix="parallel_openai-sync")
        self._syncing = self._syncer.submit(_sync_file, self._file)
        self._syncing.add_done_callback(self._tell_loop)

    def _tell_loop(self, syncing: Future[None]) -> None:
        if syncing.exception() is None or self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(self._look_at_sync, syncing)
        except RuntimeError:  # pragma: no cover - the loop has ended; close() looks at it too
            pass

    def _look_at_sync(self, syncing: Future[None]) -> None:
        error = syncing.exception()
        if isinstance(error, OSError) and self._error is None:
            self._give_up(error)
            self._end_owner()

    def _sync_now(self) -> None:
        try:
            _sync_file(self._file)
        except OSError as error:
            raise self._give_up(error) from error
        self._dirty = False
        self._synced_at = time.monotonic()

    def _give_up(self, error: OSError) -> JournalWriteError:
        self._error = JournalWriteError(
            f"Writing to {self.path} failed: {error.strerror}. What was written before is kept: make room and run the "
            "same again."
        )
        self._error.__cause__ = error
        return self._error


def check_sync(sync: object) -> None:
    """See that it is one of the three.

    Raises:
        InvalidInputError: it is not.
    """
    if sync not in ("second", "always", "never"):
        raise InvalidInputError(f"sync must be 'second', 'always' or 'never', not {sync!r}.")


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o600)


def _refuse_what_is_not_ours(path: Path) -> None:
    """Before a torn end is cut off: in somebody else's file it would be no torn end."""
    for _, entry in read_entries(path):
        if entry is not None:
            return


def _mend_end(file: int) -> None:
    """Cut a torn last line off, and end a whole one."""
    end = os.fstat(file).st_size
    start_of_last = _after_last_newline(file, end)
    if start_of_last == end:
        return
    if parse_line(_read_exactly(file, start_of_last, end - start_of_last)) is not None:
        _write_all(file, b"\n")
    else:
        os.ftruncate(file, start_of_last)


def _mend_quietly(file: int) -> None:
    try:
        _mend_end(file)
    except OSError:
        pass  # the torn line stays and is cut off at the next opening


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
    while count > 0 and (chunk := read_at(file, count, offset)):
        chunks.append(chunk)
        offset, count = offset + len(chunk), count - len(chunk)
    return b"".join(chunks)


def _write_all(file: int, block: bytes) -> None:
    view = memoryview(block)
    while view:  # a disk that is nearly full takes a part
        view = view[os.write(file, view) :]
