"""A server with limited slots, shared by two models, a pool's accounts or a cluster's workers. In virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping

import pytest

from parallel_openai import APIRequest
from parallel_openai._client.pool import Member, PoolLimiter
from parallel_openai._limits.model_limiters import ModelLimiters
from parallel_openai._ray.leased_slots import LeasedLimiters
from parallel_openai._ray.shared_account import Account, Grant, Report
from parallel_openai._records import Response, Result
from parallel_openai._run.response_verdict import RetryPolicy
from parallel_openai._run.runner import Runner
from tests.limits.virtual import GOOD, VirtualLoop, run_virtually

SLOTS, ROWS = 8, 400
FULL: dict[str, tuple[int, Mapping[str, str]]] = {"503": (503, {}), "429-60": (429, {"retry-after": "60"})}


class FullServer:
    """Takes so many at once; an answer takes about half a second."""

    def __init__(self, loop: VirtualLoop, refusal: tuple[int, Mapping[str, str]]) -> None:
        self.loop, self.refusal = loop, refusal
        self.in_server = self.refused = 0
        self.busy = 0.0
        self._chance = random.Random(3)

    async def send(self, request: APIRequest, lease: object = None) -> Response:
        await asyncio.sleep(self._chance.uniform(0.0002, 0.003))
        if self.in_server >= SLOTS:
            self.refused += 1
            return Response(*self.refusal, b"", None, 0.01)
        seconds = 0.5 * self._chance.lognormvariate(0, 0.6)
        self.in_server, self.busy = self.in_server + 1, self.busy + seconds
        await asyncio.sleep(seconds)
        self.in_server -= 1
        return Response(200, {}, b"{}", GOOD, seconds)


@pytest.mark.parametrize("refusal", FULL.values(), ids=FULL)
@pytest.mark.parametrize("sharing", ["two models", "two accounts"])
def test_clients_sharing_a_full_server_keep_it_full(sharing: str, refusal: tuple[int, Mapping[str, str]]) -> None:
    loop, results = VirtualLoop(), list[Result]()
    server = FullServer(loop, refusal)
    models = ModelLimiters(clock=loop.time)
    members = [Member(name, ModelLimiters(clock=loop.time), server.send) for name in ("one", "two")]
    pool = PoolLimiter(members, clock=loop.time)
    runner = Runner(
        send=pool.send if sharing == "two accounts" else server.send,
        limiter=pool if sharing == "two accounts" else models,
        on_result=results.append,
        clock=loop.time,
    )
    of_models = 2 if sharing == "two models" else 1
    run_virtually(runner.run(APIRequest({"model": f"m{n % of_models}", "n": n}) for n in range(ROWS)), loop)
    assert [result.status for result in results] == ["succeeded"] * ROWS
    assert loop.time() < 1.5 * server.busy / SLOTS
    assert server.refused < 0.1 * ROWS


def test_a_full_server_that_tells_to_wait_for_another_reason_is_heeded() -> None:
    loop, results = VirtualLoop(), list[Result]()
    server, models = FullServer(loop, (503, {"retry-after": "60"})), ModelLimiters(clock=loop.time)

    async def run() -> float:
        await runner().run(APIRequest({"model": "m", "n": n}) for n in range(ROWS))
        server.in_server, began = SLOTS, loop.time()  # so that one request, alone, is refused too
        loop.call_later(30.0, setattr, server, "in_server", 0)
        await runner().run([APIRequest({"model": "m", "n": ROWS})])
        return loop.time() - began

    def runner() -> Runner:
        return Runner(send=server.send, limiter=models, on_result=results.append, clock=loop.time)

    assert run_virtually(run(), loop) > 60.0  # one request at a time is fewer than it takes
    assert models.of("m").most_at_once == pytest.approx(SLOTS, abs=1)
    assert [result.status for result in results] == ["succeeded"] * (ROWS + 1)


@pytest.mark.parametrize(("workers", "at_most"), [(1, 1.3), (2, 1.7)])
@pytest.mark.parametrize("refusal", FULL.values(), ids=FULL)
def test_workers_of_a_cluster_keep_a_full_server_full(
    refusal: tuple[int, Mapping[str, str]], workers: int, at_most: float
) -> None:
    loop, results, chance = VirtualLoop(), list[Result](), random.Random(5)
    server, account = FullServer(loop, refusal), Account(clock=loop.time)

    def runner(worker: str) -> Runner:
        async def ask(model: str | None, requests: int, tokens: float, report: Report) -> Grant:
            await asyncio.sleep(0.002)
            return account.lease(worker, requests, tokens, report)

        limiters = LeasedLimiters(ask, (None, None), clock=loop.time)
        retry = RetryPolicy(random=chance.random)
        return Runner(send=server.send, limiter=limiters, on_result=results.append, retry=retry, clock=loop.time)

    async def run() -> None:
        requests = (APIRequest({"model": "m", "n": n}) for n in range(ROWS))
        await asyncio.gather(*(runner(str(number)).run(requests) for number in range(workers)))

    run_virtually(run(), loop)
    assert [result.status for result in results] == ["succeeded"] * ROWS
    assert loop.time() < at_most * server.busy / SLOTS  # each of several workers sees only a part of what is in flight
    assert server.refused < 0.1 * ROWS
