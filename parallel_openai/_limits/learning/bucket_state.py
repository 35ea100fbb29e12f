"""The state of a bucket at a send, kept to judge the answer by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Bunch:
    """Requests sent so close together that they may have arrived in another order."""

    began: float
    total: float = 0.0  # the cost of these requests
    sent: float = 0.0  # the cost of all requests up to the last of these


@dataclass(slots=True)
class BucketState:
    """The bucket's figures just after a charge."""

    at: float
    cost: float
    ledger: float
    fill: float
    sent: float
    bunch: Bunch
    number: int
    in_vain: float = 0.0
