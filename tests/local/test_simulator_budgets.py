"""The simulator's limits, on a fake clock."""

from __future__ import annotations

import pytest

from parallel_openai.local.simulator import Settings
from parallel_openai.local.simulator.limits.account import Account
from parallel_openai.local.simulator.limits.budgets import Bucket, Budget, FixedWindow, SlidingWindow
from parallel_openai.local.simulator.statistics import Ledger


def spend_all_the_time(budget: Budget, seconds: float, step: float = 0.01) -> int:
    """The number of requests admitted from a client that tries at every step."""
    taken = 0
    for tick in range(round(seconds / step)):
        now = tick * step
        budget.record(now)
        if budget.holds(1, now):
            budget.take(1, now)
            taken += 1
    return taken


def test_a_bucket_starts_full_and_holds_the_burst() -> None:
    assert Bucket(600, window=10.0).level(0.0) == 100


def test_a_bucket_holds_one_request_however_short_the_burst() -> None:
    assert Bucket(6, window=1.0).level(0.0) == 1


def test_a_bucket_starts_at_the_given_level() -> None:
    assert Bucket(600, window=60.0, start_level=0.5).level(0.0) == 300


def test_a_bucket_admits_its_capacity_and_the_refill() -> None:
    assert spend_all_the_time(Bucket(600, window=1.0), 10.0) == pytest.approx(10 + 100, abs=1)


def test_a_fixed_window_admits_the_limit_in_each_window() -> None:
    assert spend_all_the_time(FixedWindow(600, window=1.0), 10.0) == 100


def test_a_fixed_window_can_be_spent_twice_across_its_border() -> None:
    window = FixedWindow(60, window=60.0)
    window.take(60, 59.9)
    assert window.holds(60, 60.0)


def test_a_sliding_window_never_admits_more_than_its_limit_in_any_span() -> None:
    window, taken = SlidingWindow(60, window=10.0), []
    for tick in range(4000):
        if window.holds(1, tick * 0.01):
            window.take(1, tick * 0.01)
            taken.append(tick)
    assert max(sum(start <= each < start + 1000 for each in taken) for start in taken) == 10


@pytest.mark.parametrize("kind", [Bucket, FixedWindow, SlidingWindow])
def test_the_wait_that_is_announced_is_enough(kind: type[Budget]) -> None:
    budget = kind(60, window=10.0)
    budget.take(10, 1.0)
    wait = budget.seconds_until(5, 3.0)
    assert not budget.holds(5, 3.0 + wait - 0.01)
    assert budget.holds(5, 3.0 + wait)


@pytest.mark.parametrize("kind", [Bucket, FixedWindow, SlidingWindow])
def test_the_budget_is_full_at_the_predicted_time(kind: type[Budget]) -> None:
    budget = kind(60, window=10.0)
    budget.take(7, 1.0)
    assert budget.level(1.0 + budget.seconds_until_full(1.0)) == pytest.approx(10)


@pytest.mark.parametrize("kind", [Bucket, FixedWindow, SlidingWindow])
def test_a_request_larger_than_a_window_passes_once_and_its_debt_is_paid_off(kind: type[Budget]) -> None:
    budget = kind(60, window=1.0)
    budget.take(3, 0.0)
    assert not budget.holds(1, 0.9)
    assert not budget.holds(1, 1.9)
    assert budget.holds(1, 3.1)


@pytest.mark.parametrize("kind", [Bucket, FixedWindow, SlidingWindow])
def test_an_unused_window_admits_a_request_larger_than_a_window(kind: type[Budget]) -> None:
    assert kind(60, window=1.0).holds(30, 0.5)


@pytest.mark.parametrize("kind", [Bucket, FixedWindow, SlidingWindow])
def test_a_refund_can_be_spent_again(kind: type[Budget]) -> None:
    budget = kind(60, window=60.0)
    budget.take(60, 1.0)
    budget.adjust(-20, 1.5, taken_at=1.0)
    assert budget.level(1.5) == pytest.approx(20, abs=0.6)


@pytest.mark.parametrize("kind", [FixedWindow, SlidingWindow])
def test_a_refund_after_its_window_is_not_counted_twice(kind: type[Budget]) -> None:
    budget = kind(60, window=1.0)
    budget.take(1, 0.5)
    budget.adjust(-1, 2.5, taken_at=0.5)
    assert budget.level(2.5) == 1


