"""Workers that share a server which takes so many requests at once: in virtual time."""

from __future__ import annotations

import asyncio

from parallel_openai import APIRequest
from parallel_openai._limits.limiter import Limiter
from parallel_openai._ray.leased_slots import LeasedLimiter
from parallel_openai._ray.shared_account import Account, Grant, Report
from parallel_openai._records import Response, Result
from parallel_openai._run.runner import Runner
from tests.limits.virtual import GOOD, VirtualLoop, run_virtually

SLOTS, ROWS, WORKERS = 8, 300, 2


class FullServer:
    """Takes so many at once and refuses more with 503."""

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.account = Account(clock=self.loop.time)
        self.in_server = self.refused = 0
        self.results: list[Result] = []

    async def send(self, request: APIRequest, lease: object) -> Response:
        await asyncio.sleep(0.001)
        if self.in_server >= SLOTS:
            self.refused += 1
            return Response(503, {}, b"", None, 0.01)
        self.in_server += 1
        await asyncio.sleep(0.5)
        self.in_server -= 1
        return Response(200, {}, b"{}", GOOD, 0.5)

    async def ask(self, requests: int, tokens: float, report: Report) -> Grant:
        self.account.take_in(report)
        return self.account.lease("worker", requests, tokens)

    async def work(self, limiter: Limiter) -> None:
        runner = Runner(send=self.send, limiter=limiter, on_result=self.results.append, clock=self.loop.time)
        await runner.run(APIRequest({"n": number}) for number in range(ROWS))

    async def run(self) -> None:
        limiters = [LeasedLimiter(self.ask, clock=self.loop.time) for _ in range(WORKERS)]
        await asyncio.gather(*map(self.work, limiters))


def test_workers_find_how_much_of_a_full_server_is_theirs() -> None:
    server = FullServer()
    run_virtually(server.run(), server.loop)
    assert [result.status for result in server.results] == ["succeeded"] * WORKERS * ROWS
    assert server.refused < WORKERS * ROWS  # 2,664 where nobody looks for it
    assert server.loop.time() < 2.0 * WORKERS * ROWS / SLOTS * 0.5
