"""Several models at one account, each with its own limits, and the caller's limits for all. In virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from parallel_openai._client.pool import Member, PoolLimiter
from parallel_openai._limits.admission import LONG, Admissions, model_of, per_minute
from parallel_openai._limits.model_limiters import MOST_MODELS, InUse, ModelLimiters
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._records import APIRequest, Response, Result, Size
from parallel_openai._run.response_verdict import RetryPolicy
from parallel_openai._run.runner import Runner
from parallel_openai.local.simulator.limits.account import Account
from parallel_openai.local.simulator.settings import Settings
from tests.limits.virtual import Rehearsal, VirtualLoop, run_virtually

SMALL = Size(prompt_tokens=50, characters=200, max_output_tokens=20, choices=1)
LARGE = Size(prompt_tokens=2000, characters=8000, max_output_tokens=20, choices=1)
WINDOWS = pytest.mark.parametrize("window", [1.0, 60.0])


class Server:
    """One whose models have limits of their own, or one for all of them, where `shared` is given."""

    def __init__(self, *, shared: dict[str, Any] | None = None, **models: dict[str, Any]) -> None:
        self.loop = VirtualLoop()
        together = None if shared is None else Account(Settings(**shared), now=0.0)
        self.models = {
            name: Rehearsal(Settings(**(shared or settings)), [], seed=seed)
            for seed, (name, settings) in enumerate(models.items(), 1)
        }
        for each in self.models.values():
            each._loop, each._random = self.loop, random.Random(each.seed)
            each._account = together or Account(each.settings, now=0.0)
            each._account.record(0.0)
        self.results: list[Result] = []

    def limiters(self, *given: float, **options: Any) -> ModelLimiters:
        return ModelLimiters(*given, clock=self.loop.time, **options)

    def request(self, model: str, size: Size) -> APIRequest:
        sizes = self.models[model].sizes
        request = APIRequest({"model": model, "n": len(sizes)})
        sizes.append(size)
        request.size = size
        return request

    async def send_by_length(self, request: APIRequest, lease: object = None) -> Response:
        """As a server whose model `m` has another limit for long prompts, called `long` here."""
        return await self.models["long" if "filler" in request.request_json else "m"]._send(request)

    async def send(self, request: APIRequest, lease: object = None) -> Response:
        return await self.models[request.request_json["model"]]._send(request)

    def run(self, limiter: Admissions, *runs: Sequence[tuple[str, Size]], send: Any = None) -> float:
        """So many runs at the same time; gives how long they take."""
        run_virtually(self._run(limiter, runs, send or self.send), self.loop)
        return max(each.last for each in self.models.values())

    async def _run(self, limiter: Admissions, runs: Sequence[Sequence[tuple[str, Size]]], send: Any) -> None:
        await asyncio.gather(*(self._process(limiter, rows, send) for rows in runs))

    def _process(self, limiter: Admissions, rows: Sequence[tuple[str, Size]], send: Any) -> Any:
        self.status = StatusTracker()
        processor = Runner(
            send=send,
            limiter=limiter,
            on_result=self.results.append,
            retry=RetryPolicy(max_wait=1e5, random=random.Random(1).random),
            status=self.status,
            clock=self.loop.time,
        )
        return processor.run([self.request(*row) for row in rows])

    def check_limits_are_used(self, share: float = 0.9) -> None:
        assert {result.status for result in self.results} == {"succeeded"}
        for name, each in self.models.items():
            assert each.utilisation >= share, f"{name}: {each.line()}"
            assert each.refused <= max(3, 0.005 * each.accepted), f"{name}: {each.line()}"


def mixed(rows: dict[tuple[str, Size], int], seed: int = 1) -> list[tuple[str, Size]]:
    lines = [row for row, count in rows.items() for _ in range(count)]
    random.Random(seed).shuffle(lines)
    return lines


@WINDOWS
@pytest.mark.parametrize("together", [True, False], ids=["at the same time", "one after the other"])
def test_each_model_has_its_own_limit(window: float, together: bool) -> None:
    server = Server(
        small={"max_requests_per_minute": 300, "max_tokens_per_minute": 12_000, "burst_seconds": window},
        large={"max_requests_per_minute": 1200, "max_tokens_per_minute": 9_000_000, "burst_seconds": window},
    )
    few, many = [("small", SMALL)] * int(4 * (60 + window)), [("large", LARGE)] * int(20 * (30 + window))
    limiters = server.limiters()
    if together:
        server.run(limiters, few, many)
    else:
        run_virtually(_one_after_the_other(server, limiters, few, many), server.loop)
    server.check_limits_are_used()


async def _one_after_the_other(server: Server, limiters: ModelLimiters, *runs: Sequence[tuple[str, Size]]) -> None:
    for rows in runs:
        await server._run(limiters, [rows], server.send)


@WINDOWS
def test_a_file_whose_lines_name_several_models_uses_each_models_limit(window: float) -> None:
    limits = {"a": 1200.0, "b": 600.0, "c": 120.0}
    server = Server(**{name: {"max_requests_per_minute": rpm, "burst_seconds": window} for name, rpm in limits.items()})
    server.run(server.limiters(), mixed({(name, SMALL): int(rpm / 60 * (60 + window)) for name, rpm in limits.items()}))
    server.check_limits_are_used()


@WINDOWS
def test_a_given_limit_applies_to_all_models_together_and_is_used_up(window: float) -> None:
    generous = {"max_requests_per_minute": 60_000, "headers": "none"}
    server = Server(a=generous, b=generous)
    server.run(server.limiters(600, burst=window), *([(name, SMALL)] * int(5 * (60 + window)) for name in "ab"))
    sends = sorted(at for each in server.models.values() for at, _ in each.sends)
    check_never_above(sends, rate=10.0, burst=10.0 * window)
    assert len(sends) >= 0.95 * 10.0 * sends[-1]
    assert sum(each.refused for each in server.models.values()) == 0


def check_never_above(sends: list[float], *, rate: float, burst: float) -> None:
    """In no span more than the rate brings and the burst allows; a send takes up to 3 ms to come in."""
    for first in range(0, len(sends), 7):
        for last in range(first, len(sends), 7):
            assert last - first + 1 <= burst + rate * (sends[last] - sends[first] + 0.02) + 1e-6


def test_given_tokens_are_shared_fairly_between_small_requests_and_large_ones() -> None:
    """Whoever needs more than there is waits no longer for those of other models than they waited for him."""
    generous = {"max_requests_per_minute": 600_000, "max_tokens_per_minute": 1e9, "headers": "none"}
    server = Server(small=generous, large=generous)
    limiters = server.limiters(600_000, 60_000, burst=1.0)
    server.run(limiters, [("small", SMALL)] * 600, [("large", of_tokens(900))] * 60)
    small, large = server.models["small"], server.models["large"]
    first = min(small.last, large.last)
    both = sum(at <= first for at, _ in small.sends), sum(at <= first for at, _ in large.sends)
    assert min(both) >= 40  # neither has driven the other away


def of_tokens(prompt: int) -> Size:
    return Size(prompt_tokens=prompt, characters=4 * prompt, max_output_tokens=20, choices=1)


@pytest.mark.parametrize("headers", ["enforced", "none"])
@WINDOWS
def test_a_given_limit_enforced_over_all_models_causes_few_refusals(window: float, headers: str) -> None:
    """As those of one family, or all of a key at some gateways: each finds the window, and both keep to the sum."""
    shared = {"max_requests_per_minute": 1200, "burst_seconds": window, "headers": headers}
    server = Server(shared=shared, a={}, b={})
    seconds = server.run(server.limiters(1200), *([(name, SMALL)] * int(10 * (60 + window)) for name in "ab"))
    accepted = sum(each.accepted for each in server.models.values())
    assert accepted >= 0.95 * 20 * (window + seconds)
    assert sum(each.refused for each in server.models.values()) <= 40


def test_a_request_whose_model_has_no_capacity_blocks_no_other_model() -> None:
    server = Server(slow={"max_requests_per_minute": 2, "burst_seconds": 1.0}, fast={"max_requests_per_minute": 6000})
    server.run(server.limiters(), [("slow", SMALL), ("slow", SMALL), *[("fast", SMALL)] * 300, ("slow", SMALL)])
    assert server.models["fast"].last < 10
    assert server.models["slow"].last > 30
    server.check_limits_are_used(share=0.0)


def test_requests_held_back_for_a_model_without_capacity_are_bounded() -> None:
    server = Server(slow={"max_requests_per_minute": 60, "burst_seconds": 1.0}, fast={"max_requests_per_minute": 6000})
    taken = 0

    def rows() -> Iterator[APIRequest]:
        nonlocal taken
        for model in ["fast", *["slow"] * 300]:
            taken += 1
            yield server.request(model, SMALL)

    async def run() -> None:
        results: list[Result] = []
        processor = Runner(
            send=server.send, limiter=server.limiters(), on_result=results.append, max_concurrent_requests=20
        )
        running = asyncio.ensure_future(processor.run(rows()))
        await asyncio.sleep(10)
        assert taken <= 20 + 20 + 15
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    run_virtually(run(), server.loop)


def test_each_account_of_a_pool_keeps_a_limit_for_each_model() -> None:
    limits = {"a": 600, "b": 120}
    servers = [
        Server(**{name: {"max_requests_per_minute": rpm * times} for name, rpm in limits.items()}) for times in (1, 2)
    ]
    first, other = servers
    other.loop.close()
    for name, each in other.models.items():
        each._loop, each.sizes = first.loop, first.models[name].sizes
    pool = PoolLimiter(
        [Member(str(n), first.limiters(), each.send) for n, each in enumerate(servers)], clock=first.loop.time
    )
    rows = mixed({(name, SMALL): int(rpm * 3 * 1.5) for name, rpm in limits.items()})
    first.run(pool, rows, send=pool.send)
    for server in servers:
        server.results = first.results
        server.check_limits_are_used()


def test_the_limits_that_are_shown_are_those_of_the_runs_models_and_no_more_than_was_given() -> None:
    now = 0.0
    limiters = ModelLimiters(clock=lambda: now)
    run = InUse(limiters)
    for model, limit in (("a", 600), ("b", 60), ("of another run", 5)):
        limiters.of(model).requests.set_limit(limit, now)
    assert (run.of("a").requests.limit, per_minute(run.requests)) == (600, 600)
    assert (run.of("b").requests.limit, per_minute(run.requests)) == (60, 660)
    run.of("unknown")
    assert per_minute(run.requests) is None
    assert limiters.requests.limit == 665
    given = ModelLimiters(700, clock=lambda: now)
    assert [given.of(model).requests.limit for model in "ab"] == [700, 700]
    assert given.requests.limit == 700


def test_a_run_counts_only_its_own_waiting() -> None:
    limiters = ModelLimiters(clock=lambda: 0.0)
    limiters.of("a").waited["tokens"] = 7.0
    run = InUse(limiters)
    run.of("a"), run.of("b")
    limiters.of("a").waited["tokens"] += 1.0
    limiters.of("b").waited["tokens"] += 2.0
    assert run.waited["tokens"] == 3.0


def test_a_keys_limits_at_litellm_are_one_limit_for_all_its_models() -> None:
    """Each model learns of it by its own first answers; from then on they share what is left."""
    server = Server(shared={"max_requests_per_minute": 1200}, a={}, b={})

    async def send(request: APIRequest, lease: object = None) -> Response:
        response = await server.send(request)
        shown = {name.replace("ratelimit-", "ratelimit-api_key-"): text for name, text in response.headers.items()}
        return response._replace(headers=shown)

    limiters = server.limiters()
    server.run(limiters, *([(name, SMALL)] * 1200 for name in "ab"), send=send)
    assert limiters.of("a") is limiters.of("b")
    assert limiters.level("requests", "ab").limit == 1200
    assert limiters.in_flight == 0
    assert sum(each.refused for each in server.models.values()) <= 5


def test_an_endless_number_of_model_names_does_not_fill_the_memory() -> None:
    limiters = ModelLimiters(clock=lambda: 0.0)
    assert len({limiters.of(f"model {number}") for number in range(10 * MOST_MODELS)}) == MOST_MODELS + 1
    assert limiters.of("model 0") is not limiters.of("one more")


@pytest.mark.parametrize("first", ["m", "long"])
def test_long_prompts_keep_to_the_limit_that_is_shown_for_them(first: str) -> None:
    server = Server(
        m={"max_requests_per_minute": 600, "max_tokens_per_minute": 100_000},
        long={"max_requests_per_minute": 120, "max_tokens_per_minute": 20_000_000},
    )
    limiters, requests = server.limiters(), []
    for name, rows in sorted({"m": 100, "long": 40}.items(), key=lambda item: item[0] != first):
        for number in range(rows):
            request = APIRequest({"model": "m", "n": number, **({"filler": "x" * 256_000} if name == "long" else {})})
            request.size = of_tokens(200_000 if name == "long" else 500)
            server.models[name].sizes.append(request.size)
            requests.append(request)

    async def run() -> None:
        processor = Runner(
            send=server.send_by_length, limiter=limiters, on_result=server.results.append, clock=server.loop.time
        )
        await processor.run(requests)

    run_virtually(run(), server.loop)
    server.check_limits_are_used(share=0.3)
    long = limiters.of(model_of(requests[0 if first == "long" else -1]))
    assert (long.tokens.limit, limiters.of("m").tokens.limit) == (20_000_000, 100_000)


def test_long_prompts_share_the_models_limiter_once_the_server_shows_the_same_limits_for_them() -> None:
    limiters = ModelLimiters(clock=lambda: 0.0)
    run = InUse(limiters)
    usual, long = "m", f"m{LONG}128,000 tokens"
    shown = {f"x-ratelimit-{part}-requests": "600" for part in ("limit", "remaining")}
    assert run.of(long) is not run.of(usual)
    for model in (usual, long):
        limiter = run.of(model)
        limiter.answered(limiter.at_once(SMALL), shown)
    assert run.of(long) is run.of(usual)


@pytest.mark.parametrize("how", ["deadline", "cancelled", "answered"])
def test_a_run_that_ends_while_models_are_waited_for_leaves_nothing_behind(how: str) -> None:
    slow = {"max_requests_per_minute": 6, "burst_seconds": 1.0}
    server = Server(a=slow, b=slow, fast={"max_requests_per_minute": 6000})
    limiters = server.limiters()
    rows = mixed({("a", SMALL): 10, ("b", SMALL): 10, ("fast", SMALL): 200})

    async def run() -> None:
        processor = Runner(
            send=server.send,
            limiter=limiters,
            on_result=server.results.append,
            retry=RetryPolicy(max_wait=1e5),
            deadline=server.loop.time() + 30 if how == "deadline" else None,
            clock=server.loop.time,
        )
        running = asyncio.ensure_future(processor.run([server.request(*row) for row in rows]))
        if how == "cancelled":
            await asyncio.sleep(30)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        else:
            assert await running == ("finished" if how == "answered" else "deadline")
        assert len(asyncio.all_tasks()) == 2  # this one and its watch

    run_virtually(run(), server.loop)
    assert limiters.in_flight == 0
    assert {result.status for result in server.results} == {"succeeded"}
    assert len(server.results) == 220 if how == "answered" else 202 <= len(server.results) <= 210
