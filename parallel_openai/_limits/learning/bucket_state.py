"""How a bucket's books stood at a send."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Bunch:
    """What went out so close together that it may have arrived in another order; `sent` is the sum at its end."""

    began: float
    total: float = 0.0
    sent: float = 0.0


@dataclass(slots=True)
class BucketState:
    """How the bucket's books stood just after a charge."""

    at: float
    cost: float
    ledger: float
    fill: float
    sent: float
    bunch: Bunch
    number: int
