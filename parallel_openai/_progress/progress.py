"""Showing how a run stands while it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable

from parallel_openai._printable import printable_lines
from parallel_openai._progress.bars import NoScreen, Screen, find_screen
from parallel_openai._progress.counter_text import Counters, Limits
from parallel_openai._progress.status_tracker import StatusTracker


class Progress:
    """Shows a run's counters while it goes on, from the thread that waits for it.

    Args:
        status: the counters, read only.
        limits: what the rates are shown against.
        show: False shows nothing at all.
        unit: what is counted.

    Call `tick` a few times a second, and `close` with the closing line. Where the screen is gone (a closed pipe, say),
    the run goes on without it.
    """

    def __init__(
        self,
        status: StatusTracker,
        limits: Limits,
        *,
        show: bool,
        unit: str = "row",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._status = status
        self._counters = Counters(status, limits, unit, clock)
        self._screen: Screen = find_screen(status.num_tasks_total, unit) if show else NoScreen()

    def tick(self) -> None:
        self._try(lambda: self._screen.show(self._counters))

    def close(self, closing_line: str = "") -> None:
        self._counters.finish()
        self._try(lambda: self._screen.close(self._counters, printable_lines(closing_line)))
        self._screen = NoScreen()

    def _try(self, show: Callable[[], None]) -> None:
        try:
            show()
        except (OSError, ValueError, AttributeError):
            # A stream that is closed, or lacks what streams have. The answers are worth more than the bar.
            self._screen = NoScreen()
