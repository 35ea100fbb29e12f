"""How many sends are refused by chance, and whether it is more than that now."""

from __future__ import annotations

import math

#: The share of refusals by chance before any is known, and between which it is thought to be.
FIRST_SHARE = 0.05
LEAST_SHARE, MOST_SHARE = 0.001, 0.45
#: So many sends are remembered.
MEMORY = 200.0
#: A server that is sent too much refuses this part, and half of the share, of what it would take else.
EXCESS = 0.25


class Chance:
    """A sequential test (Page's CUSUM) of the share of refusals that is by chance against a larger one.

    >>> chance = Chance()
    >>> for number in (20, 40, 60):
    ...     chance.refused(number, learns=True)
    >>> round(chance.excess, 1)
    1.8
    >>> for number in (61, 62, 63):
    ...     chance.refused(number, learns=True)
    >>> chance.excess > 6
    True
    """

    __slots__ = ("_last", "excess", "share")

    def __init__(self) -> None:
        self.share = FIRST_SHARE  # of the sends
        self.excess = 0.0  # how surely more are refused than by chance, as the logarithm of a likelihood ratio
        self._last = 0  # the number of the last send that was refused

    def begin(self, share: float) -> None:
        """Refusals are found to be by chance; so many of the sends have been refused."""
        self.share = min(MOST_SHARE, max(FIRST_SHARE / 5, share))

    def refused(self, number: int, *, learns: bool) -> None:
        """That send was refused, and what was sent between it and the last one was not."""
        share = self.share
        more = share + (EXCESS + share / 2) * (1.0 - share)
        taken = max(0, number - self._last - 1)
        self._last = max(self._last, number)
        self.excess = max(0.0, self.excess + taken * math.log((1.0 - more) / (1.0 - share))) + math.log(more / share)
        if learns:
            kept = (1.0 - 1.0 / MEMORY) ** (taken + 1)
            self.share = min(MOST_SHARE, max(LEAST_SHARE, kept * share + 1.0 / MEMORY))
