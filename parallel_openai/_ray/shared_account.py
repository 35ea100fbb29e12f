"""Divides an account's rate limit for a model among the workers of all machines, by granting them slots to send in.

For each dimension (requests and tokens) it keeps one number: the next moment that is free. A grant is a stretch of time
from there on, stated in seconds from now, so that the machines' clocks need not agree. An unused slot expires: nothing
is saved up or given back. So a worker that dies takes only its own slots with it, and no second sees more than the
limit, however late or idle the workers are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from parallel_openai._limits.learning.search import RateSearch
from parallel_openai._limits.learning.window import hold_after
from parallel_openai._records import Dimension

DIMENSIONS: tuple[Dimension, Dimension] = ("requests", "tokens")
INFINITY = float("inf")
#: Requests and tokens per minute; None while unknown.
Limits = tuple[float | None, float | None]

#: The share of a limit that is granted. The rest allows for requests that are a little late and fall into the next
#: second. While the server shows more than ROOM seconds of the limit left, all of it is granted, and up to CATCH_UP
#: seconds that passed unused are made up for.
SHARE = 0.95
ROOM = 0.5
CATCH_UP = 0.2
#: A grant holds this many seconds of a worker's part of the limit.
BLOCK = 0.2
#: A worker that has requested nothing for this many seconds gets no part.
GONE_AFTER = 2.0
#: While the limits are unknown: the requests allowed in flight, and how many are added each second.
FIRST_WINDOW = 4.0
WINDOW_GROWTH = 4.0
#: The most requests in one grant while there is no limit.
UNLIMITED = 500
#: Tokens reserved but not used by answers are granted again while the server shows more than this share left.
PLENTY = 0.5
#: If a known limit refuses twice within OFTEN seconds, go on at the share EASE of the rate, and grow slowly from there.
OFTEN = 10.0
EASE = 0.85


@dataclass(frozen=True, slots=True)
class KnownLimit:
    """A limit as a worker knows it: `limit` per `period` seconds, and the share of it that the server showed left."""

    limit: float
    period: float
    left: float | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A 429 for a request sent `ago` seconds ago. `dimension` is None for a `slow_down`."""

    dimension: Dimension | None
    ago: float
    wait: float | None


@dataclass(slots=True)
class Report:
    """What a worker has learned since its last report."""

    answered: int = 0  # sends that have ended, with or without an answer
    unused: int = 0  # granted slots that expired
    # Tokens that answers used above and below what was charged for them.
    over: float = 0.0
    under: float = 0.0
    shown: dict[Dimension, KnownLimit] = field(default_factory=dict)  # the limits that the worker knows
    refusals: list[Refusal] = field(default_factory=list)
    was_full: bool = False  # whether it has become certain that the server refused for want of slots


@dataclass(frozen=True, slots=True)
class Grant:
    """The right to send a number of requests, evenly over `duration` seconds, beginning in `start` seconds.

    If `requests` is 0, ask again in `start` seconds; `cause` says what the wait is for. If nothing limits the rate,
    `expires` is False: the slots may be used at any time.
    """

    requests: int
    start: float
    duration: float = 0.0
    cause: str = "requests"
    expires: bool = True


class Given:
    """The limits that the caller set for all models of an account together, with each dimension's next free moment."""

    def __init__(self, max_requests_per_minute: float | None, max_tokens_per_minute: float | None, now: float) -> None:
        limits = {"requests": max_requests_per_minute, "tokens": max_tokens_per_minute}
        self.rates = {name: INFINITY if limits[name] is None else (limits[name] or 0.0) / 60 for name in DIMENSIONS}
        self.free_at: dict[Dimension, float] = dict.fromkeys(DIMENSIONS, now)

    def take(self, name: Dimension, amount: float, since: float, share: float) -> None:
        """Use up an amount of a dimension, from the moment `since` at the earliest, at a share of its rate."""
        self.free_at[name] = max(since, self.free_at[name]) + amount / (share * self.rates[name])


