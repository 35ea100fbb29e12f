"""The journal that a run writes its finished results to: JSON lines, append-only, intact after any crash."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Literal, TypeVar

from parallel_openai._journal.journal_file import JournalFile, lost_bytes_sentence
from parallel_openai._journal.origins import Origin, record_origin, record_origin_of_last, refuse_other_origins_file
from parallel_openai._log import log
from parallel_openai.errors import InvalidInputError, JournalError, JournalWriteError

Sync = Literal["second", "always", "never"]
Request = TypeVar("Request")

#: Seconds between two checks of the file, and between two syncs.
_INTERVAL = 1.0
#: Seconds for which closing retries a failed write, since the disk may have been full for a moment only.
_LAST_GRACE = 1.0
#: By absolute path, the lines that the disk refused until the journal closed, with their origin. They are paid for, so
#: the next journal that this process opens there writes them first.
_rejected: dict[str, tuple[list[bytes], Origin | None]] = {}


class Journal:
    """One results file, held by one writer. Opening it repairs a torn last line. Close it, or use it in a `with`.

    If the disk refuses a write, a `with` inside a task cancels that task at once, as a timeout would: nothing more is
    paid for that could not be kept. The `with` then raises the JournalWriteError.

    Args:
        path: the file. It is created if missing, as is its folder, and readable by its owner only.
        sync: how often to sync the file to the disk, as in `Client`.
        origin: the origin of the answers, if it is to be recorded beside the file.

    Raises:
        JournalWriteError: the disk still refuses lines left over from an earlier run of this process.
    """

    def __init__(self, path: str | os.PathLike[str], *, sync: Sync = "second", origin: Origin | None = None) -> None:
        check_sync(sync)
        self.path = Path(path)
        self._absolute_path = os.path.abspath(path)
        if self._absolute_path in _rejected:
            self._write_rejected()
        self._sync = sync
        self._origin = origin  # until it is recorded
        self._recorded_origin: Origin | None = None
        self._pending: list[bytes] = []
        self._error: JournalWriteError | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._owner: asyncio.Task[Any] | None = None  # the task to cancel when the disk refuses
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
            try:
                refuse_other_origins_file(self.path)
            except JournalError:
                self._file.close()
                raise

    def _write_rejected(self) -> None:
        lines, origin = _rejected.pop(self._absolute_path)
        try:
            earlier = Journal(self._absolute_path, origin=origin)
        except JournalError:
            _rejected[self._absolute_path] = lines, origin
            raise
        earlier._pending = lines
        earlier.close()

    def before_sending(self, requests: Iterable[Request | None]) -> Iterator[Request | None]:
        """Yield the same requests, after checking that the disk accepts data.

        Raises:
            JournalWriteError: it does not.
        """
        for request in requests:
            if request is not None and not self._has_room:
                self._reserve()
            while self._cancelled_owner:  # send nothing more in the turn of the loop until the cancellation arrives
                yield None
            yield request

    def append(self, line: bytes) -> None:
        """Write one line, given without its newline. Lines of one turn of the event loop go to the disk in one write.

        Raises:
            JournalWriteError: this or an earlier write failed. The file ends with the last whole line that it took; the
                others are kept in memory and written once there is room, at the latest on closing.
        """
        self._pending.append(line)
        if self._error is not None:
            if self._cancelled_owner:
                return  # the run is ending, but answers that still come in belong in its partial result
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
        """Write the pending lines now.

        Raises:
            JournalWriteError: the disk refuses.
        """
        self._scheduled = False
        if not self._pending:
            return
        try:
            if self._origin is not None:
                record_origin(self.path, self._opened.size, self._pending[0], self._origin)
                self._recorded_origin, self._origin = self._origin, None
            self._opened.write(self._pending)
            self._dirty = True
            if self._sync == "always":
                self._sync_now()
        except OSError as error:
            raise self._note_error(error) from error
        if self._opened.is_due:
            self._check_file()
        if self._loop is None:
            if time.monotonic() >= self._synced_at + _INTERVAL:
                self._check_file()
                self._sync_if_wanted()
        elif self._timer is None:
            self._timer = self._loop.call_later(_INTERVAL, self._check_each_second)

    def complete(self, lines: Iterator[bytes]) -> None:
        """Write those of the lines that the file lacks, and sync.

        Raises:
            JournalWriteError: the disk refuses.
        """
        try:
            self._dirty |= self._opened.complete(lines, self._pending) > 0
        except OSError as error:
            raise self._note_error(error) from error
        self._sync_if_wanted()

    def close(self) -> None:
        """Write the pending lines, sync, and release the lock. Closing twice does nothing.

        Raises:
            JournalWriteError: a write or a sync failed, and no earlier error has been raised.
        """
        if self._file is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        if self._syncing is not None:
            wait([self._syncing])
            self._check_sync(self._syncing)
        before = self._error
        try:
            self._flush_before_closing()
            self._check_file()
            self._sync_if_wanted()
        except JournalWriteError:
            if before is None:
                raise
        finally:
            if self._syncer is not None:
                self._syncer.shutdown()
            if self._pending:
                _rejected[self._absolute_path] = self._pending, self._origin or self._recorded_origin
            self._file.close()
            self._file = None

    def _flush_before_closing(self) -> None:
        give_up_at = time.monotonic() + _LAST_GRACE
        while True:
            try:
                return self.flush()
            except JournalWriteError:
                if time.monotonic() >= give_up_at:
                    raise
                time.sleep(_LAST_GRACE / 10)

    def __enter__(self) -> Journal:
        try:
            self._owner = asyncio.current_task()
            self._loop = asyncio.get_running_loop()
        except RuntimeError:  # no loop, so no task to cancel
            return self
        self._timer = self._loop.call_later(_INTERVAL, self._check_each_second)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        try:
            self.close()
        except JournalWriteError:
            pass  # raised below, unless the body raised something else
        owner, self._owner = self._owner, None
        if self._error is None:
            return
        if self._pending:
            many = len(self._pending)
            count = "1 answer is" if many == 1 else f"{many:,} answers are"
            self._error.args = (f"{self._error} {count} still to be written: the next run in this process does so.",)
        if self._cancelled_owner and owner is not None:
            uncancel = getattr(owner, "uncancel", None)  # Python 3.11 and later
            if uncancel is not None:
                uncancel()
        if error is None or isinstance(error, asyncio.CancelledError):
            raise self._error from self._error.__cause__

    @property
    def _opened(self) -> JournalFile:
        assert self._file is not None, "the journal is closed"
        return self._file

    def _reserve(self) -> None:
        self._has_room = True
        try:
            self._opened.reserve(sync=self._sync != "never")
        except OSError as error:
            raise self._note_error(error) from error

    def _flush_in_loop(self) -> None:
        if self._file is None:  # closed meanwhile; close() has raised what went wrong
            return
        try:
            self.flush()
        except JournalWriteError:
            self._end_owner()

    def _end_owner(self) -> None:
        if self._owner is not None and not self._owner.done() and not self._cancelled_owner:
            self._cancelled_owner = True
            self._owner.cancel()

    def _check_each_second(self) -> None:
        """Retry what is pending, check that the file is still in place, and sync, even while nothing new is written."""
        assert self._loop is not None
        self._timer = self._loop.call_later(_INTERVAL, self._check_each_second)
        try:
            self.flush()  # the disk may have room again
            self._check_file()
        except JournalWriteError:
            self._end_owner()
        if self._dirty and self._sync == "second":
            self._sync_in_thread()

    def _sync_in_thread(self) -> None:
        # In a thread, so that a slow disk does not hold up incoming answers.
        if self._syncing is not None and not self._syncing.done():  # a very slow disk
            return
        self._dirty = False
        self._syncer = self._syncer or ThreadPoolExecutor(1, thread_name_prefix="parallel_openai-sync")
        try:
            self._syncing = self._syncer.submit(self._opened.sync)
        except RuntimeError:  # an executor takes no work once the interpreter shuts down
            self._opened.sync()
            return
        self._syncing.add_done_callback(self._report_sync)

    def _report_sync(self, syncing: Future[None]) -> None:
        if syncing.exception() is None or self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(self._check_sync, syncing)
        except RuntimeError:  # pragma: no cover - the loop has ended; close() checks the sync too
            pass

    def _check_sync(self, syncing: Future[None]) -> None:
        error = syncing.exception()
        if isinstance(error, OSError) and self._error is None:
            self._note_error(error)
            self._end_owner()

    def _check_file(self) -> None:
        """Check the file, and warn if it was changed, moved or deleted.

        Raises:
            JournalWriteError: writing cannot go on under the path.
        """
        try:
            rewritten, lost = self._opened.check(self._pending)
            if rewritten and self._recorded_origin is not None:
                record_origin_of_last(self.path, rewritten, self._recorded_origin)
        except OSError as error:
            raise self._note_error(error) from error
        if rewritten or lost:
            self._dirty = True
            log.warning(
                "%s was changed, moved or deleted while the run wrote it. It was given the %s answers again that it "
                "lacked.%s",
                self.path,
                f"{rewritten:,}",
                lost_bytes_sentence(lost),
            )

    def _sync_if_wanted(self) -> None:
        if self._dirty and self._sync != "never":
            self._sync_now()

    def _sync_now(self) -> None:
        try:
            self._opened.sync()
        except OSError as error:
            raise self._note_error(error) from error
        self._dirty = False
        self._synced_at = time.monotonic()

    def _note_error(self, error: OSError) -> JournalWriteError:
        """Keep an error as the one to raise, unless there is an earlier one; return the one kept."""
        if self._error is None and isinstance(error, JournalWriteError):
            self._error = error
        elif self._error is None and isinstance(error, JournalError):  # no folder accepts a new file
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
    if sync not in ("second", "always", "never"):
        raise InvalidInputError(f"sync must be 'second', 'always' or 'never', not {sync!r}.")