@pytest.mark.parametrize("kind", [Bucket, FixedWindow, SlidingWindow])
def test_a_limit_can_be_lowered_during_a_run(kind: type[Budget]) -> None:
    budget = kind(600, window=60.0)
    budget.change(60, window=60.0, background=0.0, now=1.0)
    assert budget.level(1.0) == 60


def test_a_limit_raised_during_a_run_refills_a_bucket_faster() -> None:
    bucket = Bucket(60, window=60.0)
    bucket.take(60, 0.0)
    bucket.change(600, window=60.0, background=0.0, now=0.0)
    assert bucket.level(2.0) == pytest.approx(20)


@pytest.mark.parametrize("kind", [Bucket, FixedWindow, SlidingWindow])
def test_background_load_uses_its_share(kind: type[Budget]) -> None:
    alone, shared = kind(600, window=1.0), kind(600, window=1.0, background=4.0)
    assert spend_all_the_time(shared, 20.0) / spend_all_the_time(alone, 20.0) == pytest.approx(0.6, abs=0.06)


def test_background_load_cannot_take_more_than_is_left() -> None:
    bucket = Bucket(60, window=10.0, background=5.0)
    assert bucket.level(100.0) == 0


@pytest.mark.parametrize("kind", [Bucket, FixedWindow])
def test_a_greedy_client_gets_all_that_was_allowed(kind: type[Budget]) -> None:
    budget = kind(600, window=1.0)
    taken = spend_all_the_time(budget, 10.0)
    assert taken / budget.allowed(0.0, 9.99) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("kind", [Bucket, FixedWindow, SlidingWindow])
def test_no_client_gets_more_than_was_allowed(kind: type[Budget]) -> None:
    budget = kind(600, window=3.0, background=2.0)
    assert spend_all_the_time(budget, 10.0) <= budget.allowed(0.0, 9.99) + 1


def test_a_client_that_lets_the_bucket_overflow_has_used_less_than_was_allowed() -> None:
    bucket = Bucket(60, window=1.0)
    bucket.record(0.0)
    bucket.take(1, 0.0)
    bucket.record(60.0)
    assert bucket.allowed(0.0, 60.0) == pytest.approx(61)


def test_what_is_allowed_follows_a_limit_that_changes() -> None:
    bucket = Bucket(60, window=60.0)
    bucket.record(0.0)
    bucket.change(600, window=60.0, background=0.0, now=10.0)
    bucket.record(20.0)
    assert bucket.allowed(0.0, 20.0) == pytest.approx(60 + 10 + 100)


def test_what_is_allowed_can_be_asked_for_a_part_of_the_run() -> None:
    bucket = Bucket(60, window=60.0)
    for second in range(21):
        bucket.record(second)
        bucket.take(3, second)
    assert bucket.allowed(10.0, 20.0) == pytest.approx(40 + 10)


def test_before_the_first_request_nothing_is_counted_as_allowed() -> None:
    assert Bucket(60).allowed(0.0, 10.0) == 0


def test_before_the_first_arrival_nothing_was_refilled() -> None:
    bucket = Bucket(60, window=10.0)
    bucket.record(5.0)
    bucket.record(6.0)
    assert bucket.allowed(0.0, 6.0) == pytest.approx(11)


def test_a_sliding_window_starts_at_the_given_level() -> None:
    assert SlidingWindow(60, window=10.0, start_level=0.5).level(0.0) == 5


def test_a_sliding_window_keeps_a_debt_while_smaller_spending_comes_back() -> None:
    window = SlidingWindow(60, window=10.0)
    window.take(20, 0.0)
    window.adjust(1, 1.0, taken_at=1.0)
    assert window.level(11.0) == -10
    assert window.level(20.0) == 10


@pytest.mark.parametrize("kind", [Bucket, FixedWindow, SlidingWindow])
def test_available_budget_needs_no_wait(kind: type[Budget]) -> None:
    budget = kind(60, window=10.0)
    budget.take(1, 0.0)
    assert budget.seconds_until(2, 0.0) == 0


def test_only_a_maximum_of_distinct_bodies_is_counted() -> None:
    ledger = Ledger(max_charged=1)
    for body in (b"a", b"b", b"a"):
        ledger.bill(body, delivered=True)
    assert ledger.charged == {b"a".hex(): 2}


