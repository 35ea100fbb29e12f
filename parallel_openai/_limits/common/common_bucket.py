"""Tells whether several models share one bucket: which buckets explain best what was accepted and what was refused?"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from heapq import merge

INFINITY = float("inf")
#: This many sends of each model are remembered.
REMEMBERED = 300
#: Of several refusals in a row within this many seconds only the first is remembered, as the others say the same.
SAME_SECONDS = 0.1
#: The rates that are tried, as multiples of what was accepted, and the windows, in seconds of the rate.
RATES = (0.85, 0.92, 0.97, 1.0, 1.03, 1.08, 1.15, 1.3, 1.6, 2.2)
WINDOWS = (1.0, 10.0)
#: The part of the sends whose outcome no bucket explains.
CHANCE = 0.02
#: How exactly the level is known: in requests, and in seconds of the rate, as requests overtake each other.
BLUR, BLUR_SECONDS = 0.05, 0.005
#: How surely a request is accepted that just fits: a logit.
SURE = 1.5
#: A refusal that is left to chance costs 3.9 of the log-likelihood. In a good explanation it costs less than this.
EXPLAINED = 2.0


@dataclass(slots=True)
class Send:
    """A send, and what it was charged."""

    at: float
    cost: float
    was_refused: bool = False


class SendLog:
    """The latest sends of one model, in one dimension.

    >>> log = SendLog()
    >>> log.sent(1.0, 5.0); log.sent(1.0, 6.0); log.refused(6.0)
    >>> log.between(5.5, 9.0), log.has_refusals
    ([Send(at=6.0, cost=1.0, was_refused=True)], True)
    """

    __slots__ = ("_sends",)

    def __init__(self) -> None:
        self._sends: deque[Send] = deque(maxlen=REMEMBERED)

    def sent(self, cost: float, now: float) -> None:
        """Note a send, which counts as accepted until it is refused."""
        self._sends.append(Send(now, cost))

    def refused(self, at: float) -> None:
        """Note that a send at the time `at` was refused."""
        sends = self._sends
        for index in range(len(sends) - 1, -1, -1):
            if sends[index].at == at and not sends[index].was_refused:
                sends[index].was_refused = True
                if index and sends[index - 1].was_refused and at < sends[index - 1].at + SAME_SECONDS:
                    del sends[index]
                return

    @property
    def has_refusals(self) -> bool:
        return any(send.was_refused for send in self._sends)

    @property
    def begin(self) -> float:
        """The time from which on every send is remembered."""
        return self._sends[0].at if len(self._sends) == REMEMBERED else -INFINITY

    def between(self, begin: float, end: float) -> list[Send]:
        """The sends from `begin` to `end`."""
        return [send for send in self._sends if begin <= send.at <= end]


@dataclass(frozen=True, slots=True)
class Fit:
    """How well a bucket explains the outcomes of some sends."""

    rate: float = 0.0  # the bucket's, per second
    cost: float = 1.0  # of a send, on average
    likelihood: float = 0.0  # of the outcomes; its logarithm
    refused: int = 0  # how many of the sends were refused

    @property
    def is_good(self) -> bool:
        """Whether the bucket explains the refusals, and is not only better than another one."""
        return self.likelihood > -EXPLAINED * self.refused


def fit(logs: Collection[SendLog], begin: float, end: float) -> Fit:
    """The one bucket that best explains the outcomes of the sends in all these logs, from `begin` to `end`.

    Two models send four times a second each, half a beat apart, and every second request of both is refused. There is
    one bucket that refills four times a second, and not a slower one for each.

    >>> logs = SendLog(), SendLog()
    >>> for number in range(80):
    ...     log, at = logs[number // 2 % 2], number / 8
    ...     log.sent(1.0, at)
    ...     if number % 2 == 0:
    ...         log.refused(at)
    >>> found = fit(logs, 0.0, 10.0)
    >>> round(found.rate), found.is_good
    (4, True)
    """
    sends = list(merge(*(log.between(begin, end) for log in logs), key=lambda send: send.at))
    first = next((index for index, send in enumerate(sends) if send.was_refused), len(sends))
    sends = sends[first:]  # nothing is known of the level before
    if len(sends) < 2:
        return Fit()
    accepted = sum(send.cost for send in sends if not send.was_refused)
    usual = max(accepted, sends[0].cost) / max(SAME_SECONDS, sends[-1].at - sends[0].at)
    fits = (_fit(sends, times * usual, window) for times in RATES for window in WINDOWS)
    return max(fits, key=lambda each: each.likelihood)


def _fit(sends: Sequence[Send], rate: float, window: float) -> Fit:
    """How well a bucket of that rate and window explains the outcomes of these sends; it is empty at the first."""
    cost = sum(send.cost for send in sends) / len(sends)
    capacity = max(cost, rate * window)
    blur = BLUR * cost + BLUR_SECONDS * rate
    level, at, likelihood = 0.0, sends[0].at, 0.0
    for send in sends:
        level += rate * (send.at - at)
        at = send.at
        accepts = 1.0 - CHANCE
        if level >= capacity:
            level = capacity
        else:
            excess = SURE + (level - send.cost) / blur
            accepts = CHANCE + (1.0 - 2.0 * CHANCE) / (1.0 + math.exp(-max(-30.0, min(30.0, excess))))
        if send.was_refused:
            likelihood += math.log(1.0 - accepts)
            level = min(level, send.cost)
        else:
            likelihood += math.log(accepts)
            level = max(0.0, level - send.cost)
    return Fit(rate, cost, likelihood, sum(send.was_refused for send in sends))
