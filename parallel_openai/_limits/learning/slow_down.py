"""Halves the rate when the server says `slow_down`, and then raises it gradually, whatever the limits allow."""

from __future__ import annotations

INFINITY = float("inf")
#: The rate grows each second by STEP requests per second and by a share of itself, which increases with time.
STEP = 1.0
GROWTH = 0.005
GROWTH_CUBED = 2e-5
#: However often the server says it, one request is sent in this many seconds.
SLOWEST_SECONDS = 30.0
#: Seconds by which a late wake-up may be made up for.
CATCH_UP = 0.05


class SlowDown:
    """The rate at which requests may follow each other; infinite until the server says `slow_down`.

    It is separate from the limits: a server may object to how fast a bucket is emptied even if the bucket is full.

    >>> slow_down = SlowDown()
    >>> slow_down.slow_down(sent_at=4.98, now=5.0, recent=50.0)
    >>> 20 < slow_down.rate(5.0) < 30 < slow_down.rate(15.0)
    True
    """

    __slots__ = ("_base", "_cut_at", "_next_at", "was_asked_for")

    def __init__(self) -> None:
        self.was_asked_for = False  # until it is True, the caller need not call `sent` or `seconds_until`
        self._base = INFINITY
        self._cut_at = -INFINITY
        self._next_at = -INFINITY

    def rate(self, now: float) -> float:
        """Requests per second at the moment `now`."""
        since = max(0.0, now - self._cut_at)
        return self._base * (1.0 + GROWTH * since + GROWTH_CUBED * since**3) + STEP * since

    def seconds_until(self, now: float) -> float:
        """Seconds until the next request may be sent; 0 if it may be sent now."""
        return max(0.0, self._next_at - now)

    def sent(self, now: float) -> None:
        """Note that a request is sent."""
        self._next_at = max(self._next_at, now - CATCH_UP) + 1.0 / self.rate(now)

    def slow_down(self, *, sent_at: float, now: float, recent: float) -> None:
        """The server said `slow_down` to a request of the moment `sent_at`, at the `recent` rate of requests.

        The same for requests that were in flight together with it is ignored.
        """
        if sent_at <= self._cut_at:
            return
        self.was_asked_for = True
        self._base = max(min(self.rate(now), max(recent, 1.0)) / 2, 1.0 / SLOWEST_SECONDS)
        self._cut_at = now
        self._next_at = now + 1.0 / self._base
