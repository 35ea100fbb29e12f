"""A caller's functions, watched from beyond the death of the process that calls them: a row that kills its worker each
time would be tried again without end."""

from __future__ import annotations

import mmap
import threading
from collections import Counter
from collections.abc import Callable
from functools import wraps
from hashlib import blake2b
from pathlib import Path
from typing import Any

#: So many workers may die of a row.
MOST_DEATHS = 3
_SIZE = 8
_NOBODY = bytes(_SIZE)


class Guard:
    """Notes what a function is called with, in a file that outlives the process, and counts who died of what.

    Args:
        note: a file of this worker's own, which its predecessor left where it died.
        deaths: a file that all workers of the run share.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for _ in range(3):  # as a worker leaves it that dies in the middle of a call
    ...     _ = (folder / "note").write_bytes(_name_of("row 7"))
    ...     guard = Guard(folder / "note", folder / "deaths")
    >>> ask = guard.watch(str.upper, "not called: {}".format)
    >>> ask("row 6"), ask("row 7")
    ('ROW 6', 'not called: It has ended 3 workers, as a crash in native code or a lack of memory does.')
    """

    def __init__(self, note: Path, deaths: Path) -> None:
        self._deaths = deaths
        self._calling = threading.Lock()
        if note.exists() and (victim := note.read_bytes()) != _NOBODY:
            with open(deaths, "ab") as file:
                file.write(victim)
        note.write_bytes(_NOBODY)
        with open(note, "r+b") as file:
            self._note = mmap.mmap(file.fileno(), _SIZE)
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
            with self._calling:
                self._note[:] = name
                try:
                    return function(value)
                finally:
                    self._note[:] = _NOBODY

        return watched


def _name_of(value: object) -> bytes:
    return blake2b(repr(value).encode("utf-8", "backslashreplace"), digest_size=_SIZE).digest()
