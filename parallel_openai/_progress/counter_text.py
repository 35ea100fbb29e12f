"""Format a run's counters for the progress bar."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from parallel_openai._printable import printable
from parallel_openai._progress.number_format import clock_time, dollars, short
from parallel_openai._progress.status_tracker import StatusTracker

#: Seconds over which rates are averaged, and the least age of a run for showing them.
RATE_OVER = 15.0
RATE_AFTER = 2.0


class Limits(Protocol):
    """The account's current limits per minute; None while unknown."""

    @property
    def max_requests_per_minute(self) -> float | None: ...
    @property
    def max_tokens_per_minute(self) -> float | None: ...


class Part(NamedTuple):
    """A part of the counters' line; those with the highest rank are dropped first if the line is too long."""

    text: str
    rank: int


class Counters:
    def __init__(self, status: StatusTracker, limits: Limits, unit: str, clock: Callable[[], float]) -> None:
        self._status, self._limits, self._unit, self._clock = status, limits, unit, clock
        self._began = clock()
        self._ended: float | None = None
        # Time, requests sent, tokens used, requests answered by the server.
        self._history: deque[tuple[float, int, int, int]] = deque([(self._began, 0, 0, 0)])

    @property
    def done(self) -> int:
        return self._status.num_tasks_done + self._status.num_tasks_shared

    @property
    def total(self) -> int | None:
        return self._status.num_tasks_total

    @property
    def any_failed(self) -> bool:
        return self._status.num_tasks_failed > 0

    @property
    def percent(self) -> int:
        """Rounded down, so that 100 means that nothing is left."""
        return 100 * self.done // self.total if self.total else 100

    @property
    def elapsed(self) -> float:
        return (self._ended or self._clock()) - self._began

    @property
    def stopping(self) -> str:
        """What a stopping run waits for; empty while it sends requests."""
        if not self._status.stopping:
            return ""
        count = self._status.num_tasks_in_progress
        return f"stopping: {count:,} answer{'' if count == 1 else 's'} on their way, {self._status.stopping}"

    def finish(self) -> None:
        """Stop the clock and show totals from now on."""
        self._ended = self._clock()

    def line(self, room: int | None = None) -> str:
        """The counters, as many as fit into `room` characters; None for all.

        Rates are per minute, over the last seconds, followed by the limit if it is known.
        """
        return printable(", ".join(fit(self._parts(), room)))

    def _parts(self) -> list[Part]:
        status, over = self._status, self._ended is not None
        parts = [Part(f"{self._count()} [{self._times()}]", 0)]
        if self.stopping:
            parts.append(Part(self.stopping, 0))
        if status.note and not over:
            parts.append(Part(status.note, 1))
        if self.any_failed:
            parts.append(Part(f"{status.num_tasks_failed:,} failed", 1))
        if status.num_tasks_judged:
            parts.append(Part(f"{status.num_tasks_right / status.num_tasks_judged:.0%} right", 1))
        if status.num_retries:
            parts.append(Part(f"{status.num_retries:,} retried", 6))
        if status.num_tasks_in_progress and not over and not self.stopping:
            parts.append(Part(f"{status.num_tasks_in_progress:,} in flight", 4))
        requests, tokens, _ = self._rates() if self.elapsed >= RATE_AFTER else (0, 0, 0)
        # Omitted if 0: while a run waits for its last answers nothing is sent, and a zero would look like a fault.
        if requests:
            parts.append(Part(f"{short(requests)}{_of(self._limits.max_requests_per_minute)} req/min", 3))
        if tokens:
            parts.append(Part(f"{short(tokens)}{_of(self._limits.max_tokens_per_minute)} tok/min", 5))
        if status.cost_usd:
            parts.append(Part(dollars(status.cost_usd), 2))
        if status.num_tasks_restored:
            parts.append(Part(f"{status.num_tasks_restored:,} from the journal", 7))
        return parts

    def _count(self) -> str:
        return f"{self.done:,} {self._unit}s" if self.total is None else f"{self.done:,}/{self.total:,}"

    def _times(self) -> str:
        """Elapsed and remaining time, as tqdm writes them."""
        elapsed = clock_time(self.elapsed)
        if self._ended is not None or self.total is None:
            return elapsed
        left = self._left()
        return f"{elapsed}<{'?' if left is None else clock_time(left)}"

    def _left(self) -> float | None:
        """Remaining seconds at the recent rate, capped by the limit because a run may begin with a burst.

        None while it is unknown how many rows the journal answers, which takes almost no time.
        """
        assert self.total is not None
        if self._status.num_tasks_to_restore:
            return None
        left = self.total - self.done
        answered_per_minute = self._rates()[2]
        if self.elapsed < RATE_AFTER or not answered_per_minute:
            return None
        return 60 * left / min(answered_per_minute, self._limits.max_requests_per_minute or answered_per_minute)

    def _rates(self) -> tuple[float, float, float]:
        """Requests sent, tokens used and requests finished per minute: recently, or in all once the run has ended."""
        now, status, history = self._ended or self._clock(), self._status, self._history
        answered = status.num_tasks_done - status.num_tasks_restored
        latest = (now, status.num_requests_sent, status.prompt_tokens + status.completion_tokens, answered)
        if history[-1][0] < now:
            history.append(latest)
        while len(history) > 2 and history[1][0] <= now - RATE_OVER:
            history.popleft()
        start = (self._began, 0, 0, 0) if self._ended is not None else history[0]
        minutes = max(now - start[0], 1e-9) / 60
        return (latest[1] - start[1]) / minutes, (latest[2] - start[2]) / minutes, (latest[3] - start[3]) / minutes


def _of(limit: float | None) -> str:
    return f"/{short(limit)}" if limit is not None else ""


def fit(parts: Sequence[Part], room: int | None) -> list[str]:
    """The parts that fit into `room` characters, chosen by lowest rank, in the order given; all if `room` is None.

    >>> fit([Part("45/99", 0), Part("3 retried", 2), Part("1 failed", 1)], 16)
    ['45/99', '1 failed']
    """
    chosen: set[int] = set()
    used = -len(", ")
    for index in sorted(range(len(parts)), key=lambda index: parts[index].rank):
        needs = len(", ") + len(parts[index].text)
        if not chosen or room is None or used + needs <= room:
            chosen.add(index)
            used += needs
    return [parts[index].text for index in sorted(chosen)]
