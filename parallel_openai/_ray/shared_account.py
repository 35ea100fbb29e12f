"""The one limit of a model at an account, for all machines: who asks is told when to send, and a slot that is not used
passes.

For each dimension it keeps one number, the next moment that is free. A grant is a piece of time from there on, told as
seconds from now, so that the machines' clocks need not agree. Nothing is saved up and nothing is given back, so a
worker that dies takes nothing with it but the slots it held, and however late or idle the workers are, no second sees
more than the limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from parallel_openai._limits.learning.search import RateSearch
from parallel_openai._records import Dimension

DIMENSIONS: tuple[Dimension, Dimension] = ("requests", "tokens")
INFINITY = float("inf")
#: Requests and tokens per minute; None while unknown.
Limits = tuple[float | None, float | None]

#: So much of a limit is handed out: the rest is for what comes a little late and falls into the next second. While the
#: server shows so many seconds of it left, all of it is, and so many seconds that passed unused are made up for.
SHARE = 0.95
ROOM = 0.5
CATCH_UP = 0.2
#: Seconds of a worker's part of the limit in one grant.
BLOCK = 0.2
#: A worker that has not asked for so many seconds has no part.
GONE_AFTER = 2.0
#: Before the server has told anything: requests in flight, and so many more for each second that passes.
FIRST_WINDOW = 4.0
WINDOW_GROWTH = 4.0
#: Requests in one grant where there is no limit.
UNLIMITED = 500
#: Tokens that answers took less than was set aside are handed out again while the server shows so much left.
PLENTY = 0.5
#: Seconds to hold back after a refusal that does not say for how long.
HOLD = 0.5
#: Refused again within so many seconds at a known limit: go at this share of the rate, and grow slowly from there.
OFTEN = 10.0
EASE = 0.85


@dataclass(frozen=True, slots=True)
class KnownLimit:
    """A limit as a worker knows it: `limit` in each `period` seconds, and which share of it the server showed left."""

    limit: float
    period: float
    left: float | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A 429 of something that was sent `ago` seconds ago. `dimension` is None for a `slow_down`."""

    dimension: Dimension | None
    ago: float
    wait: float | None


@dataclass(slots=True)
class Report:
    """What a worker has learned since its last one."""

    answered: int = 0  # sends that came to an end
    unused: int = 0  # granted slots that passed without a send
    # Tokens that answers took beyond what was charged for them, and less than it.
    over: float = 0.0
    under: float = 0.0
    shown: dict[Dimension, KnownLimit] = field(default_factory=dict)  # the limits that the worker knows
    refusals: list[Refusal] = field(default_factory=list)  # what the server refused


@dataclass(frozen=True, slots=True)
class Grant:
    """The right to send so many requests, evenly over `duration` seconds, beginning in `start` seconds.

    With no requests in it: the moment to ask again, and what the wait is for. `expires` is False where nothing limits
    the rate, so that a slot may be used at any time.
    """

    requests: int
    start: float
    duration: float = 0.0
    cause: str = "requests"
    expires: bool = True


class Given:
    """What the caller gave for all models of an account together: for each dimension the next moment that is free."""

    def __init__(self, max_requests_per_minute: float | None, max_tokens_per_minute: float | None, now: float) -> None:
        limits = {"requests": max_requests_per_minute, "tokens": max_tokens_per_minute}
        self.rates = {name: INFINITY if limits[name] is None else (limits[name] or 0.0) / 60 for name in DIMENSIONS}
        self.free_at: dict[Dimension, float] = dict.fromkeys(DIMENSIONS, now)

    def take(self, name: Dimension, amount: float, since: float, share: float) -> None:
        """Give so much away of what is free since a moment."""
        self.free_at[name] = max(since, self.free_at[name]) + amount / (share * self.rates[name])


