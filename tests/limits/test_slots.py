"""The number of requests that a server accepts at once is found and kept, if it refuses more at any rate."""

from __future__ import annotations

import heapq
import itertools
import random
from typing import Any

import pytest

from parallel_openai._limits.learning.slots import Slots
from parallel_openai._limits.limiter import Lease, Limiter
from parallel_openai._records import Size
from parallel_openai.local.simulator.settings import Settings
from tests.limits.virtual import Rehearsal

SMALL = Size(prompt_tokens=50, characters=200, max_output_tokens=20, choices=1)
MINUTE = {"retry-after": "60"}


def rehearsal(rows: int, account: dict[str, Any] | None = None, **options: Any) -> Rehearsal:
    settings = Settings(**{"max_requests_per_minute": None, "headers": "none", **(account or {})})
    return Rehearsal(settings, [SMALL] * rows, **options)


@pytest.mark.parametrize("spread", [0.0, 1.0])
@pytest.mark.parametrize("slots", [4, 8, 32])
@pytest.mark.parametrize("refusal", [(429, MINUTE), (503, MINUTE), (503, {})], ids=["429-60", "503-60", "503"])
def test_a_full_server_is_kept_full(refusal: tuple[int, dict[str, str]], slots: int, spread: float) -> None:
    options: dict[str, Any] = {"slots": slots, "refusal": refusal, "sigma": spread}
    rows = max(400, 20 * slots)
    by_hand = rehearsal(rows, max_concurrent_requests=slots, **options).run()
    run = rehearsal(rows, **options).run()
    assert [result.status for result in run.results] == ["succeeded"] * rows
    told = run.status.timeline.most_at_once
    assert told == pytest.approx(slots, abs=1) or (told is None and refusal[0] == 503 and not spread)
    assert sum(at > run.sends[100][0] for at in run.refusals) <= 0.05 * (rows - 100)
    assert run.wall <= 1.3 * by_hand.wall


@pytest.mark.parametrize("retry_after", [{"retry-after": "1"}, {}], ids=["for a second", "for no time"])
def test_a_full_server_with_short_waits_is_recognised_too(retry_after: dict[str, str]) -> None:
    options: dict[str, Any] = {"slots": 4, "refusal": (429, retry_after), "sigma": 1.0}
    by_hand = rehearsal(1000, max_concurrent_requests=4, **options).run()
    run = rehearsal(1000, **options).run()
    assert run.status.timeline.most_at_once == pytest.approx(4, abs=1)
    assert run.wall <= 1.3 * by_hand.wall
    assert run.refused <= 0.05 * 1000


@pytest.mark.parametrize("retry_after", [{"retry-after": "1"}, {}], ids=["for a second", "for no time"])
@pytest.mark.parametrize(("slots", "seed"), [(16, 1), (16, 2), (32, 1), (32, 2)])
def test_many_slots_with_short_waits_are_recognised_too(slots: int, seed: int, retry_after: dict[str, str]) -> None:
    options: dict[str, Any] = {"slots": slots, "refusal": (429, retry_after), "seed": seed}
    by_hand = rehearsal(1500, max_concurrent_requests=slots, **options).run()
    run = rehearsal(1500, **options).run()
    assert run.wall <= 1.3 * by_hand.wall
    assert sum(at > run.sends[100][0] for at in run.refusals) <= 0.05 * 1400


@pytest.mark.parametrize("retry_after", [{"retry-after": "1"}, {}], ids=["for a second", "for no time"])
@pytest.mark.parametrize("latency", [0.05, 2.0])
@pytest.mark.parametrize("slots", [1, 4, 16])
def test_a_full_server_that_shows_a_rate_limit_is_not_stormed(
    slots: int, latency: float, retry_after: dict[str, str]
) -> None:
    account = {"max_requests_per_minute": 10_000, "headers": "enforced"}
    options: dict[str, Any] = {"slots": slots, "refusal": (429, retry_after), "latency": latency}
    by_hand = rehearsal(300, account, max_concurrent_requests=slots, **options).run()
    run = rehearsal(300, account, **options).run()
    # Nearly all rows go out at once, since the limit allows it, and after so many refusals all wait.
    assert run.refused <= 500
    assert run.wall <= 1.3 * by_hand.wall + 20.0


@pytest.mark.parametrize("seed", [1, 4, 6])
@pytest.mark.parametrize("retry_after", [{"retry-after": "1"}, {}], ids=["for a second", "for no time"])
@pytest.mark.parametrize("slots", [16, 32])
def test_many_slots_are_found_though_all_pause_after_each_refusal(
    slots: int, retry_after: dict[str, str], seed: int
) -> None:
    account = {"max_requests_per_minute": 10_000, "headers": "enforced"}
    run = rehearsal(1200, account, slots=slots, refusal=(429, retry_after), latency=0.05, seed=seed).run()
    assert run.wall <= 10.0  # of which the first seconds go to the hundreds of rows that the limit allowed at once


