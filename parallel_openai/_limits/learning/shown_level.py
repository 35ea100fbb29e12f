"""Estimates the level of the server's bucket, and what others use of it, from what the server shows on its answers."""

from __future__ import annotations

from parallel_openai._limits.learning.bucket_state import BucketState

#: Requests that are sent together may overtake each other, so what is shown for one may be off by the cost of all: a
#: standard deviation of 0.3 of their total, as for a uniform distribution.
OVERTAKEN = 0.3
#: How far other users move the level: a standard deviation after one second, in seconds of the rate.
WANDER = 0.05
#: Seconds between two estimates of how much others use.
DRIFT_SECONDS = 1.0

INFINITY = float("inf")


class ShownLevel:
    """A Kalman filter for how far the server's bucket is from our own ledger, and how fast that changes.

    Attributes:
        shift: added to the ledger, it gives the level.
        variance: of the shift; infinite while nothing usable was shown.
        drift: what others use, per second.
        at: when the server showed something last.
        drift_due: when the drift is to be estimated again.
    """

    __slots__ = ("_drift_at", "_drift_shift", "at", "drift", "drift_due", "shift", "variance")

    def __init__(self, now: float) -> None:
        self.shift = self.variance = INFINITY
        self.drift, self.at = 0.0, now
        self._drift_at, self._drift_shift, self.drift_due = INFINITY, 0.0, -INFINITY

    def follow(self, offset: float, mark: BucketState, rate: float, now: float, *, least: float) -> None:
        """Move the shift towards `offset`, as shown for the send `mark`: the less, the more was sent together with it.

        The first time it moves all the way, but not below `least`.
        """
        spread = OVERTAKEN * mark.bunch.total + 0.5 * mark.cost
        self.variance += (WANDER * rate) ** 2 * max(0.0, now - self.at)
        if self.variance == INFINITY:
            self.shift = max(offset, least)
            self.variance = spread**2
        else:
            gain = self.variance / (self.variance + spread**2)
            self.shift += gain * (offset - self.shift)
            self.variance *= 1.0 - gain
        self.at = now

    def learn_drift(self, rate: float, now: float, *, is_nearly_full: bool) -> None:
        """Estimate what others use of the same bucket, from how steadily the shift falls."""
        if self._drift_at != INFINITY and is_nearly_full:
            self.drift *= 0.5
        elif self._drift_at != INFINITY:
            fall = (self._drift_shift - self.shift) / (now - self._drift_at)
            self.drift = min(max(0.0, self.drift + 0.5 * fall), 0.95 * rate)
            if self.drift < 0.005 * rate:
                self.drift = 0.0
        self._drift_at, self._drift_shift, self.drift_due = now, self.shift, now + DRIFT_SECONDS
