"""Ends what takes too long, with one timer for all: a timer for each request costs a fifth of sending it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: Seconds after which the timer rings too late: the process was suspended, or somebody's function kept the loop. What
#: has arrived meanwhile is then read first, for so many seconds, as long as the loop comes to it, and so often.
LATE = 0.2
READING = 0.5
MOST_READINGS = 20

_COUNTS_CANCELLATIONS = sys.version_info >= (3, 11)


@dataclass(slots=True, eq=False)
class Wait:
    """A task's wait for an answer, until a moment on the clock."""

    task: asyncio.Task[Any]
    until: float
    cancelled_before: int
    is_over: bool = False

    def ended(self) -> bool:
        """Whether the task was cancelled for its time, and for nothing else; to be asked once, by who was cancelled."""
        if not self.is_over:
            return False
        # Python 3.10 cannot tell two cancellations from one.
        return not _COUNTS_CANCELLATIONS or self.task.uncancel() <= self.cancelled_before


class Deadlines:
    """So many seconds for each wait; whose are over, its task is cancelled, as asyncio's timeouts do."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._waits: dict[Wait, None] = {}  # in the order of their ends, since all have the same time
        self._timer: asyncio.TimerHandle | None = None
        self._readings = 0  # since it last rang in time

    def begin(self, now: float) -> Wait:
        """The running task waits from `now` on. Give it to `end` in any case."""
        task = asyncio.current_task()
        assert task is not None
        wait = Wait(task, now + self._seconds, task.cancelling() if _COUNTS_CANCELLATIONS else 0)
        self._waits[wait] = None
        if self._timer is None:
            self._ring_in(self._seconds, now)
        return wait

    def end(self, wait: Wait) -> None:
        del self._waits[wait]

    def close(self) -> None:
        """Ring no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring_in(self, seconds: float, now: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._ring, now + seconds)

    def _ring(self, due: float) -> None:
        self._timer, now = None, self._clock()
        if now - due > LATE and self._readings < MOST_READINGS:
            self._readings += 1
            self._ring_in(READING, now)
            return
        self._readings = 0
        for wait in self._waits:
            if wait.until > now:
                self._ring_in(wait.until - now, now)
                return
            if not wait.is_over:
                wait.is_over = True
                wait.task.cancel()
