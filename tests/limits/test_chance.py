"""A server that refuses at random, at any rate, as an overloaded pool behind a gateway does."""

from __future__ import annotations

from statistics import median
from typing import Any

import pytest

from parallel_openai._limits.learning.bucket_state import BucketState, Bunch
from parallel_openai._limits.limiter import Lease, Limiter
from parallel_openai._limits.refusal_cause import Refusals
from parallel_openai._records import Size
from parallel_openai.local.simulator.settings import Settings
from tests.limits.virtual import Rehearsal

SMALL = Size(prompt_tokens=50, characters=200, max_output_tokens=20, choices=1)


def rehearsal(rows: int, *, share: float, seed: int = 1, **account: Any) -> Rehearsal:
    settings = Settings(**{"max_requests_per_minute": None, "headers": "none", "fault_429": share, **account})
    return Rehearsal(settings, [SMALL] * rows, latency=0.3, seed=seed)


def mark(at: float, number: int) -> BucketState:
    return BucketState(at, cost=1.0, ledger=0.0, fill=0.0, sent=number, bunch=Bunch(at, 1.0, number), number=number)


@pytest.mark.parametrize("retry_after", ["seconds", "none"])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.4])
def test_a_short_run_takes_about_as_long_as_with_the_openai_sdk(share: float, retry_after: str) -> None:
    ratios = []
    for seed in range(101, 106):
        by_hand = rehearsal(300, share=share, retry_after=retry_after, seed=seed).by_hand(20)
        run = rehearsal(300, share=share, retry_after=retry_after, seed=seed).run()
        assert [result.status for result in run.results] == ["succeeded"] * 300
        ratios.append(run.wall / by_hand)
    assert median(ratios) <= 3.0


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4])
def test_a_long_run_is_no_slower_than_with_the_openai_sdk(share: float) -> None:
    by_hand = rehearsal(3000, share=share).by_hand(20)
    assert rehearsal(3000, share=share).run().wall <= by_hand


@pytest.mark.parametrize("share", [0.05, 0.1])
def test_a_limit_is_found_despite_random_refusals(share: float) -> None:
    account = {"max_requests_per_minute": 3000.0, "burst_seconds": 1.0}
    run = rehearsal(3000, share=share, **account).run()
    assert run.utilisation >= 0.65
    assert run.refused - run.without_cause <= 0.3 * run.accepted


def test_an_unknown_limit_is_used_up_despite_a_few_random_refusals() -> None:
    used = []
    for seed in range(20, 27):
        account = {"max_requests_per_minute": 6000.0, "burst_seconds": 1.0}
        run = rehearsal(6000, share=0.02, seed=seed, **account)
        run.latency = 0.5
        used.append(run.run().utilisation)
    assert median(used) >= 0.9


def test_a_halved_limit_is_soon_distinguished_from_random_refusals() -> None:
    run = rehearsal(3000, share=0.0, max_requests_per_minute=3000.0, burst_seconds=1.0)
    run.changes = [(20.0, {"max_requests_per_minute": 1500.0})]
    run.run()
    assert run.utilisation >= 0.95
    assert run.refused <= 0.015 * run.accepted


def test_refusals_of_a_bucket_do_not_contradict_each_other() -> None:
    refusals = Refusals(count=99)
    assert not any(refusals.contradict(mark(second, 10 * second), held=0.0) for second in range(1, 5))


def test_a_refusal_before_a_slow_start_contradicts_none_at_full_pace() -> None:
    """Meanwhile the bucket may have run over: what was accepted in it is less than its refill."""
    refusals = Refusals(count=99)
    refusals.contradict(mark(0.0, 1), held=0.0)
    assert not refusals.contradict(mark(4.9, 21), held=1.0, pace=10.0)
    assert not refusals.contradict(mark(5.9, 32), held=1.0, pace=10.0)
    assert not refusals.by_chance


def test_refusals_equally_frequent_at_twice_the_rate_are_not_due_to_a_limit() -> None:
    refusals = Refusals(count=99)
    slow = [refusals.contradict(mark(at, 10 * at), held=0.0) for at in (1, 2)]
    fast = [refusals.contradict(mark(2 + at / 2, 20 + 20 * at), held=0.0) for at in (1, 2)]
    assert slow == [False, False]
    assert True in fast
    assert refusals.by_chance


def test_accepted_sends_after_a_refusal_show_a_minimum_rate() -> None:
    refusals = Refusals()
    refusals.contradict(mark(1.0, 10), held=0.0)
    told = [refusals.also_taken(mark(1.0 + number / 100, 10 + number)) for number in range(1, 21)]
    assert told[0] is False
    assert True in told
    assert 50 < refusals.taken_for_certain <= 100


def test_one_early_refusal_is_no_evidence_of_a_limit_and_several_are() -> None:
    refusals = Refusals()
    told = [refusals.tell(number, float("inf"), 0.0, pressed=True) for number in (100, 101)]
    assert told == [False, True]
    refusals = Refusals()
    told = [refusals.tell(number, float("inf"), 0.0, pressed=True) for number in (2, 3, 4, 5)]
    assert told[:2] == [False, False]
    assert True in told
    assert refusals.tell(100, float("inf"), 0.0, pressed=True, is_limited=True)


@pytest.mark.parametrize("spread", [0.4, 1.2])
@pytest.mark.parametrize("share", [0.05, 0.2])
def test_random_refusals_do_not_slow_down_a_short_run(share: float, spread: float) -> None:
    """Beside a run that heeds no refusal, and sends only the refused request again, after its own wait."""
    ratios = []
    for seed in range(201, 216):
        walls = []
        for limiter in (Limiter, _Heedless):
            run = rehearsal(300, share=share, seed=seed)
            run.sigma, run.max_concurrent_requests, run.limiter_class = spread, 20, limiter
            walls.append(run.run().wall)
        ratios.append(walls[0] / walls[1])
    assert median(ratios) <= 1.5


class _Heedless(Limiter):
    def refused(self, lease: Lease, headers: Any, dimension: Any, wait: float | None) -> bool:
        self.unanswered(lease)
        return False
