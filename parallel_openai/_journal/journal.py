"""The file of finished results: JSON lines, only ever added to, whole after any crash."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Literal, TypeVar

from parallel_openai._journal.journal_file import JournalFile, told_of_lost
from parallel_openai._journal.origins import Origin, check_none_of_others, note_origin, note_origin_of_last
from parallel_openai.errors import InvalidInputError, JournalError, JournalWriteError

log = logging.getLogger("parallel_openai")

Sync = Literal["second", "always", "never"]
Request = TypeVar("Request")

#: Seconds between two looks at the file, and between two orders to the disk to keep it.
_EVERY = 1.0
#: Seconds that a disk which refuses has at the end to take what is paid for, as when it was full for a moment.
_AT_LAST = 1.0
#: By absolute path, the lines that the disk refused to the end, with their origin. They are paid for, and are the first
#: that the next journal of this process writes there.
_refused: dict[str, tuple[list[bytes], Origin | None]] = {}


class Journal:
    """One file of results, held by one writer. Opening repairs a torn end; close it, or use it as a context manager.

    Used with `with` inside a task, a disk that refuses ends the task at once, as a timeout would: nothing more is paid
    for that could not be kept, and the `with` raises the JournalWriteError.

    Args:
        path: the file; it and its folder are made when missing, the file for its owner only.
        sync: how often the disk is told to keep what was written, as `Client` has it.
        origin: where what is written came from, if that is to be told beside the file.

    Raises:
        JournalWriteError: the disk still refuses what it refused an earlier run of this process.
    """

    def __init__(self, path: str | os.PathLike[str], *, sync: Sync = "second", origin: Origin | None = None) -> None:
        check_sync(sync)
        self.path = Path(path)
        self._place = os.path.abspath(path)
        if self._place in _refused:
            self._write_refused()
        self._sync = sync
        self._origin = origin  # until it is told
        self._told_origin: Origin | None = None
        self._pending: list[bytes] = []
        self._error: JournalWriteError | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._owner: asyncio.Task[Any] | None = None  # the task that ends when the disk refuses
        self._cancelled_owner = False
        self._scheduled = False
        self._has_room = False
        self._synced_at = time.monotonic()
        self._dirty = False
        self._timer: asyncio.TimerHandle | None = None
        self._syncing: Future[None] | None = None
        self._syncer: ThreadPoolExecutor | None = None
        self._file: JournalFile | None = JournalFile(self.path)
        if origin is not None:
            self._check_origins()

    def _write_refused(self) -> None:
        lines, origin = _refused.pop(self._place)
        try:
            earlier = Journal(self._place, origin=origin)
        except JournalError:
            _refused[self._place] = lines, origin
            raise
        earlier._pending = lines
        earlier.close()

    def before_sending(self, requests: Iterable[Request | None]) -> Iterator[Request | None]:
        """The same requests, the first of them only when the disk takes something: nothing is paid for that could not
        be kept.

        Raises:
            JournalWriteError: it does not.
        """
        for request in requests:
            if request is not None and not self._has_room:
                self._reserve()
            while self._cancelled_owner:  # which takes a turn of the loop, in which nothing more is to be sent
                yield None
            yield request

    def append(self, line: bytes) -> None:
        """Write one line, without its end. Lines of the same turn of the event loop go to the disk in one write.

        Raises:
            JournalWriteError: this or an earlier write failed; the file is whole up to the last line that went well.
                The others are kept, and written as soon as there is room, at the latest on closing.
        """
        self._pending.append(line)
        if self._error is not None:
            if self._cancelled_owner:
                return  # the run is ending, and what still comes in must reach its partial result
            raise self._error
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
        try:
            if self._origin is not None:
                note_origin(self.path, self._opened.size, self._pending[0], self._origin)
                self._told_origin, self._origin = self._origin, None
            self._opened.write(self._pending)
            self._dirty = True
            if self._sync == "always":
                self._sync_now()
        except OSError as error:
            raise self._give_up(error) from error
        if self._opened.is_due:
            self._look()
        if self._loop is None:
            if time.monotonic() >= self._synced_at + _EVERY:
                self._look()
                self._sync_if_wanted()
        elif self._timer is None:
            self._timer = self._loop.call_later(_EVERY, self._each_second)

    def complete(self, lines: Iterator[bytes]) -> None:
        """Write what the file lacks of these lines, and have the disk keep them.

        Raises:
            JournalWriteError: the disk refuses.
        """
        try:
            self._dirty |= self._opened.complete(lines, self._pending) > 0
        except OSError as error:
            raise self._give_up(error) from error
        self._sync_if_wanted()

    def close(self) -> None:
        """Write what is pending, sync, and let the lock go. Closing twice does nothing.

        Raises:
            JournalWriteError: the disk refuses, or refused what was written since the last word of it.
        """
        if self._file is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        if self._syncing is not None:
            wait([self._syncing])
            self._look_at_sync(self._syncing)
        before = self._error
        try:
            self._flush_at_last()
            self._look()
            self._sync_if_wanted()
        except JournalWriteError:
            if before is None:
                raise
        finally:
            if self._syncer is not None:
                self._syncer.shutdown()
            if self._pending:
                _refused[self._place] = self._pending, self._origin or self._told_origin
            self._file.close()
            self._file = None

    def _flush_at_last(self) -> None:
        give_up_at = time.monotonic() + _AT_LAST
        while True:
            try:
                return self.flush()
            except JournalWriteError:
                if time.monotonic() >= give_up_at:
                    raise
                time.sleep(_AT_LAST / 10)

    def __enter__(self) -> Journal:
        try:
            self._owner = asyncio.current_task()
            self._loop = asyncio.get_running_loop()
        except RuntimeError:  # no loop, so nothing to end
            return self
        self._timer = self._loop.call_later(_EVERY, self._each_second)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        try:
            self.close()
        except JournalWriteError:
            pass  # it is kept, and raised below unless there is worse
        owner, self._owner = self._owner, None
        if self._error is None:
            return
        if self._pending:
            many = len(self._pending)
            count = "1 answer is" if many == 1 else f"{many:,} answers are"
            self._error.args = (f"{self._error} {count} still to be written: the next run in this process does so.",)
        if self._cancelled_owner and owner is not None:
            uncancel = getattr(owner, "uncancel", None)  # from Python 3.11 on
            if uncancel is not None:
                uncancel()
        if error is None or isinstance(error, asyncio.CancelledError):
            raise self._error from self._error.__cause__

    @property
    def _opened(self) -> JournalFile:
        assert self._file is not None, "the journal is closed"
        return self._file

    def _check_origins(self) -> None:
        try:
            check_none_of_others(self.path)
        except JournalError:
            self._opened.close()
            raise

    def _reserve(self) -> None:
        self._has_room = True
        try:
            self._opened.reserve(sync=self._sync != "never")
        except OSError as error:
            raise self._give_up(error) from error

    def _flush_in_loop(self) -> None:
        if self._file is None:  # it was closed meanwhile, which told of what the disk did not take
            return
        try:
            self.flush()
        except JournalWriteError:
            self._end_owner()

    def _end_owner(self) -> None:
        if self._owner is not None and not self._owner.done() and not self._cancelled_owner:
            self._cancelled_owner = True
            self._owner.cancel()

    def _each_second(self) -> None:
        """See that what was written is on the disk within about a second, and that the file is still there; also when
        nothing more is written."""
        assert self._loop is not None
        self._timer = self._loop.call_later(_EVERY, self._each_second)
        try:
            self.flush()  # what a disk refused that has room now
            self._look()
        except JournalWriteError:
            self._end_owner()
        if self._dirty and self._sync == "second":
            self._sync_in_thread()

    def _sync_in_thread(self) -> None:
        """In a thread, since a slow disk must not hold up the answers that are coming in."""
        if self._syncing is not None and not self._syncing.done():  # a very slow disk
            return
        self._dirty = False
        self._syncer = self._syncer or ThreadPoolExecutor(1, thread_name_prefix="parallel_openai-sync")
        try:
            self._syncing = self._syncer.submit(self._opened.sync)
        except RuntimeError:  # no thread begins anything any more once the main one has ended
            self._opened.sync()
            return
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

    def _look(self) -> None:
        """Go on in the file that is under the path now, if it is another one.

        Raises:
            JournalWriteError: that cannot be done.
        """
        try:
            again, lost = self._opened.look(self._pending)
            if again and self._told_origin is not None:
                note_origin_of_last(self.path, again, self._told_origin)
        except OSError as error:
            raise self._give_up(error) from error
        if again or lost:
            self._dirty = True
            log.warning(
                "%s was changed, moved or deleted while the run wrote it. It was given the %s answers again that it "
                "lacked.%s",
                self.path,
                f"{again:,}",
                told_of_lost(lost),
            )

    def _sync_if_wanted(self) -> None:
        if self._dirty and self._sync != "never":
            self._sync_now()

    def _sync_now(self) -> None:
        try:
            self._opened.sync()
        except OSError as error:
            raise self._give_up(error) from error
        self._dirty = False
        self._synced_at = time.monotonic()

    def _give_up(self, error: OSError) -> JournalWriteError:
        """The first thing that went wrong is what is told."""
        if self._error is None and isinstance(error, JournalWriteError):
            self._error = error
        elif self._error is None and isinstance(error, JournalError):  # there is no place at all
            self._error = JournalWriteError(f"Writing to {self.path} failed in mid-run. {error}")
            self._error.__cause__ = error
        elif self._error is None:
            self._error = JournalWriteError(
                f"Writing to {self.path} failed: {error.strerror or error}. What was written before is kept: make room "
                "and run the same again."
            )
            self._error.__cause__ = error
        return self._error


def check_sync(sync: object) -> None:
    """See that it is one of the three."""
    if sync not in ("second", "always", "never"):
        raise InvalidInputError(f"sync must be 'second', 'always' or 'never', not {sync!r}.")
