"""A caller's functions, watched from beyond the death of the process that calls them: a row that kills its worker each
time would be tried again without end."""

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

#: So many workers may die of a row.
MOST_DEATHS = 3
#: Calls that are remembered behind the one that goes on, and seconds that each of them is waited for when it is made
#: again: a signal that one thread sends itself may end the process through another, a moment after the call.
RECENT = 512
A_MOMENT = 0.02
_SIZE = 8
_NOBODY = bytes(_SIZE)


class CrashGuard:
    """Notes what a function is called with, in a file that outlives the process, and counts who died of what.

    Args:
        note: a file of this worker's own, which its predecessor left where it died.
        deaths: a file that all workers of the run share.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for _ in range(3):  # as a worker leaves it that dies in the middle of a call
    ...     _ = (folder / "note").write_bytes(_name_of("row 7"))
    ...     guard = CrashGuard(folder / "note", folder / "deaths")
    >>> ask = guard.watch(str.upper, "not called: {}".format)
    >>> ask("row 6"), ask("row 7")
    ('ROW 6', 'not called: It has ended 3 workers, as a crash in native code or a lack of memory does.')
    """

    def __init__(self, note: Path, deaths: Path) -> None:
        self._deaths = deaths
        self._calling = threading.Lock()
        left = note.read_bytes() if note.exists() else b""
        victim, *recent = (left[at : at + _SIZE] for at in range(0, max(_SIZE, len(left)), _SIZE))
        if victim.strip(b"\0"):
            with open(deaths, "ab") as file:
                file.write(victim)
        self._suspects = set(recent)
        self._called = 0
        note.write_bytes(_NOBODY * (1 + RECENT))
        with open(note, "r+b") as file:
            self._note = mmap.mmap(file.fileno(), _SIZE * (1 + RECENT))
        self.look()

    def look(self) -> None:
        """See who has died since."""
        told = self._deaths.read_bytes() if self._deaths.exists() else b""
        self._counts = Counter(told[at : at + _SIZE] for at in range(0, len(told), _SIZE))

    def watch(self, function: Callable[[Any], Any], refuse: Callable[[str], Any]) -> Callable[[Any], Any]:
        """The function, which is not called with what has killed too many; `refuse` gives what it gives then."""

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
        place = _SIZE * (1 + self._called % RECENT)
        self._note[:_SIZE] = self._note[place : place + _SIZE] = name
        try:
            yield
        finally:
            if name in self._suspects:
                time.sleep(A_MOMENT)
                self._suspects.discard(name)
            self._note[:_SIZE] = _NOBODY


def die_at_once() -> None:
    """Have a crash end the process right where it happens: Ray would first write down where that was."""
    for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL):
        with suppress(ValueError):  # in another thread than the main one
            signal.signal(number, signal.SIG_DFL)


def _name_of(value: object) -> bytes:
    return blake2b(repr(value).encode("utf-8", "backslashreplace"), digest_size=_SIZE).digest()
