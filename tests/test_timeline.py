"""What a run's timeline records, and that it stays small; on a fake clock."""

from __future__ import annotations

import random
from typing import Any

import pytest

from parallel_openai._limits.limiter import Limiter
from parallel_openai._limits.sizes import NO_SIZE
from parallel_openai._progress.cap_advice import SmallerCap
from parallel_openai._progress.timeline import MOST_SIZES, MOST_SLICES, Histogram, SizeSample, Timeline
from parallel_openai._records import APIRequest, Response, Size
from parallel_openai._requests.endpoints import usage_of
from parallel_openai._run.response_verdict import judge
from parallel_openai.local.simulator.settings import Settings
from tests.limits.virtual import Rehearsal

OK = Response(200, {}, b"{}", {"usage": {"prompt_tokens": 30, "completion_tokens": 12}}, 0.25)


def asked(**params: Any) -> APIRequest:
    return APIRequest({"model": "m", **params})


def refusal(code: str, kind: str | None = None) -> Response:
    return Response(429, {}, b"", {"error": {"code": code, "type": kind, "message": "No."}}, 0.01)


def came(timeline: Timeline, response: Response, at: float = 1.0) -> None:
    verdict = judge(response, reached=True)
    if verdict.kind == "done":
        timeline.answered(at, at, asked(), "m", NO_SIZE, response.seconds, usage_of(response.data))
    else:
        timeline.failed(at, response.status, verdict)


def test_each_second_counts_what_happened_in_it() -> None:
    timeline = Timeline()
    timeline.sent(100.2)
    timeline.sent(102.7)
    timeline.answered(100.2, 102.9, asked(), "m", NO_SIZE, OK.seconds, usage_of(OK.data))
    came(timeline, Response(500, {}, b"", None, 0.1), at=103.0)
    counts = [(each.sent, each.answered, each.failed, each.tokens_used) for each in timeline.slices]
    assert counts == [(1, 0, 0, 0), (0, 0, 0, 0), (1, 1, 0, 42), (0, 0, 1, 0)]


def test_a_run_of_days_stays_small_and_loses_no_count() -> None:
    timeline = Timeline()
    for second in range(0, 3 * 86_400, 20):
        timeline.sent(float(second))
    assert len(timeline.slices) <= MOST_SLICES
    assert sum(each.sent for each in timeline.slices) == 3 * 86_400 / 20
    assert timeline.width == 256.0


def test_merged_slices_keep_the_later_limit() -> None:
    timeline, limiter = Timeline(), Limiter(600, clock=lambda: 0.0)
    timeline.begin(limiter, 0.0)
    timeline.sent(0.0)
    limiter.requests.set_limit(300, 0.0)
    timeline.sent(1.0)
    timeline.sent(MOST_SLICES + 1.0)
    limits = [requests for requests, _ in timeline.limits()]
    assert (timeline.width, limits[0], limits[-1]) == (2.0, 300, 300)


def test_an_answer_without_usage_counts_as_an_answer() -> None:
    timeline = Timeline()
    came(timeline, Response(200, {}, b"{}", {}, 0.2))
    assert [(each.answered, each.tokens_used) for each in timeline.slices] == [(1, 0)]


def test_a_long_pause_is_not_counted_as_working_time() -> None:
    timeline = Timeline()
    timeline.sent(0.0)
    timeline.sent(1e7)
    assert len(timeline.slices) <= MOST_SLICES
    assert sum(each.sent for each in timeline.slices) == 2


@pytest.mark.parametrize(
    ("response", "why"),
    [
        (refusal("rate_limit_exceeded", "requests"), "requests"),
        (refusal("rate_limit_exceeded", "tokens"), "tokens"),
        (refusal("rate_limit_exceeded"), "unknown"),
        (refusal("slow_down"), "slow_down"),
        (refusal("insufficient_quota"), "quota"),
    ],
)
def test_refusals_are_counted_by_cause(response: Response, why: str) -> None:
    timeline = Timeline()
    came(timeline, response)
    assert dict(timeline.refusals) == {why: 1}


def test_percentiles_are_accurate_to_a_few_percent() -> None:
    chance, histogram = random.Random(3), Histogram()
    seconds = sorted(chance.lognormvariate(0, 1) for _ in range(20_000))
    for each in seconds:
        histogram.add(each)
    for share in (0.5, 0.9, 0.99):
        assert histogram.percentile(share) == pytest.approx(seconds[int(share * len(seconds)) - 1], rel=0.04)
    assert histogram.percentile(1.0) == histogram.longest == seconds[-1]


def test_without_answers_there_is_no_percentile() -> None:
    assert Histogram().percentile(0.5) == 0.0


def test_the_sample_of_sizes_is_bounded_and_uniform() -> None:
    sizes = SizeSample()
    for number in range(10_000):
        sizes.add(asked(max_tokens=100), "m", Size(number, 0, 100, 1), output=5)
    assert MOST_SIZES / 2 <= len(sizes.kept) <= MOST_SIZES
    assert sum(size.prompt_tokens for size in sizes.kept) / len(sizes.kept) == pytest.approx(5000, rel=0.05)
    assert (sizes.cap, sizes.answers, sizes.longest_output) == ("max_tokens", 10_000, 5)


def test_a_request_without_a_cap_is_not_in_the_sample() -> None:
    timeline = Timeline()
    timeline.answered(0.0, 1.0, asked(), "m", Size(9, 36, None, 1), OK.seconds, usage_of(OK.data))
    assert timeline._sizes.answers == 0


