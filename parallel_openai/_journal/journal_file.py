"""The file under a journal: opens, locks and repairs it, appends to it, and copes with its being changed in mid-run."""

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
from parallel_openai._journal.lines import not_a_results_file, read_at, read_entries, records_in, refuse_special_file
from parallel_openai._json import loads, values_in
from parallel_openai.errors import JournalError, JournalWriteError

_CHUNK = 1 << 20
_PAGE = 4096
#: Bytes that the disk must accept before the first request is sent.
_RESERVED = 2048
#: Bytes of recent lines kept in memory, in case the file is truncated or overwritten.
_REMEMBERED = 1 << 19
#: The file is checked after this many bytes, however recent the last check.
_MOST_UNCHECKED = 1 << 19
#: Missing lines are written again this many at a time.
_AT_ONCE = 1000
_sync_file = getattr(os, "fdatasync", os.fsync)


class JournalFile:
    """A results file, held open for one writer. Opening it repairs a torn last line."""

    def __init__(self, path: Path) -> None:
        # Absolute, since the path is looked up again in mid-run, when the working folder may have changed.
        self._path = Path(os.path.abspath(path))
        self._recent: deque[bytes] = deque()  # the blocks written last
        self._recent_bytes = 0
        self._unchecked_bytes = 0  # of these, written since the last check
        self._torn = False
        refuse_special_file(path)
        self._lock = Lock(path)
        try:
            self._file = _open(path, may_be_torn=not self._lock.is_first)
        except JournalError:
            self._lock.abandon()
            raise
        self._size = os.fstat(self._file).st_size

    def reserve(self, *, sync: bool) -> None:
        """Check that the disk accepts data, leaving the file as it was.

        Raises:
            OSError: it does not.
        """
        size = os.fstat(self._file).st_size
        # Past the last page, which may have room even on a full disk. If we die here, the blanks are a torn line, which
        # the next run cuts off.
        blanks = b" " * (-size % _PAGE + _RESERVED)
        try:
            done = os.pwrite(self._file, blanks, size) if hasattr(os, "pwrite") else os.write(self._file, blanks)
            if done < len(blanks):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if sync:
                os.fsync(self._file)
        finally:
            os.ftruncate(self._file, size)

    def write(self, lines: list[bytes]) -> None:
        """Append lines in one write, and remove from the list those that are in the file.

        Raises:
            OSError: the disk refuses. The file ends with the last whole line that it took.
        """
        if self._torn:
            _repair_end(self._file)
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
        self._unchecked_bytes += len(block)
        while self._recent_bytes > max(_REMEMBERED, self._unchecked_bytes):
            self._recent_bytes -= len(self._recent.popleft())

    @property
    def size(self) -> int:
        """The file's size in bytes, as far as this writer knows."""
        return self._size

    @property
    def is_due(self) -> bool:
        """Whether so much was written since the last check that the next one must not wait."""
        return self._unchecked_bytes > _MOST_UNCHECKED

    def sync(self) -> None:
        """Flush what was written to the disk.

        Raises:
            OSError: the disk refuses.
        """
        file = self._file
        try:
            _sync_file(file)
        except OSError:
            if file == self._file:  # else the file was replaced meanwhile
                raise

    def check(self, pending: list[bytes]) -> tuple[int, int]:
        """Check that everything written is still under the path.

        If the file was moved, replaced or changed, go on in the one that is there now, and write the lines that it
        lacks: all of them after a move, the remembered ones after an overwrite.

        Args:
            pending: receives the lines that the disk refuses.

        Returns:
            How many lines were written again, and how many bytes of older lines are lost, judged by the file's size.

        Raises:
            JournalWriteError: the path holds something else, or another run uses it. The lines are in a new file beside
                it, to which later ones go too.
            OSError: the disk refuses.
        """
        problem = None if self._lock.is_in_place() else self._lock_again()
        if not _is_under(self._path, self._file):
            return self._move(problem, _lines(self._file), pending), 0
        if problem is not None:
            raise JournalWriteError(f"The lock of {self._path} was deleted in mid-run. {problem}") from problem
        if os.fstat(self._file).st_size != self._size:
            return self._write_over(_lines_in([*self._recent]), pending)
        self._unchecked_bytes = 0
        return 0, 0

    def complete(self, lines: Iterator[bytes], pending: list[bytes]) -> int:
        """Write those of the lines that the file lacks, and return how many they were.

        Raises:
            OSError: the disk refuses. The lines that it did not take are put in front of `pending`.
        """
        _repair_end(self._file)
        self._size = os.fstat(self._file).st_size
        count = self._unchecked_bytes = 0
        recent = self._recent.copy()
        present = Counter(map(hash, _lines(self._file)))
        missing = (line for line in lines if not _use_one(present, hash(line)))
        try:
            while chunk_of_lines := list(islice(missing, _AT_ONCE)):
                count += len(chunk_of_lines)
                self.write(chunk_of_lines)
        except OSError:
            pending[:0] = [*chunk_of_lines, *missing]
            raise
        finally:  # the lines written again are remembered already
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
        """Go on in a file whose content somebody has changed."""
        before = self._size
        try:
            _refuse_other_file(self._path, may_be_torn=True)
        except JournalError as error:
            lost = before - self._recent_bytes
            return self._move(error, lines, pending, lost), lost
        rewritten = self.complete(lines, pending)
        return rewritten, max(0, before - self._size)

    def _move(self, problem: JournalError | None, lines: Iterator[bytes], pending: list[bytes], lost: int = 0) -> int:
        """Go on in the file that is under the path now, or, if that is impossible, in a new one beside it."""
        path, old = self._path, self._file
        try:
            if problem is None:
                self._file = _open(path, may_be_torn=True)
        except JournalError as error:
            problem = error
        if problem is not None:
            self._path, self._file = _open_beside(path)
        rewritten = self.complete(lines, pending)
        os.close(old)
        if problem is not None:
            raise JournalWriteError(
                f"{path} was moved or replaced in mid-run, and what is there now cannot be used: {problem} The "
                f"answers are in {self._path}: put that in its place and run the same again.{lost_bytes_sentence(lost)}"
            ) from problem
        return rewritten


