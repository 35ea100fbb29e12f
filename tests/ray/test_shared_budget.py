"""Lending a budget to workers, and taking it back."""

from __future__ import annotations

import math
import random

import pytest

from parallel_openai._ray.shared_budget import Amount, BorrowedFunds, Lender
from parallel_openai._records import APIRequest
from parallel_openai._run.spending.funds import Reserve


def reserve(tokens: float) -> Reserve:
    return Reserve(APIRequest({"model": "m"}), "m", 0, 0.0, tokens=tokens)


@pytest.mark.parametrize("seed", range(5))
def test_workers_sharing_a_budget_never_exceed_it_and_leave_little(seed: int) -> None:
    dice, limits = random.Random(seed), (10_000.0, math.inf)
    lender = Lender(limits, workers=3)
    workers = [BorrowedFunds(limits, lender.lend, lender.give_back) for _ in range(3)]
    on_the_way: list[tuple[BorrowedFunds, Reserve]] = []
    refused = 0
    while refused < 50:
        funds, one = dice.choice(workers), reserve(dice.randint(1, 100))
        if funds.hold(one):
            on_the_way.append((funds, one))
        else:
            refused += 1
        if on_the_way and (dice.random() < 0.6 or refused > 20):
            funds, one = on_the_way.pop(dice.randrange(len(on_the_way)))
            funds.spend(one, dice.randint(0, int(one.tokens)), 0.0)
    for funds, one in on_the_way:
        funds.spend(one, one.tokens, 0.0)
    spent = sum(funds.spent_tokens for funds in workers)
    assert 9_000 < spent <= 10_000
    for funds in workers:
        funds.give_back()
    assert lender.left == (pytest.approx(10_000 - spent), math.inf)


def test_overspending_is_deducted_from_what_all_may_spend() -> None:
    limits: Amount = (100.0, 1.0)
    lender = Lender(limits, workers=1)
    funds = BorrowedFunds(limits, lender.lend, lender.give_back)
    one = reserve(30.0)
    assert funds.hold(one)
    funds.spend(one, 90.0, 0.5)
    assert not funds.hold(reserve(11.0))
    assert lender.left == (10.0, 0.5)
