"""Compares two explanations of refusals: too many requests in flight, or chance."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence

#: With slots, this part of what is sent beyond them is accepted, as one may just have become free, and this part of
#: the usual refusals comes although one is free.
STRAY = 0.05
#: The counts are halved when there are this many.
MEMORY = 1000.0
#: Refusals that are remembered one by one, to know who was in flight together with them; and those of one group.
RECENT, TOGETHER = 64, 16
#: More than are ever in flight.
MANY = 10_000


class Crowding:
    """Counts what was accepted and what was refused at each number in flight.

    Slots refuse what is sent with more in flight than their number, and little else. Chance refuses the same share at
    any number. Both likelihoods of what was seen are computed, chance with the share that suits it best. So neither
    many refusals nor a few alike prove slots, if as many in flight were accepted, or fewer were refused.

    A number in flight is that of the moment of the send, less those that were refused later on: they took no slot. Of
    refusals without an answer in between only the most crowded one counts: an outage refuses many, and says the same.

    Args:
        answers: when the last answers came.

    Attributes:
        number: that of the refusals since the last answer; 0 if there are none.

    >>> crowding = Crowding([])
    >>> for at in range(0, 60, 3):
    ...     for moment, in_flight in ((at, 3), (at + 1, 4)):
    ...         crowding.accepted(in_flight, at=moment, now=moment + 0.5)
    ...     if at % 15 == 0:
    ...         crowding.refused(5, at=at + 2, now=at + 2.1, left=4)
    >>> crowding.accepted(4, at=60, now=60.5)
    >>> crowding.evidence(4) > 8.0
    True
    >>> for at in range(70, 73):  # and then as many are accepted
    ...     crowding.accepted(5, at=at, now=at + 0.5)
    >>> crowding.evidence(4) < 8.0
    True
    """

    __slots__ = ("_answers", "_delay", "_group", "_left", "_recent", "_refused", "_sum", "_taken", "number")

    def __init__(self, answers: Sequence[float]) -> None:
        self._taken: dict[int, float] = {}
        self._refused: dict[int, float] = {}
        self._sum = 0.0
        self._recent: deque[tuple[float, int, float]] = deque(maxlen=RECENT)
        self._group: deque[tuple[int, float]] = deque(maxlen=TOGETHER)  # the last refusals since the last answer
        self.number, self._left = 0, MANY
        self._answers = answers
        self._delay = math.inf  # the shortest, from a send to its refusal

    def refused(self, in_flight: int, *, at: float, now: float, left: int) -> None:
        """Note a refusal of what was sent at the time `at`, with so many in flight, itself included; `left` remain."""
        self._recent.append((at, in_flight, now))
        self._group.append((in_flight, at))
        self._delay = min(self._delay, now - at)
        self._left = min(self._left, left + 1)
        before, self.number = self.number, max(self._left, *(self._beside(*each) for each in self._group))
        if before:
            self._count(self._refused, before, -1.0)
        self._count(self._refused, self.number)

    def accepted(self, in_flight: int, *, at: float, now: float) -> None:
        """Note an answer to what was sent at the time `at`, with so many in flight, itself included."""
        self._group.clear()
        self._left, self.number = MANY, 0
        freed = bisect_right(self._answers, at + self._delay) - bisect_right(self._answers, at)
        self._count(self._taken, max(1, self._beside(in_flight, at) - freed))

    def evidence(self, level: float) -> float:
        """By how much so many slots are likelier than chance: the logarithm of the ratio."""
        above, below = _split(self._refused, level)
        taken_above, taken_below = _split(self._taken, level)
        share = (above + below + 0.5) / (self._sum + 1.0)
        return (
            above * math.log((1.0 - STRAY) / share)
            + below * math.log(STRAY)
            + taken_above * math.log(STRAY / (1.0 - share))
            + taken_below * math.log((1.0 - STRAY * share) / (1.0 - share))
        )

    def refused_and_taken(self, level: float) -> tuple[float, float]:
        """How many were refused with more than `level` in flight, and how many accepted with at most so many."""
        return _split(self._refused, level)[0], _split(self._taken, level)[1]

    def _beside(self, in_flight: int, at: float) -> int:
        """How many of those in flight at a send were not refused, itself included."""
        refused = 0
        for sent_at, number, now in reversed(self._recent):
            if now <= at:
                break
            refused += (sent_at, number) < (at, in_flight)
        return in_flight - refused

    def _count(self, counts: dict[int, float], number: int, change: float = 1.0) -> None:
        counts[number] = counts.get(number, 0.0) + change
        if counts[number] <= 0.0:
            del counts[number]
        self._sum += change
        if self._sum > MEMORY:
            self._taken = {each: count / 2 for each, count in self._taken.items()}
            self._refused = {each: count / 2 for each, count in self._refused.items()}
            self._sum /= 2


def _split(counts: dict[int, float], level: float) -> tuple[float, float]:
    """The sum above `level`, and up to it."""
    above = sum(count for number, count in counts.items() if number > level)
    return above, sum(counts.values()) - above
