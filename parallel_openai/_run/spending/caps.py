"""The caps on one call: money, tokens and time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any

from parallel_openai._requests.prices import price
from parallel_openai._run.spending.budget import Budget, PriceOf, highest
from parallel_openai._run.spending.funds import Funds
from parallel_openai.errors import InvalidInputError


@dataclass(frozen=True)
class SpendingCaps:
    """What one call may spend and how long it may take; None is no limit.

    >>> SpendingCaps(deadline=0)
    Traceback (most recent call last):
        ...
    parallel_openai.errors.InvalidInputError: deadline must be a number above 0 or None, not 0.
    """

    budget_usd: float | Funds | None = None  # dollars, or funds (tokens included) shared with other calls
    budget_tokens: float | None = None  # prompt and completion tokens together
    deadline: float | None = None  # seconds from the start of the call

    def __post_init__(self) -> None:
        for name in ("budget_usd", "budget_tokens", "deadline"):
            value = getattr(self, name)
            if not (value is None or isinstance(value, Funds) or _is_bound(value)):
                raise InvalidInputError(f"{name} must be a number above 0 or None, not {value!r}.")
            if not (value is None or isinstance(value, (Funds, float))):  # numpy compares in its own number's precision
                object.__setattr__(self, name, float(value))

    def budget(self, price: PriceOf, tier: str | None = None) -> Budget | None:
        """A budget at these prices; None without a limit on money or tokens."""
        if self.budget_usd is None and self.budget_tokens is None:
            return None
        return Budget(funds=self.funds(), price=price, tier=tier)

    def until(self, began: float) -> float | None:
        """The time of the deadline, on the same clock as `began`."""
        return None if self.deadline is None else began + self.deadline

    def why(self, ended: str) -> str:
        """Why the remaining rows were not sent, in one sentence.

        >>> SpendingCaps(budget_usd=0.5, deadline=60).why("budget")
        'What is left of the budget of $0.50 is too small for the next request.'
        """
        if ended == "deadline":
            seconds = self.deadline.whole if isinstance(self.deadline, TimeLeft) else self.deadline
            return f"The deadline of {seconds:g} s came before the answer."
        tokens, usd = self.funds().limits
        limits = [_money(usd)] if usd < math.inf else []
        limits += [f"{tokens:,.0f} tokens"] if tokens < math.inf else []
        return f"What is left of the budget of {' and '.join(limits)} is too small for the next request."

    def funds(self) -> Funds:
        return self.budget_usd if isinstance(self.budget_usd, Funds) else Funds(self.budget_usd, self.budget_tokens)


class TimeLeft(float):
    """The seconds left of a deadline that several calls share, which tells the rows that it ends their whole."""

    whole: float

    @classmethod
    def of(cls, whole: float, left: float) -> TimeLeft:
        time = cls(left)
        time.whole = whole
        return time


def _is_bound(value: Any) -> bool:
    """Whether it is a number above 0, numpy's own included."""
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) < math.inf


def _money(dollars: float) -> str:
    """Dollars with cents, and with further decimals if there are any.

    >>> _money(1200), _money(0.0005)
    ('$1,200.00', '$0.0005')
    """
    whole, _, decimals = f"{dollars:,.9f}".partition(".")
    return f"${whole}.{decimals.rstrip('0'):0<2}"


def prices_at(*base_urls: str) -> PriceOf:
    """The price function for the provider at a base URL; at several, as in a pool, whose answers do not say where they
    came from, the highest price."""
    prices = [partial(price, base_url=each) for each in dict.fromkeys(base_urls)]
    return prices[0] if len(prices) == 1 else lambda *asked: highest([each(*asked) for each in prices])
