"""Reads the answers that the journal already has, in the pauses of a run."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress

#: Answers that are read before other tasks of the loop get a turn: at the end, and while there are others.
AT_ONCE = 200
IN_A_PAUSE = 10


class JournalAnswers:
    """Rows whose answer in the journal is not read yet.

    Reading an answer takes longer than looking up that it exists. So a run first finds out which rows it has to send,
    and reads the others' answers while those are in flight.

    Args:
        read: takes the answer to a slot's key; returns False if it is of no use after all.
    """

    def __init__(self, read: Callable[[int, str], bool]) -> None:
        self.in_vain = array("Q")  # the slots for which it was of no use
        self._read = read
        self._slots: deque[int] = deque()
        self._keys: deque[str] = deque()
        self._news = asyncio.Event()

    def __len__(self) -> int:
        return len(self._slots)

    def put(self, slot: int, key: str) -> None:
        self._slots.append(slot)
        self._keys.append(key)
        self._news.set()

    def some(self, count: int = AT_ONCE) -> None:
        for _ in range(min(count, len(self._slots))):
            slot = self._slots[0]
            if not self._read(slot, self._keys[0]):
                self.in_vain.append(slot)
            self._slots.popleft()  # only now, so that the next call meets an error again
            self._keys.popleft()

    async def find_rest(self, requests: Iterable[object], *, within: float) -> None:
        """Go through the rest of a run's requests, which puts the known ones here, and read those. Each takes at most
        `within` seconds, since a large frame would take longer than anybody waits for."""
        give_up_at = time.monotonic() + within
        for number, _ in enumerate(requests):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
            if time.monotonic() > give_up_at:
                break
        give_up_at = time.monotonic() + within
        while self._slots and time.monotonic() < give_up_at:
            self.some()
            await asyncio.sleep(0)

    @asynccontextmanager
    async def in_pauses(self) -> AsyncIterator[None]:
        """Read in the loop's pauses until the end of the block."""
        reading = asyncio.ensure_future(self._read_on())
        try:
            yield
        finally:
            reading.cancel()
            # An error of reading is met again, and raised, when the rest is read.
            with suppress(asyncio.CancelledError, Exception):
                await reading

    async def _read_on(self) -> None:
        while True:
            if not self._slots:
                self._news.clear()
                await self._news.wait()
            self.some(IN_A_PAUSE)
            await asyncio.sleep(0)
