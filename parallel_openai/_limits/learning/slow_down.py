"""Slowing down when the server says `slow_down`: half as fast, then faster step by step, whatever the limits allow."""

from __future__ import annotations

INFINITY = float("inf")
#: The rate grows by so many requests a second each second, and by a share of itself, more the longer all goes well.
STEP = 1.0
GROWTH = 0.005
GROWTH_CUBED = 2e-5
#: However often the server says it, one request in so many seconds goes out.
SLOWEST_SECONDS = 30.0
#: So much time that was slept away too long may be made up for.
CATCH_UP = 0.05


class SlowDown:
    """How fast requests may follow each other, in requests per second; infinite until the server says `slow_down`.

    A limit's bucket may be full, and the server still dislike how fast it is emptied; so this stands beside the limits.

    >>> slow_down = SlowDown()
    >>> slow_down.slow_down(sent_at=4.98, now=5.0, recent=50.0)
    >>> 20 < slow_down.rate(5.0) < 30 < slow_down.rate(15.0)
    True
    """

    __slots__ = ("_base", "_cut_at", "_next_at", "was_asked_for")

    def __init__(self) -> None:
        self.was_asked_for = False  # whether the server has ever said it; before that, there is nothing to tell this of
        self._base = INFINITY
        self._cut_at = -INFINITY
        self._next_at = -INFINITY

    def rate(self, now: float) -> float:
        """Requests per second at this moment."""
        since = max(0.0, now - self._cut_at)
        return self._base * (1.0 + GROWTH * since + GROWTH_CUBED * since**3) + STEP * since

    def seconds_until(self, now: float) -> float:
        """Seconds until the next request may be sent; 0 when it may be now."""
        return max(0.0, self._next_at - now)

    def sent(self, now: float) -> None:
        """A request goes out."""
        self._next_at = max(self._next_at, now - CATCH_UP) + 1.0 / self.rate(now)

    def slow_down(self, *, sent_at: float, now: float, recent: float) -> None:
        """The server said it to a request that went out at `sent_at`, while requests went out at the `recent` rate.

        Those that were on their way with it say nothing new.
        """
        if sent_at <= self._cut_at:
            return
        self.was_asked_for = True
        self._base = max(min(self.rate(now), max(recent, 1.0)) / 2, 1.0 / SLOWEST_SECONDS)
        self._cut_at = now
        self._next_at = now + 1.0 / self._base
