"""What may be spent: the limits, what is spent, and the reserves of sends whose cost is not known yet."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from parallel_openai._records import APIRequest


class Kind(NamedTuple):
    """Requests whose tokens a server counts alike: a model's texts in English say nothing of its pictures, and little
    of other scripts."""

    model: str
    has_media: bool
    is_ascii: bool


@dataclass(slots=True, eq=False)
class Reserve:
    """The worst case of one send, reserved in the budget."""

    request: APIRequest
    kind: Kind
    prompt_tokens: int
    output_tokens: float
    tier: str | None = None
    in_batch: bool = False
    spare: float = 1.0  # an extra factor on the prompt, beyond what is expected
    tokens: float = 0.0
    usd: float = 0.0


class Funds:
    """Dollars and tokens that one run, or several together, may spend.

    Attributes:
        usd, tokens: the limits; infinite without one.
        spent_usd, spent_tokens: settled so far.
        reserves: the reserves of sends whose cost is not known yet.
    """

    def __init__(self, usd: float | None = None, tokens: float | None = None) -> None:
        self.usd = math.inf if usd is None else usd
        self.tokens = math.inf if tokens is None else tokens
        self.spent_usd = self.spent_tokens = 0.0
        self.reserves: set[Reserve] = set()
        self._held_usd = self._held_tokens = 0.0

    def hold(self, reserve: Reserve) -> bool:
        """Add a reserve. Returns False if it does not fit beside what is spent and reserved."""
        if (
            self.spent_tokens + self._held_tokens + reserve.tokens > self.tokens
            or self.spent_usd + self._held_usd + reserve.usd > self.usd
        ):
            return False
        self.reserves.add(reserve)
        self._held_tokens += reserve.tokens
        self._held_usd += reserve.usd
        return True

    def spend(self, reserve: Reserve, tokens: float, usd: float) -> None:
        """Replace a reserve by what the send has cost."""
        self.spent_tokens += tokens
        self.spent_usd += usd
        self.reserves.discard(reserve)
        # Exactly 0 without reserves, whatever the rounding errors.
        self._held_tokens = self._held_tokens - reserve.tokens if self.reserves else 0.0
        self._held_usd = self._held_usd - reserve.usd if self.reserves else 0.0

    @property
    def left(self) -> tuple[float, float]:
        """Tokens and dollars that are neither spent nor reserved."""
        return self.tokens - self.spent_tokens - self._held_tokens, self.usd - self.spent_usd - self._held_usd

    @property
    def limits(self) -> tuple[float, float]:
        """Tokens and dollars that the whole call may spend."""
        return self.tokens, self.usd

    @property
    def is_used_up(self) -> bool:
        return self.spent_usd >= self.usd or self.spent_tokens >= self.tokens

    def recount(self) -> None:
        """Update the sums after the reserves have changed."""
        self._held_tokens = sum(reserve.tokens for reserve in self.reserves)
        self._held_usd = sum(reserve.usd for reserve in self.reserves)
