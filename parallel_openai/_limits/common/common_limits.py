"""Lets models share a bucket if that explains what the server refuses, which shows nothing of its limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from parallel_openai._limits.bucket import TOGETHER_SECONDS, Bucket
from parallel_openai._limits.common.common_bucket import Fit, SendLog, fit
from parallel_openai._limits.learning.bucket_state import BucketState
from parallel_openai._limits.limiter import Lease, Limiter
from parallel_openai._records import Dimension

INFINITY = float("inf")
#: The explanations are compared after this many refusals, but not more often than once in so many seconds.
COMPARE_REFUSALS, COMPARE_SECONDS = 4, 1.0
#: Among more others than this, none is compared by itself, but only all of them: a comparison takes milliseconds.
MOST_PAIRS = 3
#: By how much the log-likelihood of one explanation must be greater for it to replace the other.
MUCH_LIKELIER = 6.0


class CommonLimits:
    """The limiters of all models at an account, and which of them share a bucket.

    A server may limit what a key sends in all. Then each model's bucket is refused for what the others have sent, and
    can only take that for chance, or for a limit that moves. So two explanations are compared for what was lately
    refused: one bucket for several models, or one for each. Only refusals tell them apart; as long as there are few,
    either is good enough.
    """

    def __init__(self) -> None:
        self._logs: dict[Dimension, dict[Limiter, SendLog]] = {"requests": {}, "tokens": {}}
        self._refusals = 0  # since the last comparison
        self._compared_at = -INFINITY

    def add(self, limiters: Sequence[Limiter]) -> None:
        """Take up what these send from now on. A single one has nobody to share with."""
        for limiter in limiters if len(limiters) > 1 else ():
            limiter.common = self
            for logs in self._logs.values():
                logs.setdefault(limiter, SendLog())

    def sent(self, limiter: Limiter, request: BucketState, tokens: BucketState) -> None:
        """Note a send."""
        self._logs["requests"][limiter].sent(request.cost, request.at)
        self._logs["tokens"][limiter].sent(tokens.cost, tokens.at)

    def refused(self, limiter: Limiter, lease: Lease, dimension: Dimension, now: float) -> None:
        """Note that a send was refused for that dimension, and now and then compare the explanations."""
        at = lease.request_mark.at
        self._logs[dimension][limiter].refused(at)
        self._refusals += 1
        if self._refusals >= COMPARE_REFUSALS and now >= self._compared_at + COMPARE_SECONDS:
            self._refusals, self._compared_at = 0, now
            self._compare(limiter, dimension, at - TOGETHER_SECONDS, now)  # what was sent later may yet be refused

    def leave(self, limiter: Limiter, dimension: Dimension, now: float) -> None:
        """Give a limiter a bucket of its own, as the server shows a limit for it."""
        shared: Bucket = getattr(limiter, dimension)
        limiter.replace(dimension, Bucket.in_place_of([shared], rate=shared.rate, cost=1.0, now=now), shares=False)

    def _compare(self, limiter: Limiter, dimension: Dimension, end: float, now: float) -> None:
        groups = self._groups(dimension)
        mine = groups.pop(getattr(limiter, dimension), None)
        if mine is None or (len(mine) > 1 and self._part(mine, dimension, end, now)):
            return
        unions = [[mine, group] for group in groups.values()] if len(groups) <= MOST_PAIRS else []
        if len(groups) > 1:
            unions.append([mine, *groups.values()])
        fits = [(union, self._fits(union, dimension, end)) for union in unions]
        good = [(union, each) for union, each in fits if each.together.is_good and each.gain > MUCH_LIKELIER]
        if good:
            union, best = max(good, key=lambda pair: pair[1].gain)
            self._unite(union, best.together, dimension, now)

    def _groups(self, dimension: Dimension) -> dict[Bucket, list[Limiter]]:
        """The limiters that use each bucket whose limit is not shown and that was refused lately."""
        groups: dict[Bucket, list[Limiter]] = {}
        logs = self._logs[dimension]
        for limiter in logs:
            groups.setdefault(getattr(limiter, dimension), []).append(limiter)
        return {
            bucket: group
            for bucket, group in groups.items()
            if bucket.limit is None and any(logs[each].has_refusals for each in group)
        }

    def _fits(self, groups: Sequence[Sequence[Limiter]], dimension: Dimension, end: float) -> _Fits:
        logs = [[self._logs[dimension][each] for each in group] for group in groups]
        every = [log for group in logs for log in group]
        begin = max(log.begin for log in every)
        return _Fits(fit(every, begin, end), [fit(group, begin, end) for group in logs])

    def _unite(self, groups: Sequence[Sequence[Limiter]], found: Fit, dimension: Dimension, now: float) -> None:
        replaced = [getattr(group[0], dimension) for group in groups]
        bucket = Bucket.in_place_of(replaced, rate=found.rate, cost=found.cost, now=now)
        for group in groups:
            for each in group:
                each.replace(dimension, bucket, shares=True)

    def _part(self, group: Sequence[Limiter], dimension: Dimension, end: float, now: float) -> bool:
        """Give each limiter of a group a bucket of its own again, if that is likelier. Returns whether it was."""
        fits = self._fits([[each] for each in group], dimension, end)
        if fits.gain > -MUCH_LIKELIER:
            return False
        for limiter, own in zip(group, fits.apart, strict=True):
            shared = getattr(limiter, dimension)
            known = own.refused > 0  # else nothing says that there is a limit at all
            rate = own.rate if known else shared.rate
            bucket = Bucket.in_place_of([shared], rate=rate, cost=own.cost, now=now, searches=not known)
            limiter.replace(dimension, bucket, shares=False)
        return True


@dataclass(frozen=True, slots=True)
class _Fits:
    """The two explanations of the same refusals: by one bucket, or by several."""

    together: Fit
    apart: Sequence[Fit]

    @property
    def gain(self) -> float:
        """By how much the one bucket is likelier: the logarithm of the ratio."""
        return self.together.likelihood - sum(each.likelihood for each in self.apart)