def test_the_headers_show_the_limit_of_a_minute_and_what_the_bucket_holds() -> None:
    account = Account(Settings(max_requests_per_minute=600, burst_seconds=1.0, max_tokens_per_minute=6000), now=0.0)
    account.take(1, 50, now=0.0)
    assert account.headers(now=0.0) == {
        "x-ratelimit-limit-requests": "600",
        "x-ratelimit-remaining-requests": "9",
        "x-ratelimit-reset-requests": "100ms",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "50",
        "x-ratelimit-reset-tokens": "500ms",
    }


def test_the_headers_can_hide_a_limit_enforced_by_the_second() -> None:
    account = Account(Settings(max_requests_per_minute=600, burst_seconds=1.0, headers="minute"), now=0.0)
    account.take(10, 0, now=0.0)
    assert account.headers(now=0.0)["x-ratelimit-remaining-requests"] == "590"
    assert account.lack(tokens=0, now=0.0) is not None


def test_the_headers_can_be_left_out() -> None:
    assert Account(Settings(headers="none"), now=0.0).headers(now=0.0) == {}


def test_the_headers_show_the_limit_of_a_day_if_there_is_one() -> None:
    account = Account(Settings(max_requests_per_day=14_400), now=0.0)
    account.take(1, 0, now=0.0)
    shown = account.headers(now=0.0)
    assert shown["x-ratelimit-limit-requests"] == "14400"
    assert shown["x-ratelimit-reset-requests"] == "6s"


def test_the_headers_can_show_the_tokens_of_the_project() -> None:
    account = Account(Settings(max_tokens_per_minute=100, project_headers=True), now=0.0)
    assert account.headers(now=0.0)["x-ratelimit-remaining-project-tokens"] == "100"


def test_the_day_limit_refuses_too() -> None:
    account = Account(Settings(max_requests_per_minute=None, max_requests_per_day=2), now=0.0)
    account.take(2, 0, now=0.0)
    lack = account.lack(tokens=0, now=0.0)
    assert lack is not None
    assert (lack.dimension, lack.span) == ("requests", "day")


def test_a_request_larger_than_the_whole_token_limit_never_fits() -> None:
    lack = Account(Settings(max_tokens_per_minute=100), now=0.0).lack(tokens=101, now=0.0)
    assert lack is not None
    assert lack.seconds is None


def test_a_refused_request_can_use_up_the_rest_of_the_limit() -> None:
    account = Account(Settings(max_requests_per_minute=60, burst_seconds=1.0), now=0.0)
    account.take(1, 0, now=0.0)
    account.take_refused(now=0.9)
    lack = account.lack(tokens=0, now=1.0)
    assert lack is not None
    assert lack.seconds == pytest.approx(0.9)


def test_another_kind_of_window_can_be_set_during_a_run() -> None:
    account = Account(Settings(), now=0.0)
    account.change(Settings(window="sliding"), now=1.0)
    assert isinstance(account.requests, SlidingWindow)


def test_a_limit_can_be_lifted_in_mid_run() -> None:
    account = Account(Settings(max_requests_per_minute=1), now=0.0)
    account.take(1, 0, now=0.0)
    account.change(Settings(max_requests_per_minute=None), now=0.0)
    assert account.lack(tokens=0, now=0.0) is None


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_requests_per_minute", 0),
        ("max_tokens_per_minute", "many"),
        ("burst_seconds", 0),
        ("burst_seconds", float("nan")),
        ("latency", -1),
        ("start_level", 1.5),
        ("fault_500", 1.5),
        ("window", "leaky"),
        ("retry_after", "soon"),
        ("background_load", (1,)),
        ("outage", "now"),
        ("answer_tokens", (5, 2)),
        ("answer_tokens", None),
        ("seed", None),
        ("models", "gpt"),
        ("faulty_attempts", -1),
    ],
)
def test_an_invalid_setting_is_refused_by_name(setting: str, value: object) -> None:
    with pytest.raises(ValueError, match=setting):
        Settings().changed(**{setting: value})


def test_the_probabilities_of_faults_cannot_exceed_one() -> None:
    with pytest.raises(ValueError, match="add up to more than 1"):
        Settings(fault_500=0.6, fault_reset=0.6)