class Account:
    """Grants slots for one model at an account.

    >>> account = Account(max_requests_per_minute=600, clock=lambda: 100.0)  # 10 a second, of which 9.5 are granted
    >>> one = account.lease("one", requests=9)
    >>> other = account.lease("other", requests=9)
    >>> (one.requests, one.start), (other.requests, round(other.start, 3))
    ((1, 0.0), (1, 0.105))
    """

    def __init__(
        self,
        # None: learned from what the workers report.
        max_requests_per_minute: float | None = None,
        max_tokens_per_minute: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        given: Given | None = None,  # the limits of all models together; None if there is only this model
    ) -> None:
        self.clock = clock
        now = clock()
        self._given = given or Given(max_requests_per_minute, max_tokens_per_minute, now)
        self._rates = dict(self._given.rates)
        self._free_at: dict[Dimension, float] = dict.fromkeys(DIMENSIONS, now)
        self._pace: dict[Dimension, RateSearch] = {name: RateSearch(now) for name in DIMENSIONS}
        self._cost: dict[Dimension, float] = dict.fromkeys(DIMENSIONS, 1.0)  # of one request
        self._sent: dict[Dimension, float] = dict.fromkeys(DIMENSIONS, 0.0)
        self._acted_at: dict[Dimension, float] = dict.fromkeys(DIMENSIONS, -INFINITY)
        self._held_until = now
        self._refusals_in_a_row = 0
        self._last_seen: dict[str, float] = {}
        self._began: float | None = None
        self._in_flight = 0
        self._window = FIRST_WINDOW
        self._left: dict[Dimension, float] = dict.fromkeys(DIMENSIONS, 0.0)  # in seconds of the limit
        self._plenty_of_tokens = False

    def lease(self, worker: str, requests: int, tokens: float = 0.0, report: Report | None = None) -> Grant:
        """Grant slots for some of the requests that a worker wants to send. `tokens` is the charge for all of them."""
        now = self.clock()
        self._last_seen[worker] = now
        if tokens:  # else what was set aside before is enough for them
            self._cost["tokens"] = tokens / requests
        self.take_in(report or Report())
        if now < self._held_until:
            return Grant(0, self._held_until - now, cause="refused")
        rates = {name: self._rate(name, now) for name in DIMENSIONS}
        if min(rates.values()) == INFINITY:
            return self._grant_unlimited(requests, now)
        workers = sum(seen > now - GONE_AFTER for seen in self._last_seen.values())
        each = {"requests": 1.0, "tokens": tokens / requests}
        block = min(BLOCK / workers * rates[name] / each[name] if each[name] else INFINITY for name in DIMENSIONS)
        count = max(1, int(min(requests, block)))
        start = max(now, *self._free_at.values(), *self._given.free_at.values())
        cause = max(DIMENSIONS, key=self._free_at.__getitem__)
        for name in DIMENSIONS:
            self._sent[name] += count * each[name]
            self._take(name, count * each[name], now - CATCH_UP if self._has_room(name) else start, rates[name])
        self._in_flight += count
        return Grant(count, start - now, max(0.0, max(self._free_at.values()) - start), cause)

    def _take(self, name: Dimension, amount: float, since: float, rate: float) -> None:
        self._free_at[name] = max(since, self._free_at[name]) + amount / rate
        self._given.take(name, amount, since, self._share(name))

    def take_in(self, report: Report) -> None:
        """Learn from a worker's report."""
        now = self.clock()
        self._in_flight = max(0, self._in_flight - report.answered - report.unused)
        self._window += report.answered
        for name in DIMENSIONS:
            self._sent[name] -= report.unused * self._cost[name]
        for name, shown in report.shown.items():
            self._show(name, shown)
        if report.answered > len(report.refusals):
            self._refusals_in_a_row = 0
        for refusal in report.refusals:
            self._refuse(refusal, now)
        if report.was_full:
            self._pace = {name: RateSearch(now) for name in DIMENSIONS}
            self._held_until, self._refusals_in_a_row = now, 0
            self._began, self._window = now, max(FIRST_WINDOW, self._in_flight)  # the others do not know the slots yet
        unneeded = {
            "requests": report.unused if self._has_room("requests") else 0.0,
            "tokens": (report.under if self._plenty_of_tokens else 0.0) - report.over,
        }
        for name in DIMENSIONS:
            if (rate := self._rate(name, now)) != INFINITY:
                self._take(name, -unneeded[name], now - CATCH_UP if self._has_room(name) else now, rate)

    @property
    def limits(self) -> Limits:
        """Requests and tokens per minute, None if unknown."""
        known = [None if rate == INFINITY else rate * 60 for rate in self._rates.values()]
        return known[0], known[1]

    def _rate(self, name: Dimension, now: float) -> float:
        pace = self._pace[name]
        pace.grow(now)
        return min(self._share(name) * self._rates[name], pace.rate)

    def _share(self, name: Dimension) -> float:
        return 1.0 if self._has_room(name) else SHARE

    def _has_room(self, name: Dimension) -> bool:
        return self._left[name] > ROOM

    def _grant_unlimited(self, requests: int, now: float) -> Grant:
        """Grant as many as were answered and some more, until a limit is shown or a request refused."""
        if self._began is None:
            self._began = now
            for pace in self._pace.values():
                pace.begin(now)
        room = self._window + WINDOW_GROWTH * (now - self._began) - self._in_flight
        if room < 1:
            return Grant(0, min(0.05, (1 - room) / WINDOW_GROWTH), cause="learning")
        count = min(requests, UNLIMITED, int(room))
        self._in_flight += count
        for name in DIMENSIONS:
            self._sent[name] += count * self._cost[name]
        return Grant(count, 0.0, cause="learning", expires=False)

    def _show(self, name: Dimension, shown: KnownLimit) -> None:
        self._rates[name] = min(shown.limit / shown.period, self._given.rates[name])
        if shown.left is not None:
            self._left[name] = shown.left * shown.period
            if name == "tokens":
                self._plenty_of_tokens = shown.left > PLENTY

    def _refuse(self, refusal: Refusal, now: float) -> None:
        """Pause all workers for as long as the server says, and lower the rate if the refusal is evidence about it."""
        self._refusals_in_a_row += 1
        wait = hold_after(self._refusals_in_a_row) if refusal.wait is None else refusal.wait
        self._held_until = max(self._held_until, now + wait)
        self._left, self._plenty_of_tokens = dict.fromkeys(DIMENSIONS, 0.0), False
        name = refusal.dimension or "requests"
        pace, cost, at = self._pace[name], self._cost[name], now - refusal.ago
        rate = self._rate(name, now)
        pace.pause(now + wait)
        if refusal.dimension is None:
            if at > self._acted_at[name]:  # requests in flight together count once
                self._acted_at[name] = now
                pace.slow_down(rate=rate, sent=self._sent[name], cost=cost, now=now)
            return
        pace.refused += cost
        if at <= self._acted_at[name]:
            return  # sent before the last refusal that was acted on
        is_frequent, self._acted_at[name] = now - self._acted_at[name] < OFTEN, now
        if self._rates[name] == INFINITY:
            pace.measure(at=at, sent=self._sent[name], rate=rate, cost=cost, held=wait, now=now)
        elif is_frequent:  # others use the account too, or the server counts differently
            pace.slow_down(rate=2 * EASE * rate, sent=self._sent[name], cost=cost, now=now)
