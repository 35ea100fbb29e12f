"""The answers that a results file already holds, indexed by request key."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from parallel_openai._journal.digest_index import DigestTable, digest_of_key
from parallel_openai._journal.entry import JournalEntry
from parallel_openai._journal.lines import (
    cannot_be_opened,
    check_version,
    likely_lines,
    read_entry_at,
    read_lines,
    refuse_special_file,
)
from parallel_openai._journal.origins import Origins, writer
from parallel_openai._log import log
from parallel_openai._printable import printable
from parallel_openai._records import APIRequest, Result
from parallel_openai._requests.endpoints import is_simulated

Status = Literal["finished", "failed", "new"]


class KnownResults:
    """The finished requests of a journal, by key. A success replaces a failure of the same request, never the reverse.

    Only an index is in memory; each answer is read from the disk when it is needed. Inside an event loop, use `load`,
    which lets other tasks run in between.
    """

    neighbours: Sequence[KnownResults] = ()  # journals to look in for what this one does not hold

    def __init__(
        self,
        path: str | os.PathLike[str],  # the journal; it need not exist
        *,
        failures: bool = False,  # failed requests count as finished too
        simulated: bool = False,  # the simulator's answers count
        place: str | None = None,  # of a file run's answers, only this server's count; None: every server's
    ) -> None:
        self._open(path, failures, simulated, place)
        for _ in self._read():
            pass

    @classmethod
    async def load(
        cls,
        path: str | os.PathLike[str],
        *,
        failures: bool = False,
        simulated: bool = False,
        place: str | None = None,
    ) -> KnownResults:
        known = cls.__new__(cls)
        known._open(path, failures, simulated, place)
        try:
            for _ in known._read():
                await asyncio.sleep(0)
        except BaseException:
            known.close()
            raise
        return known

    def _open(self, path: str | os.PathLike[str], failures: bool, simulated: bool, place: str | None) -> None:
        self.damaged_lines = 0
        self._answers_read = 0
        self._has_lines = False
        self._mismatched: list[int] = []  # offsets of lines whose request does not match their key
        self._path = Path(path)
        self._failures, self._simulated, self._place = failures, simulated, place
        self._counts_by_writer: Counter[str] = Counter()  # how many answers were taken from each other writer
        self._file = -1
        # For each request, 2 * offset + 2 of its line, plus 1 for a success; 0 means that there is no line.
        self._lines = DigestTable()
        self._finished = 0
        refuse_special_file(path)
        self._origins = Origins(self._path)  # of lines without a record
        try:
            self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise cannot_be_opened(path, error) from error

    def _read(self) -> Iterator[None]:
        """Read the journal, yielding now and then to let other tasks run."""
        if self._file < 0:
            return
        lines = self._lines
        for number, (offset, scanned) in enumerate(read_lines(self._path, self._scan)):
            if number % _AT_ONCE == 0:
                yield
                if number == _AT_ONCE:
                    lines.reserve(likely_lines(self._path, number, offset))
            if scanned is None:
                self.damaged_lines += 1
                continue
            digest, good, is_plain = scanned
            if digest is None or (is_plain and self._is_from_elsewhere(offset)):
                continue
            line = offset * 2 + 2 + good
            self._has_lines = True
            before = lines.add(digest, line)
            if before:
                if before & 1 and not good:
                    continue
                lines[digest] = line
            self._finished += self._counts(line) - self._counts(before)

    def _counts(self, number: int) -> bool:
        return number > 0 and (self._failures or number & 1 == 1)

    def _is_from_elsewhere(self, offset: int) -> bool:
        origin = self._origins.of(offset)
        return origin is not None and self._place is not None and origin.place != self._place

    def _scan(self, line: bytes) -> tuple[int | None, bool, bool] | None:
        """The digest of a line's key (None if the line does not count), whether it is a success, and whether it lacks a
        record. None for a damaged line.

        The record at the end of a success states its key and status in a fixed form, so most lines need not be parsed.
        Damage before it shows when the answer is read.
        """
        start = line.rfind(_RECORD)
        if start >= 0 and line.startswith(_SUCCEEDED, start + _TO_STATUS) and line.startswith(b"[{"):
            is_plain = line.endswith(b"}]\n") and line.find(_REPAIR_MARK, start) < 0
            # rfind is twice as fast as find here.
            if is_plain and (self._simulated or line.rfind(b'"simulated"', 0, start) < 0):
                digest = _digest_of(line[start + len(_RECORD) : start + _TO_STATUS])
                if digest is not None:
                    return digest, True, False
        entry = JournalEntry.read(line)
        if entry is None:
            return None
        check_version(self._path, entry)
        good = entry.is_good
        counts = not good or self._simulated or not is_simulated(entry.answer)
        return (_digest_of(entry.lookup_key) if counts else None), good, entry.record is None

    def __contains__(self, key: str) -> bool:
        return self._counts(self._number(key)) or any(key in each for each in self.neighbours)

    def _number(self, key: str) -> int:
        digest = _digest_of(key)
        return 0 if digest is None else self._lines[digest]

    def __len__(self) -> int:
        return self._finished + sum(map(len, self.neighbours))

    def status(self, key: str) -> Status:
        """What `in` and `was_tried` say together, in one lookup."""
        if not self._has_lines and not self.neighbours:
            return "new"
        number = self._number(key)
        if self._counts(number) or (self.neighbours and key in self):
            return "finished"
        return "failed" if number else "new"

    def was_tried(self, key: str) -> bool:
        """Whether the journal itself holds an answer to the request or a failure of it."""
        return self._number(key) > 0

    def is_answered_behind(self, key: str, offset: int) -> bool:
        """Whether the journal itself has an answer to the request behind an offset."""
        number = self._number(key)
        return number & 1 == 1 and number // 2 - 1 > offset

    def get(self, request: APIRequest) -> Result | None:
        """The request's result as it was written, or None if it is not known."""
        entry = self.entry(request.key)
        if entry is None:
            found = (each.get(request) for each in self.neighbours if request.key in each)
            return next((each for each in found if each is not None), None)
        self._answers_read += 1
        is_checked = self._mismatched or self._answers_read <= _CHECKED or self._answers_read % _EVERY == 0
        if is_checked and not entry.asks(request):
            self.damaged_lines += 1
            self._mismatched.append(self._number(request.key) // 2 - 1)
            return None
        origin = entry.origin if entry.record is not None else self._origins.of(self._number(request.key) // 2 - 1)
        if origin is not None and origin.writer != writer():
            self._counts_by_writer[origin.writer] += 1
        return entry.result(request)

    def entry(self, key: str) -> JournalEntry | None:
        """The line of a key, or None. Neighbours are not searched."""
        number = self._number(key)
        if not self._counts(number):
            return None
        entry = read_entry_at(self._file, number // 2 - 1)
        if entry is None:
            self.damaged_lines += 1
            return None
        return entry if entry.lookup_key == key else None

    def close(self) -> None:
        for each in self.neighbours:
            each.close()
        if self._mismatched:
            self._warn_of_mismatched_lines()
        for other, count in self._counts_by_writer.items():
            log.warning(
                "%s: the answers to %s requests were written by %s.", self._path, f"{count:,}", printable(other)
            )
        self._counts_by_writer.clear()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _warn_of_mismatched_lines(self) -> None:
        first, count = min(self._mismatched), len(self._mismatched)
        number = 1 + sum(offset < first for offset, _ in read_lines(self._path, JournalEntry.read))
        log.warning(
            "%s: line %d%s another request than its key stands for, as if it had been edited. The answer there was not "
            "used, and the row was sent again.",
            self._path,
            number,
            " holds" if count == 1 else f" and {count - 1:,} more hold",
        )
        self._mismatched.clear()


#: For `_scan`: how a line's record begins, what follows the key of a success, and at which distance. A repair's
#: record holds a request, which may itself look like a record; it is recognised by its `earlier` field.
_RECORD = b',{"key":"'
_SUCCEEDED = (b'","status":"succeeded","version":1,', b'","status":"succeeded","attempts":')  # now, and before
_TO_STATUS = len(_RECORD) + 32
_REPAIR_MARK = b',"earlier":'
#: The first answers taken from a journal are all compared with their requests, later ones one in 64, since comparing
#: takes a tenth of the reading time. After the first mismatch all are compared.
_CHECKED, _EVERY = 2000, 64
#: Lines read before other tasks get their turn.
_AT_ONCE = 2000


def _digest_of(key: str | bytes | None) -> int | None:
    try:
        return None if key is None else digest_of_key(key)
    except ValueError:  # not one of our keys
        return None
