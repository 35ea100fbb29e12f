"""Shares one budget among the workers of a run, by lending it to them piece by piece."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from parallel_openai._run.spending.funds import Funds, Reserve

#: Tokens and dollars; infinite if there is no limit.
Amount = tuple[float, float]
NOTHING: Amount = (0.0, 0.0)
#: A piece is at least the remaining budget divided by this number for each worker.
PIECES = 4


class Lender:
    """The part of a run's budget that is not lent.

    >>> lender = Lender((1000.0, math.inf), workers=2)
    >>> lender.lend((10.0, 0.0)), lender.lend((900.0, 0.0)), lender.left
    ((125.0, inf), (0.0, 0.0), (875.0, inf))
    """

    def __init__(self, left: Amount, workers: int) -> None:
        self.left = left
        self._pieces = PIECES * workers

    def lend(self, wanted: Amount) -> Amount:
        """Lend the amount wanted or more, or nothing if less is left."""
        if any(amount > left for amount, left in zip(wanted, self.left, strict=True)):
            return NOTHING
        tokens, usd = (max(amount, left / self._pieces) for amount, left in zip(wanted, self.left, strict=True))
        self.give_back((-tokens, -usd))
        return tokens, usd

    def give_back(self, amount: Amount) -> None:
        """Take back what was not spent. A negative amount was spent beyond what was lent."""
        tokens, usd = (left if left == math.inf else left + more for left, more in zip(self.left, amount, strict=True))
        self.left = tokens, usd


@dataclass(frozen=True)
class Share:
    """What a worker needs to know of its run's budget."""

    run: str  # the run's name
    limits: Amount  # what the whole run may spend
    tier: str | None  # the service tier that every answer is sure to come from, or None if none is


class BorrowedFunds(Funds):
    """A worker's part of a run's funds, which grows as needed.

    Args:
        limits: what the whole run may spend.
        lend: requests an amount, and returns as much or more, or nothing.
        give_back: takes back an amount; a negative one was spent beyond what was lent.
    """

    def __init__(self, limits: Amount, lend: Callable[[Amount], Amount], give_back: Callable[[Amount], None]) -> None:
        super().__init__()
        self.tokens, self.usd = (0.0 if limit < math.inf else math.inf for limit in limits)
        self._limits = limits
        self._lend = lend
        self._return = give_back

    @property
    def limits(self) -> Amount:
        return self._limits

    def hold(self, reserve: Reserve) -> bool:
        if super().hold(reserve):
            return True
        tokens, usd = self.left
        self._grow(self._lend((max(0.0, reserve.tokens - tokens), max(0.0, reserve.usd - usd))))
        if super().hold(reserve):
            return True
        if not self.reserves:
            self.give_back()  # another worker may find a use for it
        return False

    def spend(self, reserve: Reserve, tokens: float, usd: float) -> None:
        super().spend(reserve, tokens, usd)
        overspent = min(0.0, self.tokens - self.spent_tokens), min(0.0, self.usd - self.spent_usd)
        if overspent != NOTHING:  # taken from what the other workers may spend
            self._move(overspent)

    def give_back(self) -> None:
        """Give back what is neither spent nor reserved."""
        tokens, usd = (max(0.0, left) if left < math.inf else 0.0 for left in self.left)
        if (tokens, usd) != NOTHING:
            self._move((tokens, usd))

    def _move(self, amount: Amount) -> None:
        self._grow((-amount[0], -amount[1]))
        self._return(amount)

    def _grow(self, amount: Amount) -> None:
        self.tokens += amount[0]
        self.usd += amount[1]
