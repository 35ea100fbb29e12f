"""`Progress`: show a run's counters while it is running."""

from __future__ import annotations

import time
from collections.abc import Callable

from parallel_openai._printable import printable_lines
from parallel_openai._progress.bars import Bar, NoBar, find_bar
from parallel_openai._progress.counter_text import Counters, Limits
from parallel_openai._progress.status_tracker import StatusTracker


class Progress:
    """Shows a run's counters, from the thread that waits for the run.

    Call `tick` a few times a second, and `close` with the closing line. If the output fails (such as a closed pipe),
    the run continues without it.
    """

    def __init__(
        self,
        status: StatusTracker,  # the counters, which are only read
        limits: Limits,  # the limits to show the rates against
        *,
        show: bool,  # False shows nothing
        unit: str = "row",  # what is counted
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._status = status
        self._counters = Counters(status, limits, unit, clock)
        self._bar: Bar = find_bar(status.num_tasks_total, unit) if show else NoBar()

    def tick(self) -> None:
        self._try(lambda: self._bar.show(self._counters))

    def close(self, closing_line: str = "") -> None:
        self._counters.finish()
        self._try(lambda: self._bar.close(self._counters, printable_lines(closing_line)))
        self._bar = NoBar()

    def _try(self, show: Callable[[], None]) -> None:
        try:
            show()
        except (OSError, ValueError, AttributeError):
            # The stream is closed, or a replacement without a stream's methods; the answers matter more than the bar.
            self._bar = NoBar()
