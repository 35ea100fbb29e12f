"""The limiter in virtual time, against the simulator's own account."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parallel_openai._limits.cost import RULES
from parallel_openai._limits.limiter import Lease, Limiter
from parallel_openai._records import Size, Usage
from parallel_openai.local.simulator.settings import Settings
from tests.limits.virtual import Rehearsal, VirtualLoop, run_virtually

SMALL = Size(prompt_tokens=50, characters=200, max_output_tokens=20, choices=1)
REQUESTS = 6000.0
TOKENS = 300_000.0


def rehearse(rows: int = 6000, **options: Any) -> Rehearsal:
    account = {"max_requests_per_minute": REQUESTS, **options.pop("account", {})}
    return Rehearsal(Settings(**account), [SMALL] * rows, **options).run()


def per_thousand(run: Rehearsal) -> float:
    return 1000 * run.refused / run.accepted


@pytest.mark.parametrize("window", [1.0, 10.0, 60.0])
@pytest.mark.parametrize(
    ("headers", "given", "utilisation", "refusals"),
    [
        pytest.param("enforced", True, 0.985, 0.5, id="given"),
        pytest.param("none", True, 0.985, 0.5, id="given-without-headers"),
        pytest.param("enforced", False, 0.97, 2.0, id="from-headers"),
        pytest.param("minute", False, 0.97, 2.0, id="from-headers-that-hide-the-window"),
        pytest.param("none", False, 0.85, 30.0, id="nothing-known"),
    ],
)
def test_the_whole_request_limit_is_used(
    window: float, headers: str, given: bool, utilisation: float, refusals: float
) -> None:
    known = {"max_requests_per_minute": REQUESTS} if given else {}
    run = rehearse(
        rows=int(REQUESTS / 60 * (60 + window)),
        account={"burst_seconds": window, "headers": headers},
        limiter_options=known,
    )
    assert run.utilisation >= utilisation
    assert per_thousand(run) <= refusals


@pytest.mark.parametrize("share", [0.02, 0.1])
@pytest.mark.parametrize(
    ("headers", "given", "utilisation"),
    [
        pytest.param("none", True, 0.9, id="given"),
        pytest.param("enforced", False, 0.9, id="from-headers"),
        pytest.param("none", False, 0.9, id="nothing-known"),
    ],
)
def test_refusals_without_cause_do_not_slow_a_run_down(
    headers: str, given: bool, utilisation: float, share: float
) -> None:
    account = {"burst_seconds": 1.0, "headers": headers, "fault_429": share}
    known = {"max_requests_per_minute": REQUESTS} if given else {}
    run = rehearse(rows=6000, account=account, limiter_options=known)
    assert run.without_cause > 80
    assert run.accepted == 6000
    assert run.utilisation >= utilisation
    assert run.refused - run.without_cause <= 0.015 * run.accepted


def mixed_rows(count: int) -> list[Size]:
    chance = random.Random(3)
    prompts = [chance.randint(20, 120) for _ in range(count)]
    return [Size(prompt, prompt * 4, chance.choice([16, 64, 200]), 1) for prompt in prompts]


@pytest.mark.parametrize("window", [1.0, 10.0, 60.0])
@pytest.mark.parametrize("counting", ["max_output_or_characters", "prompt_plus_max_output_times_n"])
def test_the_whole_token_limit_is_used_when_the_maximum_is_charged(counting: str, window: float) -> None:
    account = Settings(
        max_requests_per_minute=None, max_tokens_per_minute=TOKENS, burst_seconds=window, counting=counting
    )
    run = Rehearsal(account, mixed_rows(3000)).run()
    assert run.utilisation >= 0.97
    assert per_thousand(run) <= 2.0


@pytest.mark.parametrize("counting", ["actual_usage", "settled"])
def test_tokens_that_answers_did_not_use_are_available_again(counting: str) -> None:
    account = Settings(max_requests_per_minute=None, max_tokens_per_minute=TOKENS, counting=counting)
    rows = mixed_rows(6000)
    chance = random.Random(5)
    run = Rehearsal(account, rows, outputs=[chance.randint(3, 15) for _ in rows]).run()
    assert RULES[run.limiter.counting.rule].settles
    assert run.utilisation >= 0.95
    assert per_thousand(run) <= 2.0


@pytest.mark.parametrize("window", [1.0, 60.0])
def test_a_limit_halved_during_a_run_is_followed(window: float) -> None:
    rows = int(REQUESTS / 60 * (40 + window))
    run = rehearse(rows, account={"burst_seconds": window}, changes=[(20.0, {"max_requests_per_minute": REQUESTS / 2})])
    assert run.utilisation >= 0.95
    assert per_thousand(run) <= 5.0


@pytest.mark.parametrize(("large", "small"), [(123_456_789.0, 3), (1e12, 1), (1e12, 60)])
def test_a_limit_that_shrinks_a_millionfold_causes_no_polling(large: float, small: float) -> None:
    """The books' figures are so large then that what comes in within a millisecond is lost in them."""
    now, turns = 0.0, 0
    limiter = Limiter(clock=lambda: now)
    for limit, left in ((large, 0.7 * large), (small, small)):
        lease = limiter.take(SMALL)
        assert lease is not None
        now += 0.5
        shown = {"x-ratelimit-limit-requests": repr(limit), "x-ratelimit-remaining-requests": repr(left)}
        limiter.answered(lease, shown)
    for _ in range(10):
        while (lease := limiter.take(SMALL)) is None:
            now += limiter.delay(SMALL)[0]
            turns += 1
            assert turns < 1000
        limiter.answered(lease, {})


