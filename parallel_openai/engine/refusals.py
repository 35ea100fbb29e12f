"""Whether a refusal is for the limit's sake, or without a cause that going slower would mend."""

from __future__ import annotations

from collections import deque

INFINITY = float("inf")
#: So many refusals among so many sends in a row are a full server's, however slowly they were sent.
CLUSTER = 4
CLUSTER_SPAN = 20
#: Below this share of the fastest pace that lately went well, a lone refusal says nothing about the limit.
CALM = 0.75
#: The fastest pace is forgotten by half in so many seconds.
HALF_LIFE = 60.0
#: So many refusals at a calm pace, and this share of what was sent at one, show a server that refuses whatever the
#: pace; then a lone refusal at a fast one says nothing either. What is older than so many sends counts by half.
CALM_REFUSALS = 2.0
CALM_SHARE = 0.004
CALM_SENDS = 500.0
#: Seconds between two searches for a pace that was left without reason.
LOOK_SECONDS = 30.0


class Refusals:
    """What a dimension's refusals have in common.

    A full server refuses whoever goes too fast, and then several sends in a row. A gateway that now and then refuses
    without cause does so at any pace, and slowing down for it would never end.

    >>> refusals = Refusals()
    >>> numbers = [refusals.sent(50.0, 0.0) for _ in range(100)]
    >>> refusals.tell(50, 50.0, 0.0), refusals.tell(100, 20.0, 1.0)  # at the fastest pace, and much slower
    (True, False)
    """

    __slots__ = ("_best", "_best_at", "_calm_refused", "_calm_sent", "_count", "_look_at", "_recent")

    def __init__(self) -> None:
        self._count = 0
        self._recent: deque[int] = deque(maxlen=CLUSTER)
        self._best, self._best_at = 0.0, 0.0
        self._calm_sent = self._calm_refused = 0.0
        self._look_at = 0.0

    def sent(self, pace: float, now: float) -> int:
        """A send at this pace, as far as it has been measured (else infinite); gives the send's number."""
        self._count += 1
        if self._is_calm(pace, now):
            self._calm_sent += 1.0
            if self._calm_sent > CALM_SENDS:
                self._calm_sent, self._calm_refused = self._calm_sent / 2, self._calm_refused / 2
        return self._count

    def tell(self, number: int, pace: float, now: float) -> bool:
        """Whether the refusal of a send says something about the limit."""
        self._recent.append(number)
        if len(self._recent) == CLUSTER and self._recent[-1] - self._recent[0] <= CLUSTER_SPAN:
            self._recent.clear()
            self._best = 0.0  # the limit may have been lowered
            return True
        if self._is_calm(pace, now):
            self._calm_refused += 1.0
            return False
        return not self._refuses_anyway()

    def look_again(self, now: float) -> bool:
        """Whether it is time to look for the pace anew, since there was no reason to slow down."""
        if not self._refuses_anyway() or now < self._look_at:
            return False
        self._look_at = now + LOOK_SECONDS
        return True

    def _refuses_anyway(self) -> bool:
        return self._calm_refused >= CALM_REFUSALS and self._calm_refused >= CALM_SHARE * self._calm_sent

    def _is_calm(self, pace: float, now: float) -> bool:
        return pace != INFINITY and pace < CALM * self._fastest(pace, now)

    def _fastest(self, pace: float, now: float) -> float:
        best = self._best * 0.5 ** (max(0.0, now - self._best_at) / HALF_LIFE) if self._best else 0.0
        if pace >= best:
            self._best, self._best_at = pace, now
        return max(pace, best)
