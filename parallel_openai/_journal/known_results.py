"""What a file of results already knows, and where each answer stands in it."""

from __future__ import annotations

import asyncio
import logging
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
    refuse_what_is_no_file,
)
from parallel_openai._journal.origins import Origins, writer
from parallel_openai._printable import printable
from parallel_openai._records import APIRequest, Result
from parallel_openai._requests.endpoints import is_simulated

log = logging.getLogger("parallel_openai")


Standing = Literal["finished", "in vain", "new"]


class KnownResults:
    """The finished requests of a journal, by key; a later success goes before an earlier failure.

    The answers themselves stay on the disk and are read when asked for. `load` gives the same without holding up the
    loop that it runs on.
    """

    neighbours: Sequence[KnownResults] = ()  # journals that are asked for what this one does not know

    def __init__(
        self,
        path: str | os.PathLike[str],  # the journal; it need not exist
        *,
        failures: bool = False,  # whether failed requests count as finished too
        simulated: bool = False,  # whether answers of the simulator count
        place: str | None = None,  # the server whose answers count, of those that a file run wrote; None: every one's
    ) -> None:
        self._begin(path, failures, simulated, place)
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
        known._begin(path, failures, simulated, place)
        try:
            for _ in known._read():
                await asyncio.sleep(0)
        except BaseException:
            known.close()
            raise
        return known

    def _begin(self, path: str | os.PathLike[str], failures: bool, simulated: bool, place: str | None) -> None:
        self.damaged_lines = 0
        self._read_lines = 0
        self._has_lines = False
        self._strange: list[int] = []  # where lines begin whose request is not the one of their key
        self._path = Path(path)
        self._failures, self._simulated, self._place = failures, simulated, place
        self._by_others: Counter[str] = Counter()  # answers taken that others wrote
        self._file = -1
        self._lines = DigestTable()  # where each one's line begins, doubled, and one more where it is good
        self._finished = 0
        refuse_what_is_no_file(path)
        self._origins = Origins(self._path)  # of lines without a record
        try:
            self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise cannot_be_opened(path, error) from error

    def _read(self) -> Iterator[None]:
        """Read the journal, stopping now and then."""
        if self._file < 0:
            return
        lines = self._lines
        for number, (offset, glance) in enumerate(read_lines(self._path, self._glance)):
            if number % _AT_ONCE == 0:
                yield
                if number == _AT_ONCE:
                    lines.expect(likely_lines(self._path, number, offset))
            if glance is None:
                self.damaged_lines += 1
                continue
            digest, good, is_plain = glance
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

    def _glance(self, line: bytes) -> tuple[int | None, bool, bool] | None:
        """The digest of a line's key, whether it is a good answer, and whether it has no record; no digest for what
        does not count; None for a damaged line.

        A good line of ours tells both near its end, in a shape that stands nowhere behind it, and need not be parsed:
        what is damaged before is found out when the answer is read.
        """
        start = line.rfind(_RECORD)
        if start >= 0 and line.startswith(_SUCCEEDED, start + _TO_STATUS) and line.startswith(b"[{"):
            is_plain = line.endswith(b"}]\n") and line.find(_REPAIRED, start) < 0
            # From behind, which Python does twice as fast here.
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
        return (_digest_of(entry.asked_key) if counts else None), good, entry.record is None

    def __contains__(self, key: str) -> bool:
        return self._counts(self._number(key)) or any(key in each for each in self.neighbours)

    def _number(self, key: str) -> int:
        digest = _digest_of(key)
        return 0 if digest is None else self._lines[digest]

    def __len__(self) -> int:
        return self._finished + sum(map(len, self.neighbours))

    def standing(self, key: str) -> Standing:
        """What the journal says of a request; the same as `in` and `was_asked` tell, in one look."""
        if not self._has_lines and not self.neighbours:
            return "new"
        number = self._number(key)
        if self._counts(number) or (self.neighbours and key in self):
            return "finished"
        return "in vain" if number else "new"

    def was_asked(self, key: str) -> bool:
        """Whether the journal holds an answer or a failure of it."""
        return self._number(key) > 0

    def get(self, request: APIRequest) -> Result | None:
        """The request's result as it was written, or None when it is not known."""
        entry = self.entry(request.key)
        if entry is None:
            return next((each.get(request) for each in self.neighbours if request.key in each), None)
        self._read_lines += 1
        is_checked = self._strange or self._read_lines <= _CHECKED or self._read_lines % _EVERY == 0
        if is_checked and not entry.asks(request):
            self.damaged_lines += 1
            self._strange.append(self._number(request.key) // 2 - 1)
            return None
        origin = entry.origin if entry.record is not None else self._origins.of(self._number(request.key) // 2 - 1)
        if origin is not None and origin.writer != writer():
            self._by_others[origin.writer] += 1
        return entry.result(request)

    def entry(self, key: str) -> JournalEntry | None:
        """The line written under a key, or None."""
        number = self._number(key)
        if not self._counts(number):
            return None
        entry = read_entry_at(self._file, number // 2 - 1)
        if entry is None:
            self.damaged_lines += 1
            return None
        return entry if entry.asked_key == key else None

    def close(self) -> None:
        for each in self.neighbours:
            each.close()
        if self._strange:
            self._tell_of_strange_lines()
        for other, count in self._by_others.items():
            log.warning(
                "%s: the answers to %s requests were written by %s.", self._path, f"{count:,}", printable(other)
            )
        self._by_others.clear()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _tell_of_strange_lines(self) -> None:
        first, count = min(self._strange), len(self._strange)
        number = 1 + sum(offset < first for offset, _ in read_lines(self._path, JournalEntry.read))
        log.warning(
            "%s: line %d%s another request than the key beside it is for, as if somebody had changed it. What is "
            "answered there was not taken, and the row was asked anew.",
            self._path,
            number,
            " holds" if count == 1 else f" and {count - 1:,} more hold",
        )
        self._strange.clear()


#: How the record in a line of ours begins, what follows on the key of a good answer, and how far behind; what stands
#: near the end when the record holds a request of its own, which may look like a record.
_RECORD = b',{"key":"'
_SUCCEEDED = (b'","status":"succeeded","version":1,', b'","status":"succeeded","attempts":')  # now, and before
_TO_STATUS = len(_RECORD) + 32
_REPAIRED = b',"earlier":'
#: So many answers of a journal are compared with what is asked, and from there on one of so many, since it takes a
#: tenth of the time of reading them; all of them as soon as one is found to be to something else.
_CHECKED, _EVERY = 2000, 64
#: Lines that are read before other work of the loop gets its turn.
_AT_ONCE = 2000


def _digest_of(key: str | bytes | None) -> int | None:
    try:
        return None if key is None else digest_of_key(key)
    except ValueError:  # a key that is none of ours
        return None