def test_a_limit_that_shrinks_to_almost_nothing_leaves_no_false_debt() -> None:
    """Between a send and its answer the books had gathered what the old limit gave."""
    now = 0.0
    limiter = Limiter(clock=lambda: now)
    first, second = limiter.take(SMALL), limiter.take(SMALL)
    assert first is not None
    assert second is not None
    now = 0.1
    limiter.answered(first, {"x-ratelimit-limit-requests": "600000", "x-ratelimit-remaining-requests": "0"})
    now = 0.7
    third = limiter.take(SMALL)
    assert third is not None
    now = 0.8
    limiter.answered(third, {"x-ratelimit-limit-requests": "1", "x-ratelimit-remaining-requests": "0"})
    assert limiter.delay(SMALL)[0] == pytest.approx(67, abs=2)  # one comes in a minute, a tenth of that is in doubt


@pytest.mark.parametrize("window", [1.0, 60.0])
def test_another_clients_use_of_a_third_of_the_limit_is_noticed(window: float) -> None:
    rows = int(REQUESTS / 60 * (40 + window))
    run = rehearse(rows, account={"burst_seconds": window, "background_load": (REQUESTS / 3, 0.0)})
    assert run.utilisation >= 0.95
    assert per_thousand(run) <= 5.0


def test_a_bucket_half_empty_at_the_start_is_recognised() -> None:
    run = rehearse(rows=9000, account={"start_level": 0.5})
    assert run.refused == 0
    assert run.utilisation >= 0.98


def test_refused_requests_that_are_charged_cost_little() -> None:
    run = rehearse(rows=6100, account={"burst_seconds": 1.0, "charge_refused": True})
    assert run.utilisation >= 0.97
    assert per_thousand(run) <= 2.0


def test_a_daily_limit_is_not_mistaken_for_one_per_minute() -> None:
    account = Settings(max_requests_per_minute=None, max_requests_per_day=14_400)
    run = Rehearsal(account, [SMALL] * 500).run()
    assert run.limiter.requests.shown_rate == pytest.approx(14_400 / 86_400)


def test_five_thousand_rows_under_ten_thousand_a_minute_take_seconds() -> None:
    assert rehearse(rows=5000, account={"max_requests_per_minute": 10_000}).wall < 12


@pytest.mark.parametrize("retry_after", ["seconds", "exact", "ms", "none"])
def test_the_limit_of_a_server_that_shows_nothing_is_found_whatever_its_retry_after(retry_after: str) -> None:
    run = rehearse(rows=4000, account={"headers": "none", "retry_after": retry_after, "burst_seconds": 10.0})
    assert run.utilisation >= 0.85
    assert per_thousand(run) <= 30


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("latency", [0.3, 2.0])
@pytest.mark.parametrize("retry_after", ["seconds", "none"])
def test_a_hidden_slow_limit_is_rarely_probed(retry_after: str, latency: float, seed: int) -> None:
    account = Settings(max_requests_per_minute=60.0, burst_seconds=10.0, headers="none", retry_after=retry_after)
    run = Rehearsal(account, [SMALL] * 300, latency=latency, seed=seed).run()
    late = [at for at in run.refusals if at > 60.0]
    assert len(late) <= 0.04 * (300 - 60)
    assert run.utilisation >= 0.98


@pytest.mark.parametrize("latency", [0.05, 0.5, 2.0])
def test_a_sliding_window_shown_as_a_bucket_is_not_filled_at_once_after_each_wait(latency: float) -> None:
    account = {"max_requests_per_minute": 600, "window": "sliding", "headers": "minute", "retry_after": "exact"}
    run = rehearse(rows=1320, account=account, latency=latency)
    assert run.last < 1.1 * 132
    assert per_thousand(run) <= 25


