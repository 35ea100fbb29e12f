"""The file under a journal: opened, mended and added to, and gone on with when somebody changes it in mid-run."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from parallel_openai._disk.file_ownership import keep_private
from parallel_openai._disk.locking import Lock, advice, lock_open_file, unlock_open_file
from parallel_openai._journal.entry import JournalEntry
from parallel_openai._journal.lines import none_of_ours, read_at, read_entries, refuse_what_is_no_file
from parallel_openai._json import loads
from parallel_openai.errors import JournalError, JournalWriteError

_CHUNK = 1 << 20
_PAGE = 4096
#: Bytes that a disk must take before anything is paid for.
_ROOM = 2048
#: Bytes of the last lines that are remembered, in case that the file is cut or written over.
_REMEMBERED = 1 << 19
#: Bytes after which the file is looked at, however short the time was.
_MOST_UNSEEN = 1 << 19
#: Lines that are written again at a time.
_AT_ONCE = 1000
_sync_file = getattr(os, "fdatasync", os.fsync)


class JournalFile:
    """A file of lines with one writer. Opening repairs a torn end."""

    def __init__(self, path: Path) -> None:
        # It is looked for again in mid-run, when the working folder may be another one.
        self._path = Path(os.path.abspath(path))
        self._recent: deque[bytes] = deque()  # what was written last
        self._recent_bytes = 0
        self._unseen_bytes = 0  # of these, since the file was last seen to be whole and in its place
        self._torn = False
        refuse_what_is_no_file(path)
        self._lock = Lock(path)
        try:
            self._file = _open(path, may_be_torn=not self._lock.is_first)
        except JournalError:
            self._lock.abandon()
            raise
        self._size = os.fstat(self._file).st_size

    def reserve(self, *, sync: bool) -> None:
        """See that the disk takes something.

        Raises:
            OSError: it does not.
        """
        size = os.fstat(self._file).st_size
        # Into another page, since the last one may have room on a full disk. Should we die here, blanks at the end of
        # a file are a torn line.
        blanks = b" " * (-size % _PAGE + _ROOM)
        try:
            done = os.pwrite(self._file, blanks, size) if hasattr(os, "pwrite") else os.write(self._file, blanks)
            if done < len(blanks):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if sync:
                os.fsync(self._file)
        finally:
            os.ftruncate(self._file, size)

    def write(self, lines: list[bytes]) -> None:
        """Add lines in one write. Those that are in the file then are taken out of the list.

        Raises:
            OSError: the disk refuses; the file is whole up to the last line that went well.
        """
        if self._torn:
            _mend_end(self._file)
            self._torn = False
            self._size = os.fstat(self._file).st_size
        block = b"\n".join(lines) + b"\n"
        done = 0
        try:
            for count in _writing(self._file, block):
                done += count
        except OSError:
            whole = block.rfind(b"\n", 0, done) + 1
            self._torn = not _cut_off(self._file, done - whole)
            done = whole
            raise
        finally:
            self._size += done
            self._remember(block[:done])
            del lines[: len(lines) if done == len(block) else block.count(b"\n", 0, done)]

    def _remember(self, block: bytes) -> None:
        self._recent.append(block)
        self._recent_bytes += len(block)
        self._unseen_bytes += len(block)
        while self._recent_bytes > max(_REMEMBERED, self._unseen_bytes):
            self._recent_bytes -= len(self._recent.popleft())

    @property
    def size(self) -> int:
        """Bytes, as far as this writer knows."""
        return self._size

    @property
    def is_due(self) -> bool:
        """Whether so much was written since the last look that the next one must not wait."""
        return self._unseen_bytes > _MOST_UNSEEN

    def sync(self) -> None:
        """Have the disk keep what was written.

        Raises:
            OSError: it refuses.
        """
        file = self._file
        try:
            _sync_file(file)
        except OSError:
            if file == self._file:  # and not one that was left meanwhile
                raise

    def look(self, pending: list[bytes]) -> tuple[int, int]:
        """See that all that was written is still under the path. Where it is not, since somebody has moved, replaced or
        changed the file, go on with the file that is there now, and with the lines that it lacks: where it was moved
        all of them, where it was written over those that are remembered.

        Args:
            pending: where lines go that the disk refuses.

        Returns:
            How many lines were written again, and how many bytes of older ones are gone, as far as the size tells.

        Raises:
            JournalWriteError: there is something else, or another run; the lines are in another file, and go there now.
            OSError: the disk refuses.
        """
        wrong = None if self._lock.is_in_place() else self._lock_again()
        if not _is_under(self._path, self._file):
            return self._move(wrong, _lines(self._file), pending), 0
        if wrong is not None:
            raise JournalWriteError(f"The lock of {self._path} was deleted in mid-run. {wrong}") from wrong
        if os.fstat(self._file).st_size != self._size:
            return self._write_over(_lines_in([*self._recent]), pending)
        self._unseen_bytes = 0
        return 0, 0

    def complete(self, lines: Iterator[bytes], pending: list[bytes]) -> int:
        """Write what the file lacks of these lines; gives how many.

        Raises:
            OSError: the disk refuses; what it did not take is pending.
        """
        _mend_end(self._file)
        self._size = os.fstat(self._file).st_size
        count = self._unseen_bytes = 0
        recent = self._recent.copy()
        has = Counter(map(hash, _lines(self._file)))
        missing = (line for line in lines if not _takes_one(has, hash(line)))
        try:
            while some := list(islice(missing, _AT_ONCE)):
                count += len(some)
                self.write(some)
        except OSError:
            pending[:0] = [*some, *missing]
            raise
        finally:  # a line that was written again need not be remembered twice
            self._recent, self._recent_bytes = recent, sum(map(len, recent))
        return count

    def close(self) -> None:
        unlock_open_file(self._file)
        os.close(self._file)
        self._lock.release()

    def _lock_again(self) -> JournalError | None:
        self._lock.release()
        try:
            self._lock = Lock(self._path)
        except JournalError as error:
            return error
        return None

    def _write_over(self, lines: Iterator[bytes], pending: list[bytes]) -> tuple[int, int]:
        """Go on in the file that somebody has written something else into."""
        before = self._size
        try:
            _refuse_what_is_not_ours(self._path, may_be_torn=True)
        except JournalError as error:
            lost = before - self._recent_bytes
            return self._move(error, lines, pending, lost), lost
        again = self.complete(lines, pending)
        return again, max(0, before - self._size)

    def _move(self, wrong: JournalError | None, lines: Iterator[bytes], pending: list[bytes], lost: int = 0) -> int:
        """Go on in the file that is under the path now; where that cannot be, in a new one beside it."""
        path, old = self._path, self._file
        try:
            if wrong is None:
                self._file = _open(path, may_be_torn=True)
        except JournalError as error:
            wrong = error
        if wrong is not None:
            self._path, self._file = _open_beside(path)
        again = self.complete(lines, pending)
        os.close(old)
        if wrong is not None:
            raise JournalWriteError(
                f"{path} was moved or replaced in mid-run, and what is there now cannot be gone on with: {wrong} The "
                f"answers are in {self._path}: put that in its place and run the same again.{told_of_lost(lost)}"
            ) from wrong
        return again


def told_of_lost(count: int) -> str:
    """What is added to a sentence where bytes of older lines are gone, which nobody remembers."""
    return f" Older answers, {count:,} bytes, are lost; their rows are asked again." if count > 0 else ""


def _open(path: Path, *, may_be_torn: bool) -> int:
    file = -1
    try:
        refuse_what_is_no_file(path)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o600)
        lock_open_file(file, path)
        _refuse_what_is_not_ours(path, may_be_torn=may_be_torn)
        keep_private(file)
        _mend_end(file)
    except OSError as error:
        if file >= 0:
            unlock_open_file(file)
            os.close(file)
        if isinstance(error, JournalError):
            raise
        raise JournalError(f"The results file {path} cannot be opened: {error.strerror}. {advice(error)}") from error
    return file


def _open_beside(path: Path) -> tuple[Path, int]:
    """A file for what cannot stay under its path: in its folder or, should that be gone, in the next above it."""
    problem: JournalError | None = None
    for folder in path.parents:
        place = folder / f"{path.name}.kept-{os.getpid()}"
        try:
            return place, _open(place, may_be_torn=True)
        except JournalError as error:
            problem = problem or error
    assert problem is not None, "every path has a folder"
    raise problem


def _refuse_what_is_not_ours(path: Path, *, may_be_torn: bool) -> None:
    """Before a torn end is cut off: in somebody else's file it would be no torn end."""
    for _, entry in read_entries(path):
        if entry is not None:
            return
    if not may_be_torn and path.stat().st_size:  # part of a line, in a file that no run has held
        raise none_of_ours(path)