def test_refusals_of_what_was_in_flight_together_lengthen_the_pause_only_once() -> None:
    account = {"max_requests_per_minute": 10_000, "headers": "enforced"}
    options: dict[str, Any] = {"slots": 1, "latency": 0.05}
    by_hand = rehearsal(600, account, max_concurrent_requests=1, **options).run()
    assert rehearsal(600, account, **options).run().wall <= 1.3 * by_hand.wall


def test_refusals_by_a_rate_limit_are_not_mistaken_for_a_concurrency_limit() -> None:
    run = rehearsal(1500, {"max_requests_per_minute": 1500.0, "burst_seconds": 10.0, "window": "fixed"}).run()
    assert run.status.timeline.most_at_once is None


def test_slots_that_are_given_up_are_not_followed_by_a_storm() -> None:
    account = {"max_requests_per_minute": 120.0, "burst_seconds": 10.0, "retry_after": "none"}
    run = rehearsal(200, account, seed=3).run()
    assert run.refused <= 0.25 * 200


def test_random_refusals_are_not_mistaken_for_a_concurrency_limit() -> None:
    slots, chance = Slots(), random.Random(1)
    for number in range(400):  # one after the other, with 10 to 19 in flight
        at, in_flight = number / 10, 10 + number % 10
        if chance.random() < 0.2:
            slots.overloaded(in_flight, at=at, now=at + 0.01, left=in_flight - 1)
        else:
            slots.accepted(in_flight, at=at, now=at + 0.05)
    assert not slots.proven
    assert not slots.kept or slots.level >= 10


def is_proven_by_chance(share: float, seed: int, most: int) -> bool:
    """Whether 300 sends, of which that share is refused at any number in flight, prove slots to a busy client."""
    slots, chance, ends, now = Slots(), random.Random(seed), list[tuple[float, float, int, bool]](), 0.0
    for _ in range(300):
        while len(ends) >= most or slots.seconds_until_room(len(ends), now):
            now, at, in_flight, is_refused = heapq.heappop(ends)
            if is_refused:
                slots.overloaded(in_flight, at=at, now=now, left=len(ends))
            else:
                slots.accepted(in_flight, at=at, now=now)
        is_refused = chance.random() < share
        end = now + (0.01 if is_refused else chance.expovariate(2.0))
        heapq.heappush(ends, (end, now, len(ends) + 1, is_refused))
    return slots.proven


def test_refusals_of_one_more_prove_no_slots_if_as_many_others_were_accepted() -> None:
    slots = Slots()
    slots.overloaded(6, at=0.5, now=0.51, left=5)
    for second in range(1, 30, 3):  # two of three that make it six are accepted
        for at in (second, second + 1.0):
            slots.accepted(6, at=at, now=at + 0.9)
            slots.accepted(5, at=at + 0.1, now=at + 0.95)
        slots.overloaded(6, at=second + 2.0, now=second + 2.01, left=5)
        assert not slots.proven


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.4])
def test_random_refusals_hardly_ever_prove_slots(share: float) -> None:
    assert sum(is_proven_by_chance(share, seed, most=12) for seed in range(300)) <= 1


def test_if_the_requests_in_flight_hang_one_more_is_sent_after_a_while() -> None:
    slots = Slots()
    slots.accepted(3, at=0.0, now=20.0)
    slots.overloaded(5, at=20.0, now=20.1, left=4)
    assert slots.seconds_until_room(3, 20.1) == 0.0
    assert slots.seconds_until_room(4, 20.1) == pytest.approx(60.0)
    slots.sent(80.1)
    assert slots.seconds_until_room(5, 80.1) > 0.0


def taken(limiter: Limiter) -> Lease:
    lease = limiter.take(SMALL)
    assert lease is not None
    return lease


def test_a_trial_that_ends_without_an_answer_is_made_again() -> None:
    """Else all would wait for as long as the refusal says, though nobody knows yet whether it is a limit."""
    limiter = Limiter(clock=itertools.count(1.0, 10.0).__next__)
    first, second, third = (taken(limiter) for _ in range(3))
    limiter.answered(first, {}, None)
    assert limiter.refused(third, {"retry-after": "86400"}, None, 86400.0)
    limiter.unanswered(second)
    for _ in range(5):
        trial = taken(limiter)
        assert limiter.take(SMALL) is None
        limiter.unanswered(trial)
    assert not limiter.refused(taken(limiter), {"retry-after": "86400"}, None, 86400.0)
    assert limiter.take(SMALL) is None


def test_refusals_with_nothing_in_flight_never_block_sending() -> None:
    slots = Slots()
    for second in range(20):
        slots.suspect(in_flight=1, left=second % 2, at=second, wait=0.5)
    assert slots.seconds_until_room(1, 20.0) == 0.0
