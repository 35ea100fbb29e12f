"""Three ways of enforcing a rate limit: token bucket, fixed window, sliding window. Time is passed in as a number.

In all three, a request that costs more than a whole window is accepted if the window is unused, and the debt is paid
off before the next. Otherwise a limit of 60,000 tokens a minute enforced by the second could never serve a request of
2,000 tokens, which the real API does.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right, insort
from collections import deque

# Refills are sums of small floats, so a level may be minimally below a whole request.
SLACK = 1e-6


class Budget(ABC):
    """One limit, less `background`: what other clients use per second."""

    def __init__(
        self,
        limit: float,
        *,
        period: float = 60.0,
        window: float = 60.0,
        background: float = 0.0,
        start_level: float = 1.0,
        now: float = 0.0,
    ) -> None:
        self.now = now
        self.granted = 0.0  # the total refilled so far, used or not
        self._samples: list[tuple[float, float, float]] = []
        self._set(limit, period, window, background)
        self._start(start_level)

    @abstractmethod
    def level(self, now: float) -> float:
        """What may be spent now; negative while a debt is paid off."""

    @abstractmethod
    def take(self, amount: float, now: float) -> None:
        """Spend, even if there is not enough."""

    @abstractmethod
    def adjust(self, amount: float, now: float, *, taken_at: float) -> None:
        """Correct what was taken at `taken_at` by `amount`, which may be negative."""

    @abstractmethod
    def seconds_until(self, amount: float, now: float) -> float:
        """Seconds until `amount` may be spent if nothing else is spent meanwhile."""

    @abstractmethod
    def seconds_until_full(self, now: float) -> float:
        """Seconds until the budget is full if nothing is spent meanwhile."""

    def holds(self, amount: float, now: float) -> bool:
        return self.level(now) >= min(amount, max(1.0, self.max_level)) - SLACK

    def change(self, limit: float, *, window: float, background: float, now: float) -> None:
        """Set another limit; the level stays, cut to the new capacity."""
        self.level(now)
        self._set(limit, self.period, window, background)
        self._fit(now)
        self.record(now)

    def record(self, now: float) -> None:
        """Record the level for `allowed`: a sample each 0.1 s is precise enough, and the last is always exact."""
        sample = (now, self.level(now), self.granted)
        if len(self._samples) >= 2 and now - self._samples[-2][0] < 0.1:
            self._samples[-1] = sample
        else:
            self._samples.append(sample)

    def allowed(self, first: float, last: float) -> float:
        """What could have been spent from `first` to `last`: the level at `first` and the refill since.

        >>> bucket = Bucket(600, window=1.0)
        >>> bucket.record(0.0)
        >>> bucket.record(6.0)
        >>> bucket.allowed(0.0, 6.0)
        70.0
        """
        if not self._samples:
            return 0.0
        start = max(0, bisect_right(self._samples, (first, math.inf)) - 1)
        at, level, granted = self._samples[start]
        since = self._granted_at(first) - granted if first > at else 0.0
        return min(max(self.capacity, level), level + since) + self._granted_at(last) - self._granted_at(first)

    def _granted_at(self, moment: float) -> float:
        moment = max(moment, self._samples[0][0])
        after = bisect_right(self._samples, (moment, math.inf))
        if after == len(self._samples):
            return self._samples[-1][2]
        (left, _, low), (right, _, high) = self._samples[after - 1], self._samples[after]
        return low + (high - low) * (moment - left) / (right - left)

    def _set(self, limit: float, period: float, window: float, background: float) -> None:
        self.limit, self.period, self.window = limit, period, window
        self.rate = limit / period
        self.capacity = max(1.0, self.rate * window)
        self.background = background
        self.max_level = self._max_level()

    def _max_level(self) -> float:
        """The highest possible level: a window less the background use."""
        return max(0.0, self.capacity - self.background * self.window)

    @abstractmethod
    def _start(self, fraction: float) -> None: ...

    @abstractmethod
    def _fit(self, now: float) -> None:
        """Adapt the state to a new capacity."""


class Bucket(Budget):
    """A token bucket: refilled continuously, up to its capacity.

    >>> bucket = Bucket(60, window=10.0)
    >>> bucket.take(10, 0.0)
    >>> bucket.level(2.5)
    2.5
    >>> bucket.seconds_until(4, 2.5)
    1.5
    """

    _level: float

    def level(self, now: float) -> float:
        elapsed = now - self.now
        if elapsed > 0:
            self.now = now
            refilled = self.rate * elapsed
            drawn = min(self.background * elapsed, max(0.0, self._level + refilled))
            self.granted += refilled - drawn
            self._level = min(self.capacity, self._level + refilled - drawn)
        return self._level

    def take(self, amount: float, now: float) -> None:
        self._level = self.level(now) - amount

    def adjust(self, amount: float, now: float, *, taken_at: float) -> None:
        self._level = min(self.capacity, self.level(now) - amount)

    def seconds_until(self, amount: float, now: float) -> float:
        return max(0.0, (min(amount, self.capacity) - self.level(now)) / self.rate)

    def seconds_until_full(self, now: float) -> float:
        return self.seconds_until(self.capacity, now)

    def _max_level(self) -> float:
        # Other clients only take from the refill, so an unused bucket still becomes full.
        return self.capacity

    def _start(self, fraction: float) -> None:
        self._level = self.capacity * fraction

    def _fit(self, now: float) -> None:
        self._level = min(self._level, self.capacity)


class FixedWindow(Budget):
    """Reset at the start of each window; windows are aligned to the clock.

    >>> window = FixedWindow(60, window=10.0)
    >>> window.take(10, 9.0)
    >>> window.level(9.9), window.level(10.0)
    (0.0, 10.0)
    """

    _level: float

    def level(self, now: float) -> float:
        if now > self.now:
            begun = self._index(now) - self._index(self.now)
            self.granted += self.max_level * begun
            self._level = min(self.max_level, self._level + self.max_level * begun)
            self.now = now
        return self._level

    def take(self, amount: float, now: float) -> None:
        self._level = self.level(now) - amount

    def adjust(self, amount: float, now: float, *, taken_at: float) -> None:
        level = self.level(now)
        if self._index(taken_at) == self._index(now):
            self._level = min(self.max_level, level - amount)

    def seconds_until(self, amount: float, now: float) -> float:
        missing = min(amount, self.max_level) - self.level(now)
        if missing <= SLACK:
            return 0.0
        return (self._index(now) + math.ceil(missing / max(1.0, self.max_level) - SLACK)) * self.window - now

    def seconds_until_full(self, now: float) -> float:
        return self.seconds_until(self.max_level, now)

    def _index(self, moment: float) -> int:
        return math.floor(moment / self.window + SLACK)

    def _start(self, fraction: float) -> None:
        self._level = self.max_level * fraction
        self._level_limit = self.max_level

    def _fit(self, now: float) -> None:
        self.granted += self.max_level - self._level_limit
        self._level += self.max_level - self._level_limit
        self._level_limit = self.max_level


class SlidingWindow(Budget):
    """At most the limit in any span of one window: each unit comes back one window after it was spent.

    `allowed` is an upper bound here, since it assumes continuous refill.

    >>> window = SlidingWindow(60, window=10.0)
    >>> window.take(10, 9.0)
    >>> window.level(18.9), window.level(19.0)
    (0.0, 10.0)
    """

    def level(self, now: float) -> float:
        if now > self.now:
            self.granted += max(0.0, self.rate - self.background) * (now - self.now)
            self.now = now
        while self._spent and self._spent[0][0] <= now + SLACK:
            self._used -= self._spent.popleft()[1]
        return self.max_level - self._used

    def take(self, amount: float, now: float) -> None:
        self.level(now)
        self._spend(now + self.window * max(1.0, amount / max(1.0, self.max_level)), amount)

    def adjust(self, amount: float, now: float, *, taken_at: float) -> None:
        self.level(now)
        if (returns_at := taken_at + self.window) > now:
            self._spend(returns_at, amount)

    def seconds_until(self, amount: float, now: float) -> float:
        missing, wait = min(amount, self.max_level) - self.level(now), 0.0
        for returns_at, spent in self._spent:
            if missing <= SLACK:
                break
            missing, wait = missing - spent, returns_at - now
        return wait

    def seconds_until_full(self, now: float) -> float:
        self.level(now)
        return self._spent[-1][0] - now if self._spent else 0.0

    def _spend(self, returns_at: float, amount: float) -> None:
        self._used += amount
        if not self._spent or returns_at >= self._spent[-1][0]:
            self._spent.append((returns_at, amount))
        else:
            insort(self._spent, (returns_at, amount))

    def _start(self, fraction: float) -> None:
        self._spent: deque[tuple[float, float]] = deque()
        self._used = 0.0
        if fraction < 1:
            self._spend(self.now + self.window, self.max_level * (1 - fraction))

    def _fit(self, now: float) -> None:
        """Nothing to adapt: what was spent comes back at the moment already set."""


KINDS: dict[str, type[Budget]] = {"bucket": Bucket, "fixed": FixedWindow, "sliding": SlidingWindow}