def mend_end_of_any(file: int, path: Path) -> None:
    """The same for a file of any JSON lines. A torn line is cut off only behind a line of JSON: what is the whole of a
    file, or stands in one of another kind, is ended and not cut.
    """
    end = os.fstat(file).st_size
    if not stat.S_ISREG(os.fstat(file).st_mode) or end == 0 or read_at(file, 1, end - 1) == b"\n":
        return
    lock_open_file(file, path)
    try:
        end = os.fstat(file).st_size
        start = _after_last_newline(file, end)
        before = _after_last_newline(file, start - 1) if start else 0
        is_jsonl = start > 0 and _is_json(_read_exactly(file, before, start - before))
        _mend_end(file, _is_json if is_jsonl else lambda _: True)
    finally:
        unlock_open_file(file)


def _is_json(line: bytes) -> bool:
    try:
        loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _is_entry(line: bytes) -> bool:
    return JournalEntry.read(line) is not None


def _mend_end(file: int, is_whole: Callable[[bytes], bool] = _is_entry) -> None:
    """Cut a torn last line off, and end a whole one."""
    end = os.fstat(file).st_size
    start_of_last = _after_last_newline(file, end)
    if start_of_last == end:
        return
    if is_whole(_read_exactly(file, start_of_last, end - start_of_last)):
        for _ in _writing(file, b"\n"):
            pass
    else:
        os.ftruncate(file, start_of_last)


def _cut_off(file: int, count: int) -> bool:
    """Take the last bytes away; whether that went well."""
    try:
        os.ftruncate(file, os.fstat(file).st_size - count)
    except OSError:
        return False
    return True


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


def _writing(file: int, block: bytes) -> Iterator[int]:
    """Write all of it; gives how much was taken at a time, since a disk that is nearly full takes a part."""
    view = memoryview(block)
    while view:
        count = os.write(file, view)
        view = view[count:]
        yield count


def _lines(file: int) -> Iterator[bytes]:
    """The whole lines of an open file, without their ends."""
    rest, offset = b"", 0
    while chunk := read_at(file, _CHUNK, offset):
        offset += len(chunk)
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole


def _lines_in(blocks: Iterable[bytes]) -> Iterator[bytes]:
    for block in blocks:
        yield from block.split(b"\n")[:-1]


def _takes_one(counts: Counter[int], what: int) -> bool:
    """Whether there is one left, which is used up then."""
    counts[what] -= 1
    return counts[what] >= 0


def _is_under(path: Path, file: int) -> bool:
    """Whether an open file is the one under a path."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # a network that hangs, a folder without rights: it cannot be told, and writing goes on
        return True
