"""Estimates the share of sends that is refused by chance, and tests whether more are being refused."""

from __future__ import annotations

import math

#: The share of chance refusals assumed at first, and the range that it is kept in.
FIRST_SHARE = 0.05
LEAST_SHARE, MOST_SHARE = 0.001, 0.45
#: The estimate is a mean over about this many sends; the share assumed at first counts as PRIOR of them.
MEMORY = 200.0
PRIOR = 20.0
#: A full server is assumed to refuse this part, plus half of the chance share, of what it would otherwise accept.
EXCESS = 0.25


class Chance:
    """A sequential test (Page's CUSUM) of the share of chance refusals against a larger share.

    >>> chance = Chance()
    >>> for number in (20, 40, 60):
    ...     chance.refused(number, learns=True)
    >>> round(chance.excess, 1)
    1.7
    >>> for number in (61, 62, 63):
    ...     chance.refused(number, learns=True)
    >>> chance.excess > 6
    True
    """

    __slots__ = ("_last", "excess", "share")

    def __init__(self) -> None:
        self.share = FIRST_SHARE  # of the sends
        self.excess = 0.0  # the log-likelihood ratio for more refusals than by chance
        self._last = 0  # the number of the last send that was refused

    def begin(self, share: float) -> None:
        """Start with a known share of chance refusals."""
        self.share = min(MOST_SHARE, max(FIRST_SHARE / 5, share))

    def refused(self, number: int, *, learns: bool) -> None:
        """Note that a send was refused, and those since the last refusal were not."""
        share = self.share
        more = share + (EXCESS + share / 2) * (1.0 - share)
        taken = max(0, number - self._last - 1)
        self._last = max(self._last, number)
        self.excess = max(0.0, self.excess + taken * math.log((1.0 - more) / (1.0 - share))) + math.log(more / share)
        if learns:
            memory = min(MEMORY, PRIOR + number)
            kept = (1.0 - 1.0 / memory) ** (taken + 1)
            self.share = min(MOST_SHARE, max(LEAST_SHARE, kept * share + 1.0 / memory))