def lost_bytes_sentence(count: int) -> str:
    """The sentence, with a space before it, that reports bytes of older lines as lost; empty if none are."""
    return f" Older answers, {count:,} bytes, are lost; their rows are asked again." if count > 0 else ""


def _open(path: Path, *, may_be_torn: bool) -> int:
    file = -1
    try:
        refuse_special_file(path)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o600)
        lock_open_file(file, path)
        _refuse_other_file(path, may_be_torn=may_be_torn)
        keep_private(file)
        _repair_end(file)
    except OSError as error:
        if file >= 0:
            unlock_open_file(file)
            os.close(file)
        if isinstance(error, JournalError):
            raise
        raise JournalError(f"The results file {path} cannot be opened: {error.strerror}. {advice(error)}") from error
    return file


def _open_beside(path: Path) -> tuple[Path, int]:
    """Open a new file in the same folder, or in the nearest one above it that takes one."""
    problem: JournalError | None = None
    for folder in path.parents:
        kept = folder / f"{path.name}.kept-{os.getpid()}"
        try:
            return kept, _open(kept, may_be_torn=True)
        except JournalError as error:
            problem = problem or error
    assert problem is not None, "every path has a folder"
    raise problem


def _refuse_other_file(path: Path, *, may_be_torn: bool) -> None:
    # Done before a torn end is cut off, since in another program's file it may be data.
    for _, entry in read_entries(path):
        if entry is not None:
            return
    if not may_be_torn and path.stat().st_size:  # part of a line, in a file that no run has written to
        raise not_a_results_file(path)


def repair_end_of_jsonl(file: int, path: Path) -> None:
    """Repair the end of a file of any JSON lines.

    A torn last line is cut off only if the line before it is JSON. Otherwise it gets a newline: it may be all that the
    file holds, or the file may be of another kind.
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
        _repair_end(file, _begins_with_json if is_jsonl else lambda _: True)
    finally:
        unlock_open_file(file)


def _is_json(line: bytes) -> bool:
    try:
        loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _begins_with_json(line: bytes) -> bool:
    """Whether the line is no torn value: others may follow the first, where files were joined without a newline."""
    return _is_json(values_in(line)[0])


def _is_entry(line: bytes) -> bool:
    return any(JournalEntry.read(record) is not None for record in records_in(line))


def _repair_end(file: int, is_whole: Callable[[bytes], bool] = _is_entry) -> None:
    """Cut off a torn last line, or add a newline to a whole one."""
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
    """Cut off the last bytes. Returns whether that succeeded."""
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
    """Write all of a block, yielding the bytes taken by each write: a disk that is nearly full takes a part."""
    view = memoryview(block)
    while view:
        count = os.write(file, view)
        view = view[count:]
        yield count


def _lines(file: int) -> Iterator[bytes]:
    """The complete lines of an open file, without their newlines."""
    rest, offset = b"", 0
    while chunk := read_at(file, _CHUNK, offset):
        offset += len(chunk)
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole


def _lines_in(blocks: Iterable[bytes]) -> Iterator[bytes]:
    for block in blocks:
        yield from block.split(b"\n")[:-1]


def _use_one(counts: Counter[int], what: int) -> bool:
    """Use up one of a count. Returns False if there is none left."""
    counts[what] -= 1
    return counts[what] >= 0


def _is_under(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # unknown, as when a network drive hangs or the folder is unreadable: go on writing
        return True
