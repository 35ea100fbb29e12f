"""The queue in which callers wait for capacity: first come, first served."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

INFINITY = float("inf")
L = TypeVar("L")


class CapacityQueue:
    """A fair queue: nobody is overtaken, even by a cheaper request.

    Only the first in the queue computes when it may go, and sleeps until then. It computes again when `tell` is called.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        # Seconds that the first in the queue has waited, by cause: `requests`, `tokens`, `refused` (the server said to
        # wait), `slots` (the server takes no more at once), `learning` (no limit is known yet).
        self.waited = {"requests": 0.0, "tokens": 0.0, "refused": 0.0, "slots": 0.0, "learning": 0.0}
        self._clock = clock
        self.count = 0  # how many wait
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
        self._news: asyncio.Future[None] | None = None

    async def wait(self, take: Callable[[], L | None], plan: Callable[[], tuple[float, str]]) -> L:
        """Wait until it is this caller's turn and `take` returns something, and return that.

        `plan` returns the seconds until that is likely, or infinity if only `tell` can change it, and the wait's cause.
        """
        self.count += 1
        try:
            async with self.turn():
                while (taken := take()) is None:
                    await self.sleep(*plan())
        finally:
            self.count -= 1
        return taken

    def tell(self) -> None:
        """Make the first in the queue try again, since something has changed."""
        if self._news is not None:
            _wake(self._news)

    def turn(self) -> asyncio.Lock:
        """The lock that the first in the queue holds, on the running loop."""
        loop = asyncio.get_running_loop()
        turn = self._turns.get(loop)
        if turn is None:
            turn = self._turns[loop] = asyncio.Lock()
        return turn

    async def sleep(self, delay: float, cause: str) -> None:
        """Sleep for `delay` seconds, or until `tell` is called; for the first in the queue."""
        began = self._clock()
        # Not with wait_for, which makes a task: if a limit binds, every request comes through here.
        loop = asyncio.get_running_loop()
        news = self._news = loop.create_future()
        timer = loop.call_later(delay, _wake, news) if delay != INFINITY else None
        try:
            await news
        finally:
            if timer is not None:
                timer.cancel()
            self._news = None
            self.waited[cause] += self._clock() - began


def _wake(news: asyncio.Future[None]) -> None:
    if not news.done():
        news.set_result(None)
