"""A line in which callers wait for capacity: first come, first served."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

INFINITY = float("inf")
L = TypeVar("L")


class CapacityQueue:
    """Who comes waits no longer for those before than their own cost takes to come in, and none is passed over.

    The moment of the first in line is computed and slept for once; it is computed again when there is news.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        # Seconds that the first in line has waited, by cause: `requests`, `tokens`, `refused` (the server said to
        # wait), `slots` (the server takes no more at once), `learning` (nothing is known yet).
        self.waited = {"requests": 0.0, "tokens": 0.0, "refused": 0.0, "slots": 0.0, "learning": 0.0}
        self._clock = clock
        self.count = 0  # how many wait
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
        self._news: asyncio.Future[None] | None = None

    async def wait(self, take: Callable[[], L | None], plan: Callable[[], tuple[float, str]]) -> L:
        """Wait until it is this caller's turn and `take` gives something; that.

        `plan` says in how many seconds that may be (infinity: only news can tell), and what the wait is for.
        """
        self.count += 1
        try:
            async with self.turn():
                while (taken := take()) is None:
                    await self._sleep(*plan())
        finally:
            self.count -= 1
        return taken

    def tell(self) -> None:
        """There is news: the first in line looks again."""
        if self._news is not None:
            _ring(self._news)

    def turn(self) -> asyncio.Lock:
        """Held by the first in line, on the loop that runs."""
        loop = asyncio.get_running_loop()
        turn = self._turns.get(loop)
        if turn is None:
            turn = self._turns[loop] = asyncio.Lock()
        return turn

    async def _sleep(self, delay: float, cause: str) -> None:
        began = self._clock()
        # Not by wait_for, which makes a task of it: where a limit binds, every request comes by here.
        loop = asyncio.get_running_loop()
        news = self._news = loop.create_future()
        timer = loop.call_later(delay, _ring, news) if delay != INFINITY else None
        try:
            await news
        finally:
            if timer is not None:
                timer.cancel()
            self._news = None
            self.waited[cause] += self._clock() - began


def _ring(news: asyncio.Future[None]) -> None:
    if not news.done():
        news.set_result(None)
