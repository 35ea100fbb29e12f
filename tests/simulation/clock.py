"""The clocks of a life: the loop's, which jumps from timer to timer, and the wall clock, which may be changed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from parallel_openai._loop import background
from tests.limits.virtual import VirtualLoop

#: Seconds since 1970 at the beginning of each life.
BEGAN = 1_790_000_000.0
#: Seconds between two looks at a bar that is not shown; five of them a second would take a sixth of the tests' time.
SECONDS_OF_TICK = 20.0


class Clock:
    """Both, in the place of the machine's own.

    Args:
        loop: whose time it is.
        ahead: by how many seconds the wall's clock was set forward so far.
    """

    def __init__(self, loop: VirtualLoop, ahead: float) -> None:
        self._loop, self.ahead = loop, ahead

    def now(self) -> float:
        return self._loop.time()

    def wall(self) -> float:
        return BEGAN + self._loop.time() + self.ahead

    def sleep(self, seconds: float) -> None:
        """Of the whole process: a sleep that blocks the loop, or a suspension."""
        self._loop._jumping.now += seconds

    def set_wall(self, seconds: float) -> None:
        """Forward, or back if it is negative."""
        self.ahead += seconds

    @contextmanager
    def in_place(self) -> Iterator[None]:
        before, tick = (time.time, time.monotonic, time.sleep), background.TICK
        time.time, time.monotonic, time.sleep = self.wall, self.now, self.sleep  # type: ignore[assignment]
        background.TICK = SECONDS_OF_TICK
        try:
            yield
        finally:
            (time.time, time.monotonic, time.sleep), background.TICK = before, tick