def test_the_timeline_of_a_run_without_sends_is_empty() -> None:
    timeline, limiter = Timeline(), Limiter(60, clock=lambda: 5.0)
    timeline.begin(limiter, 5.0)
    timeline.end(6.0, max_concurrent_requests=10)
    assert (timeline.slices, timeline.utilisation(), timeline.seconds, timeline.advice) == ([], {}, 1.0, None)


def test_a_daily_limit_is_not_shown_as_a_rate() -> None:
    timeline, limiter = Timeline(), Limiter(clock=lambda: 0.0)
    limiter.requests.set_limit(10_000, 0.0, period=86_400.0)
    timeline.begin(limiter, 0.0)
    timeline.sent(0.0)
    assert timeline.slices[0].max_requests_per_minute is None


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["in order", "the later one first"])
def test_utilisation_does_not_depend_on_the_order_of_the_workers_reports(order: tuple[int, ...]) -> None:
    timeline, limiter = Timeline(), Limiter(60, clock=lambda: 0.0)
    timeline.begin(limiter, 0.0)
    told = [(0.0, 1.0), (5.0, 10.0)]
    for number in order:
        timeline.sent(told[number][0])
    for number in order:
        came(timeline, OK, at=told[number][1])
    assert timeline.utilisation() == {"requests": 0.2}  # 2 of the 10 that 10 s allow


def test_two_intervals_of_work_add_up() -> None:
    timeline, limiter = Timeline(), Limiter(60, clock=lambda: 0.0)
    limiter.waited["tokens"] = 7.0  # of a run before
    for began, ended in ((0.0, 2.0), (10.0, 13.0)):
        timeline.begin(limiter, began)
        limiter.waited["tokens"] += 1.5
        timeline.end(ended, max_concurrent_requests=10)
    assert timeline.seconds == 5.0
    assert timeline.waited["tokens"] == 3.0


def rehearse(cap: int, count: int = 400, answer: int = 41, **options: Any) -> tuple[Timeline, Rehearsal]:
    settings: dict[str, Any] = {
        "max_requests_per_minute": 6000,
        "max_tokens_per_minute": 60_000,
        "burst_seconds": 10.0,
        "counting": "prompt_plus_max_output",
    }
    settings.update(options)
    sizes = [Size(30, 120, cap, 1)] * count
    limits = {name: settings[f"max_{name}"] for name in ("requests_per_minute", "tokens_per_minute")}
    run = Rehearsal(
        Settings(**settings), sizes, [answer] * count, limiter_options={f"max_{k}": v for k, v in limits.items()}
    ).run()
    return run.status.timeline, run


def test_a_fully_used_token_limit_shows_full_utilisation_and_waits() -> None:
    timeline, run = rehearse(cap=500)
    assert timeline.utilisation()["tokens"] == pytest.approx(1.05, abs=0.06)  # 10 s of the limit came as a burst
    assert timeline.utilisation()["requests"] < 0.1
    assert timeline.waited["tokens"] > 0.9 * run.wall
    assert sum(timeline.waited.values()) <= timeline.seconds


@pytest.mark.parametrize("counting", ["prompt_plus_max_output", "max_output_or_characters"])
def test_the_proposed_smaller_cap_gives_the_promised_speedup(counting: str) -> None:
    timeline, slow = rehearse(cap=500, counting=counting)
    advice = timeline.advice
    assert isinstance(advice, SmallerCap)
    assert (advice.tokens, advice.longest, advice.reserved) == (70, 41, 500)
    _, fast = rehearse(cap=advice.tokens, counting=counting)
    assert slow.wall / fast.wall == pytest.approx(advice.times, rel=0.2)


def test_the_promised_speedup_accounts_for_the_other_limit() -> None:
    timeline, slow = rehearse(cap=500, max_requests_per_minute=300)
    assert timeline.advice is not None
    _, fast = rehearse(cap=timeline.advice.tokens, max_requests_per_minute=300)
    assert slow.wall / fast.wall == pytest.approx(timeline.advice.times, rel=0.2)


@pytest.mark.parametrize(
    "options",
    [
        {"cap": 80},
        {"cap": 500, "count": 29},
        {"cap": 500, "max_tokens_per_minute": None},
        {"cap": 500, "max_tokens_per_minute": 10_000_000},
        {"cap": 500, "max_requests_per_minute": 120},
    ],
    ids=["a tight cap", "few answers", "no token limit", "no waiting for tokens", "the requests bind"],
)
def test_no_smaller_cap_is_proposed_if_it_would_not_help(options: dict[str, Any]) -> None:
    timeline, _ = rehearse(**options)
    assert timeline.advice is None


def test_no_smaller_cap_is_proposed_if_the_server_charges_actual_usage() -> None:
    limiter, timeline = Limiter(None, 6000, clock=lambda: 0.0), Timeline()
    limiter.counting.rule = 4
    timeline.begin(limiter, 0.0)
    for _ in range(40):
        timeline.sent(0.0)
        timeline.answered(0.0, 1.0, asked(), "m", Size(30, 120, 500, 1), OK.seconds, usage_of(OK.data))
    limiter.waited["tokens"] += 9.0
    timeline.end(10.0, max_concurrent_requests=10)
    assert timeline.advice is None
    assert timeline.slices[0].tokens_charged == 40 * 42
