"""One dimension of a limit, as the server is thought to keep it."""

from __future__ import annotations

from dataclasses import dataclass

from parallel_openai.engine.headers import Allowance

#: What is assumed of a bucket that the server has not shown yet: it holds one second's worth.
UNSEEN_WINDOW = 1.0
#: How much of the difference between the server's figure and ours is taken over at each answer. Requests overtake each
#: other on their way, so a single figure is off by a few requests either way; the mean of several is not.
GAIN = 0.25


@dataclass(slots=True)
class Mark:
    """What a bucket was thought to hold just after a charge, so that the server's figure for it can be compared."""

    level: float
    shift: float
    at: float


class Bucket:
    """A bucket of capacity that refills at a steady rate; it may go into debt for a charge larger than itself.

    Args:
        limit: capacity per minute; None while it is unknown, and then nothing is held back.
        burst: seconds of the rate that the bucket holds when full; None: learned from the server.
        now: the clock's reading, in seconds.

    >>> bucket = Bucket(60, burst=2, now=0.0)
    >>> bucket.seconds_until(1, 0.0), bucket.charge(2, 0.0).level
    (0.0, 0.0)
    >>> bucket.seconds_until(1, 0.5)
    0.5
    """

    __slots__ = ("burst", "capacity", "held_until", "learned", "level", "limit", "rate", "shift", "updated")

    def __init__(self, limit: float | None, *, burst: float | None, now: float) -> None:
        self.burst = burst
        self.limit: float | None = None
        self.rate = 0.0
        self.capacity = float("inf")
        self.level = float("inf")
        self.shift = 0.0
        self.updated = now
        self.held_until = now
        self.learned = False  # whether the server has shown what it holds
        if limit is not None:
            self.set_limit(limit, now)

    def set_limit(self, limit: float, now: float, *, period: float = 60.0) -> None:
        """Take over a limit, given by hand or read from a header; what the bucket holds is kept within it."""
        first = self.limit is None
        self.refill(now)
        self.limit, self.rate = limit, limit / period
        window = self.burst if self.burst is not None else (period if self.learned else UNSEEN_WINDOW)
        self.capacity = max(1.0, self.rate * window)
        self.level = self.capacity if first else min(self.level, self.capacity)

    def refill(self, now: float) -> None:
        if now > self.updated:
            if self.rate:
                self.level = min(self.capacity, self.level + self.rate * (now - self.updated))
            self.updated = now

    def seconds_until(self, cost: float, now: float) -> float:
        """Seconds until a charge of that cost may be sent: 0 when it may be now."""
        self.refill(now)
        wait = self.held_until - now
        if self.rate:
            # A charge larger than the whole bucket is let through when the bucket is full, and leaves a debt.
            wait = max(wait, (min(cost, self.capacity) - self.level) / self.rate)
        return wait if wait > 1e-9 else 0.0

    def charge(self, cost: float, now: float) -> Mark:
        self.refill(now)
        self.level -= cost
        return Mark(self.level, self.shift, now)

    def give_back(self, amount: float) -> None:
        """Return what was reserved and not used; a negative amount takes more."""
        self.level = min(self.capacity, self.level + amount)

    def hold(self, until: float) -> None:
        """Send nothing of this dimension before a moment: the server said so."""
        self.held_until = max(self.held_until, until)

    def empty(self, now: float) -> None:
        """The server refused: whatever we thought, the bucket holds nothing now."""
        self.refill(now)
        if self.rate and self.level > 0:
            self.shift -= self.level
            self.level = 0.0

    def follow(self, shown: Allowance, mark: Mark, now: float) -> None:
        """Take over what the server showed on the answer to the charge that `mark` remembers."""
        if shown.limit != self.limit:
            self.set_limit(shown.limit, now)
        self.refill(now)
        if self.burst is None:
            self._learn_capacity(shown)
        was = mark.level + (self.shift - mark.shift)
        difference = shown.remaining - was
        step = difference if not self.learned else difference * GAIN
        self.learned = True
        step = min(step, self.capacity - self.level)
        self.level += step
        self.shift += step

    def _learn_capacity(self, shown: Allowance) -> None:
        if shown.reset is not None and shown.reset > 0:
            # What is missing comes back within `reset`, so the whole is what is left and what is missing.
            whole = shown.remaining + shown.reset * self.rate
            self.capacity = max(1.0, shown.remaining, min(whole, shown.limit), self.capacity if self.learned else 0.0)
        elif shown.remaining > self.capacity:
            self.capacity = shown.remaining
