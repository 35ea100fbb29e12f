"""Finds the rate that a server accepts but does not state: speeds up until it refuses, then measures what it took."""

from __future__ import annotations

INFINITY = float("inf")
#: Use this share of a measured rate, and raise it each second, faster the longer nothing is refused, as TCP's CUBIC
#: does (RFC 9438).
SHARE = 0.97
GROWTH = 0.005
GROWTH_CUBED = 2e-5
#: A limit below this many requests per second that was found to be the same twice, within the share SAME, is probed
#: more slowly, by the square root of how far it is below: otherwise about every tenth request would be refused.
PROBED_FULLY, SAME = 10.0, 0.1
#: The growth per second until a rate has been measured: it doubles.
SEARCH = 1.0
#: Measuring a rate takes two refusals at least this many seconds apart; otherwise the rate is cut to the share CUT.
MEASURE_SECONDS = 0.5
CUT = 0.7
#: However often the server refuses, one request is sent in this many seconds.
SLOWEST_SECONDS = 30.0


class RateSearch:
    """A rate learned from refusals, in capacity per second; infinite while nothing was refused.

    >>> pace = RateSearch(now=0.0)
    >>> pace.measure(at=10.0, sent=2000.0, rate=pace.rate, cost=1.0, held=0.0, now=10.0)  # half of the rate so far
    >>> pace.rate
    100.0
    >>> pace.measure(at=20.0, sent=3000.0, rate=pace.rate, cost=1.0, held=0.0, now=20.0)  # 1,000 were taken in 10 s
    >>> pace.rate
    97.0
    """

    __slots__ = (
        "_base",
        "_began",
        "_empty_at",
        "_empty_sent",
        "_haste",
        "_held",
        "_measured",
        "_set_at",
        "is_settled",
        "rate",
        "refused",
    )

    def __init__(self, now: float) -> None:
        self.rate = INFINITY
        self.refused = 0.0  # refused since the bucket was last found empty
        self._began = now
        self._base, self._set_at = INFINITY, now
        self._measured, self._haste = False, 1.0
        self.is_settled = False  # measured more than once; the first measurement is mixed with the search's own rate
        self._empty_at: float | None = None
        self._empty_sent = 0.0
        self._held = 0.0  # seconds of waiting since then

    def begin(self, now: float) -> None:
        """Start the clock with the first request."""
        self._began = now

    def grow(self, now: float) -> None:
        """Update the rate to the time `now`."""
        if self.rate == INFINITY:
            return
        since = max(0.0, now - self._set_at)
        if self._measured:
            since *= self._haste
            self.rate = self._base * (1.0 + GROWTH * since + GROWTH_CUBED * since**3)
        else:
            self.rate = self._base * (1.0 + SEARCH) ** min(since, 20.0)

    def measure(self, *, at: float, sent: float, rate: float, cost: float, held: float, now: float) -> None:
        """Learn that the bucket was empty for a request sent at `at`, of that cost, when `sent` had been sent in all.

        Between two such moments the server accepted exactly its refill, which gives the rate. But a small bucket
        overflows while the client is held, so half of the `held` seconds are left out. If the two are too close, the
        rate is cut, and the next refusal is measured from the first of them.
        """
        if self._empty_at is None:
            self.found_empty(at=at, sent=sent)
            self._set(sent / max(now - self._began, 1.0) / 2, cost, now)
            return
        self._held += held
        elapsed, taken = at - self._empty_at - self._held / 2, sent - self._empty_sent - self.refused
        if elapsed >= MEASURE_SECONDS and taken > 0:
            self.found_empty(at=at, sent=sent)
            measured = SHARE * taken / elapsed
            # The slow first seconds of the search would make the server look slow.
            self._set(measured if self._measured else max(measured, CUT * rate), cost, now)
            self.is_settled, self._measured = self._measured, True
        else:
            self._set(rate * CUT, cost, now)

    def found(self, rate: float, *, sent: float, cost: float, now: float) -> None:
        """Take over a rate that was found otherwise. The bucket is empty now, when `sent` has been sent in all."""
        self.found_empty(at=now, sent=sent)
        self._set(SHARE * rate, cost, now)
        self._measured = self.is_settled = True

    def at_least(self, rate: float) -> None:
        """Raise the rate to one that is certainly accepted."""
        self._base = self.rate = max(self.rate, SHARE * rate)

    def found_empty(self, *, at: float, sent: float) -> None:
        """Begin a measurement."""
        self._empty_at, self._empty_sent, self.refused, self._held = at, sent, 0.0, 0.0

    def pause(self, until: float) -> None:
        """Do not grow before the time `until`, since nothing is sent."""
        self._set_at = max(self._set_at, until)

    def look_again(self, now: float, least: float) -> None:
        """Search again, from the present rate or `least`, since what was measured was no limit."""
        self._measured = self.is_settled = False
        self._base, self._set_at = max(least, self.rate), now

    def slow_down(self, *, rate: float, sent: float, cost: float, now: float) -> None:
        """Halve the rate, and grow slowly from there."""
        recent = rate if rate != INFINITY else sent / max(now - self._began, 1.0)
        self._measured = True
        self._set(recent / 2, cost, now)

    def _set(self, rate: float, cost: float, now: float) -> None:
        before, self._base = self._base, max(rate, cost / SLOWEST_SECONDS)
        self.rate, self._set_at = self._base, now
        is_same = abs(self._base - before) <= SAME * self._base
        self._haste = min(1.0, (self.rate / cost / PROBED_FULLY) ** 0.5) if is_same else 1.0