def test_a_given_limit_below_the_servers_is_kept() -> None:
    run = rehearse(rows=1500, limiter_options={"max_requests_per_minute": 600})
    assert run.limiter.requests.limit == 600
    assert run.wall == pytest.approx((1500 - 600) / 10, rel=0.1)


def test_burst_sets_the_window() -> None:
    run = rehearse(rows=700, limiter_options={"max_requests_per_minute": 6000, "burst": 1.0})
    at_once = sum(1 for at, _ in run.sends if at < 0.1)
    assert at_once <= 110
    assert run.wall >= 5.9


async def acquire_all(limiter: Limiter, sizes: list[Size], order: list[int], sent: list[tuple[float, float]]) -> None:
    loop = asyncio.get_running_loop()

    async def one(number: int, size: Size) -> Lease:
        lease = await limiter.acquire(size)
        order.append(number)
        sent.append((loop.time(), float(size.prompt_tokens + size.choices * (size.max_output_tokens or 0))))
        return lease

    await asyncio.gather(*(one(number, size) for number, size in enumerate(sizes)))


SIZES = st.lists(
    st.builds(
        Size,
        prompt_tokens=st.integers(1, 2000),
        characters=st.integers(0, 8000),
        max_output_tokens=st.one_of(st.none(), st.integers(1, 2000)),
        choices=st.integers(1, 3),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=SIZES,
    requests=st.floats(1, 10_000),
    tokens=st.floats(100, 1_000_000),
    burst=st.floats(0.5, 60),
)
def test_no_window_ever_gets_more_than_the_budget_and_all_wake_in_order(
    sizes: list[Size], requests: float, tokens: float, burst: float
) -> None:
    loop = VirtualLoop()
    limiter = Limiter(requests, tokens, burst=burst, clock=loop.time)
    order: list[int] = []
    sent: list[tuple[float, float]] = []
    run_virtually(acquire_all(limiter, sizes, order, sent), loop, within=1e7)

    assert order == list(range(len(sizes)))
    room = max(1.0, requests / 60 * burst)
    token_room = max(1.0, tokens / 60 * burst)
    for first in range(len(sent)):
        charged = 0.0
        for last in range(first, len(sent)):
            at, cost = sent[last]
            span = at - sent[first][0]
            assert last - first + 1 <= room + requests / 60 * (span + 0.011) + 1e-6
            # One request larger than the window is let through when the window is whole, and is paid off then.
            if charged > 0:
                assert charged + min(cost, token_room) <= token_room + tokens / 60 * (span + 0.011) + 1e-6
            charged = charged + cost if cost <= token_room else float("-inf")


@settings(max_examples=40, deadline=None)
@given(
    sizes=SIZES,
    requests=st.one_of(st.none(), st.floats(300, 6000)),
    tokens=st.one_of(st.none(), st.floats(20_000, 1_000_000)),
    window=st.sampled_from([1.0, 10.0, 60.0]),
    kind=st.sampled_from(["bucket", "fixed", "sliding"]),
    headers=st.sampled_from(["enforced", "minute", "none"]),
    retry_after=st.sampled_from(["seconds", "exact", "ms", "none", 60]),
    latency=st.floats(0.01, 30),
    others=st.sampled_from([0.0, 0.3, 0.6]),
    seed=st.integers(0, 100),
)
def test_every_row_is_answered_whatever_the_server_does(
    sizes: list[Size],
    requests: float | None,
    tokens: float | None,
    window: float,
    kind: str,
    headers: str,
    retry_after: Any,
    latency: float,
    others: float,
    seed: int,
) -> None:
    account = Settings(
        max_requests_per_minute=requests,
        max_tokens_per_minute=tokens,
        burst_seconds=window,
        window=kind,
        headers=headers,
        retry_after=retry_after,
        background_load=((requests or 0.0) * others, (tokens or 0.0) * others),
    )
    fitting = [
        size for size in sizes if size.characters / 4 < 10_000 and size.choices * (size.max_output_tokens or 0) < 10_000
    ]
    run = Rehearsal(account, fitting, latency=latency, seed=seed).run()
    given_up = [result for result in run.results if result.error_code == "request_too_large"]
    if headers != "none" or retry_after != "none":
        assert not given_up  # a server that tells nothing at all refuses what never fits in the same way
    assert run.accepted + len(given_up) == len(fitting)
    assert run.limiter.in_flight == 0
    assert len(run.results) == len(fitting)


def test_a_huge_row_delays_the_others_only_by_its_own_cost() -> None:
    loop = VirtualLoop()
    limiter = Limiter(None, 60_000, burst=60.0, clock=loop.time)
    order: list[int] = []
    sent: list[tuple[float, float]] = []
    small, huge = Size(500, 2000, 500, 1), Size(20_000, 80_000, 10_000, 1)
    sizes = [small] * 60 + [huge] + [small] * 10
    run_virtually(acquire_all(limiter, sizes, order, sent), loop)
    assert order == list(range(71))
    assert sent[60][0] - sent[59][0] <= 31  # its 30,000 tokens come in at 1,000 a second
    assert sent[70][0] - sent[60][0] <= 11


def test_queued_requests_cause_no_wakeups() -> None:
    loop = VirtualLoop()
    limiter = Limiter(60, None, burst=1.0, clock=loop.time)
    readings = 0

    def counting_clock() -> float:
        nonlocal readings
        readings += 1
        return loop.time()

    limiter.clock = counting_clock
    run_virtually(acquire_all(limiter, [SMALL] * 100, [], []), loop)
    assert readings <= 6 * 100


@pytest.mark.parametrize("headers", ["enforced", "none"])
def test_a_row_that_can_never_fit_fails_and_the_others_go_on(headers: str) -> None:
    account = Settings(max_requests_per_minute=None, max_tokens_per_minute=5000, headers=headers, retry_after="none")
    too_large = Size(100, 400, 6000, 1)
    run = Rehearsal(account, [SMALL] * 5 + [too_large] + [SMALL] * 20).run()
    assert run.accepted == 25
    assert [result.error_code for result in run.results if result.status == "failed"] == ["request_too_large"]
    assert run.wall < 120


@pytest.mark.parametrize("headers", ["enforced", "none"])
def test_a_row_that_must_wait_for_other_users_is_not_failed(headers: str) -> None:
    account = Settings(
        max_requests_per_minute=None,
        max_tokens_per_minute=20_000,
        burst_seconds=10.0,
        headers=headers,
        retry_after="exact",
        background_load=(0.0, 12_000),
    )
    large = Size(1, 0, 1132, 3)  # a whole window, and the server says each time that it lacks a few more milliseconds
    sizes = [SMALL, large, Size(13, 277, None, 1), SMALL, Size(1, 2277, None, 1), SMALL]
    run = Rehearsal(account, sizes, latency=1.0, seed=0).run()
    assert [result.status for result in run.results] == ["succeeded"] * 6
    assert run.wall < 60


def test_a_row_whose_prompt_alone_exceeds_the_limit_is_not_sent() -> None:
    account = Settings(max_requests_per_minute=None, max_tokens_per_minute=5000)
    run = Rehearsal(account, [Size(6000, 24_000, None, 1)], limiter_options={"max_tokens_per_minute": 5000}).run()
    assert (run.accepted, run.refused) == (0, 0)
    assert run.results[0].error_code == "request_too_large"


@pytest.mark.parametrize("usage", [Usage(90, 5), None], ids=["as it says", "by our count"])
def test_a_shown_limit_below_a_just_accepted_prompt_is_ignored(usage: Usage | None) -> None:
    now = [0.0]
    limiter = Limiter(clock=lambda: now[0])
    lease = limiter.at_once(Size(90, 360, 10, 1))
    assert lease is not None
    limiter.answered(lease, {"x-ratelimit-limit-tokens": "1", "x-ratelimit-remaining-tokens": "1"}, usage)
    assert not limiter.never_fits(lease.size)
    assert limiter.delay(lease.size)[0] < 1.0


def test_a_request_refused_for_its_content_proves_no_limit() -> None:
    limiter = Limiter(clock=lambda: 0.0)
    shown = {"x-ratelimit-limit-tokens": "20000", "x-ratelimit-remaining-tokens": "20000"}
    huge = limiter.at_once(Size(1600, 6400, 40, 1))
    small = limiter.at_once(SMALL)
    assert huge is not None
    assert small is not None
    limiter.answered(huge, {}, worked=False)
    limiter.answered(small, shown)
    sent = iter(lambda: limiter.at_once(SMALL), None)
    assert sum(1 for _ in sent) <= 16  # else the limit's window might be of a second, and all the others be refused


@pytest.mark.parametrize("seed", range(1, 6))
def test_a_large_request_waits_no_longer_than_the_bucket_takes_to_fill(seed: int) -> None:
    account = Settings(
        max_tokens_per_minute=60_000,
        max_requests_per_minute=6_000,
        burst_seconds=4.0,
        start_level=0.0,
        headers="minute",
    )
    sizes = [Size(tokens, 4 * tokens, 0, 1) for tokens in (4_000, *[100] * 40)]
    run = Rehearsal(account, sizes, latency=0.1, sigma=0.1, seed=seed).run()
    assert run.accepted == 41
    assert run.last < 1.3 * 8.0  # 8,000 tokens at 1,000 a second
