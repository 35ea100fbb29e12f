"""Keeps a row from killing one worker after another, as by a crash in a function of the caller's.

Calls of such functions are noted in files that outlive the worker. A value that has killed too many is not passed to
them again. Deaths of other causes are counted too, so that a worker that always dies is not restarted without end.
"""

from __future__ import annotations

import mmap
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from hashlib import blake2b
from pathlib import Path
from typing import Any

#: A row may kill this many workers.
MOST_DEATHS = 3
#: Finished calls noted beside the current one, and seconds to pause after one of them is repeated in the next worker: a
#: fatal signal may end the process a moment after the call that caused it, through another thread.
RECENT = 512
A_MOMENT = 0.02
_SIZE = 8
_NOBODY = bytes(_SIZE)
_COUNT_AT = _SIZE * (1 + RECENT)  # in the note: deaths in vain


class CrashGuard:
    """Notes what functions are called with, and counts the workers that each value has killed.

    Args:
        note: this worker's file. If its predecessor died, it still names what it was called with.
        deaths: a file that all workers of the run share.

    Attributes:
        deaths_in_vain: predecessors of this worker that died in a row outside of these functions, without an answer.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for _ in range(3):  # what a worker leaves that dies in the middle of a call
    ...     _ = (folder / "note").write_bytes(_name_of("row 7"))
    ...     guard = CrashGuard(folder / "note", folder / "deaths")
    >>> ask = guard.watch(str.upper, "not called: {}".format)
    >>> ask("row 6"), ask("row 7")
    ('ROW 6', 'not called: It has ended 3 workers, as a crash in native code or a lack of memory does.')
    """

    def __init__(self, note: Path, deaths: Path) -> None:
        self._deaths = deaths
        self._calling = threading.Lock()
        noted = note.read_bytes() if note.exists() else b""
        victim, *recent = (noted[at : at + _SIZE] for at in range(0, max(_SIZE, min(len(noted), _COUNT_AT)), _SIZE))
        self.deaths_in_vain = int.from_bytes(noted[_COUNT_AT:], "little") + 1 if noted else 0
        if victim.strip(b"\0"):
            self.deaths_in_vain = 0
            with open(deaths, "ab") as file:
                file.write(victim)
        self._suspects = set(recent)
        self._called = 0
        note.write_bytes(_NOBODY * (1 + RECENT) + self.deaths_in_vain.to_bytes(_SIZE, "little"))
        with open(note, "r+b") as file:
            self._note = mmap.mmap(file.fileno(), _COUNT_AT + _SIZE)
        self.look()

    def has_answer(self) -> None:
        """Note that this worker has brought an answer."""
        self._note[_COUNT_AT:] = _NOBODY

    def look(self) -> None:
        """Read the deaths of the run so far."""
        victims = self._deaths.read_bytes() if self._deaths.exists() else b""
        self._counts = Counter(victims[at : at + _SIZE] for at in range(0, len(victims), _SIZE))

    def watch(self, function: Callable[[Any], Any], refuse: Callable[[str], Any]) -> Callable[[Any], Any]:
        """Wrap a function so that it is not called with a value that has killed too many workers. It then returns what
        `refuse` makes of the reason."""

        @wraps(function)
        def watched(value: Any) -> Any:
            name = _name_of(value)
            if self._counts[name] >= MOST_DEATHS:
                return refuse(
                    f"It has ended {MOST_DEATHS} workers, as a crash in native code or a lack of memory does."
                )
            with self._calling, self._noted(name):
                return function(value)

        return watched

    @contextmanager
    def _noted(self, name: bytes) -> Iterator[None]:
        self._called += 1
        at = _SIZE * (1 + self._called % RECENT)
        self._note[:_SIZE] = self._note[at : at + _SIZE] = name
        try:
            yield
        finally:
            if name in self._suspects:
                time.sleep(A_MOMENT)
                self._suspects.discard(name)
            self._note[:_SIZE] = _NOBODY


def die_at_once() -> None:
    """Let a crash end the process immediately, without Ray's handlers, which would first write a stack trace."""
    for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL):
        with suppress(ValueError):  # not in the main thread
            signal.signal(number, signal.SIG_DFL)


def _name_of(value: object) -> bytes:
    return blake2b(repr(value).encode("utf-8", "backslashreplace"), digest_size=_SIZE).digest()