class Account:
    """The books of one model at an account.

    >>> account = Account(max_requests_per_minute=600, clock=lambda: 100.0)  # 10 a second, 9.5 are handed out
    >>> one = account.lease("one", requests=9)
    >>> other = account.lease("other", requests=9)
    >>> (one.requests, one.start), (other.requests, round(other.start, 3))
    ((1, 0.0), (1, 0.105))
    """

    def __init__(
        self,
        # The limits; None: learned from what the workers see.
        max_requests_per_minute: float | None = None,
        max_tokens_per_minute: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,  # gives seconds, never going back
        given: Given | None = None,  # what holds for all models together; None: there is only this one
    ) -> None:
        self.clock = clock
        now = clock()
        self._given = given or Given(max_requests_per_minute, max_tokens_per_minute, now)
        self._rates = dict(self._given.rates)
        self._free_at: dict[Dimension, float] = dict.fromkeys(DIMENSIONS, now)
        self._pace: dict[Dimension, RateSearch] = {name: RateSearch(now) for name in DIMENSIONS}
        self._cost: dict[Dimension, float] = dict.fromkeys(DIMENSIONS, 1.0)  # of one request
        self._sent: dict[Dimension, float] = dict.fromkeys(DIMENSIONS, 0.0)
        self._blamed_at: dict[Dimension, float] = dict.fromkeys(DIMENSIONS, -INFINITY)
        self._held_until = now
        self._seen: dict[str, float] = {}
        self._began: float | None = None
        self._in_flight = 0
        self._window = FIRST_WINDOW
        self._left: dict[Dimension, float] = dict.fromkeys(DIMENSIONS, 0.0)  # seconds of the limit
        self._plenty_of_tokens = False

    def lease(self, worker: str, requests: int, tokens: float = 0.0, report: Report | None = None) -> Grant:
        """A grant for some of so many requests, which are charged so many tokens together."""
        now = self.clock()
        self._seen[worker] = now
        if tokens:  # else what was set aside before is enough for them
            self._cost["tokens"] = tokens / requests
        self.take_in(report or Report())
        if now < self._held_until:
            return Grant(0, self._held_until - now, cause="refused")
        rates = {name: self._rate(name, now) for name in DIMENSIONS}
        if min(rates.values()) == INFINITY:
            return self._grant_unlimited(requests, now)
        workers = sum(seen > now - GONE_AFTER for seen in self._seen.values())
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
        """Learn from what a worker has seen."""
        now = self.clock()
        self._in_flight = max(0, self._in_flight - report.answered - report.unused)
        self._window += report.answered
        for name in DIMENSIONS:
            self._sent[name] -= report.unused * self._cost[name]
        for name, shown in report.shown.items():
            self._show(name, shown)
        for refusal in report.refusals:
            self._refuse(refusal, now)
        unneeded = {
            "requests": report.unused if self._has_room("requests") else 0.0,
            "tokens": (report.under if self._plenty_of_tokens else 0.0) - report.over,
        }
        for name in DIMENSIONS:
            if (rate := self._rate(name, now)) != INFINITY:
                self._take(name, -unneeded[name], now - CATCH_UP if self._has_room(name) else now, rate)

    @property
    def limits(self) -> Limits:
        """Requests and tokens per minute, as far as they are known."""
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
        """As many as were answered, and some more, until something shows or refuses."""
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
        """Nobody sends for as long as the server says; the rate falls where the refusal says something of it."""
        wait = HOLD if refusal.wait is None else refusal.wait
        self._held_until = max(self._held_until, now + wait)
        self._left, self._plenty_of_tokens = dict.fromkeys(DIMENSIONS, 0.0), False
        name = refusal.dimension or "requests"
        pace, cost, at = self._pace[name], self._cost[name], now - refusal.ago
        rate = self._rate(name, now)
        pace.pause(now + wait)
        if refusal.dimension is None:
            if at > self._blamed_at[name]:  # many that were on their way together say it once
                self._blamed_at[name] = now
                pace.slow_down(rate=rate, sent=self._sent[name], cost=cost, now=now)
            return
        pace.refused += cost
        if at <= self._blamed_at[name]:
            return  # sent before the refusal that has been dealt with
        often, self._blamed_at[name] = now - self._blamed_at[name] < OFTEN, now
        if self._rates[name] == INFINITY:
            pace.measure(at=at, sent=self._sent[name], rate=rate, cost=cost, held=wait, now=now)
        elif often:  # others draw from the account too, or the server counts otherwise than we do
            pace.slow_down(rate=2 * EASE * rate, sent=self._sent[name], cost=cost, now=now)
