"""Cancels waits that take too long, with one timer for all: a timer per request costs a fifth of sending it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: A timer that fires this many seconds late means that the process was suspended or the loop was blocked. Answers may
#: have arrived meanwhile, so the loop is first given time to read them: READING seconds, at most MOST_READINGS times.
LATE = 0.2
READING = 0.5
MOST_READINGS = 20

_COUNTS_CANCELLATIONS = sys.version_info >= (3, 11)


@dataclass(slots=True, eq=False)
class Wait:
    """A task's wait for an answer, until a time on the clock."""

    task: asyncio.Task[Any]
    until: float
    cancelled_before: int
    is_over: bool = False

    def ended(self) -> bool:
        """Whether the task was cancelled for its deadline only. The task calls this once, when it is cancelled."""
        if not self.is_over:
            return False
        # Python 3.10 cannot tell two cancellations from one.
        return not _COUNTS_CANCELLATIONS or self.task.uncancel() <= self.cancelled_before


class Deadlines:
    """Gives every wait the same number of seconds, and then cancels its task, as `asyncio.timeout` does."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._waits: dict[Wait, None] = {}  # in the order of their deadlines, since all last equally long
        self._timer: asyncio.TimerHandle | None = None
        self._readings = 0  # since the timer last fired on time

    def begin(self, now: float) -> Wait:
        """Begin a wait of the current task. Always pass it to `end`."""
        task = asyncio.current_task()
        assert task is not None
        wait = Wait(task, now + self._seconds, task.cancelling() if _COUNTS_CANCELLATIONS else 0)
        self._waits[wait] = None
        if self._timer is None:
            self._set_timer(self._seconds, now)
        return wait

    def end(self, wait: Wait) -> None:
        del self._waits[wait]

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self, seconds: float, now: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._on_timer, now + seconds)

    def _on_timer(self, due: float) -> None:
        self._timer, now = None, self._clock()
        if now - due > LATE and self._readings < MOST_READINGS:
            self._readings += 1
            self._set_timer(READING, now)
            return
        self._readings = 0
        for wait in self._waits:
            if wait.until > now:
                self._set_timer(wait.until - now, now)
                return
            if not wait.is_over:
                wait.is_over = True
                wait.task.cancel()
