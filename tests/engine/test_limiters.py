"""Several models at one account, each with limits of its own, in virtual time; and what the caller gave over all."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest

from parallel_openai.engine.gate import Gates
from parallel_openai.engine.limiters import Limiters
from parallel_openai.engine.processor import Processor
from parallel_openai.engine.retry import RetryPolicy
from parallel_openai.engine.status import StatusTracker
from parallel_openai.local.simulator.account import Account
from parallel_openai.local.simulator.settings import Settings
from parallel_openai.records import APIRequest, Response, Result, Size
from tests.engine.virtual import Rehearsal, VirtualLoop, run_virtually

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

    def limiters(self, *given: float, **options: Any) -> Limiters:
        return Limiters(*given, clock=self.loop.time, **options)

    def request(self, model: str, size: Size) -> APIRequest:
        sizes = self.models[model].sizes
        request = APIRequest({"model": model, "n": len(sizes)})
        sizes.append(size)
        request.size = size
        return request

    async def send(self, request: APIRequest, lease: object = None) -> Response:
        return await self.models[request.request_json["model"]]._send(request)

    def run(self, limiter: Gates, *runs: Sequence[tuple[str, Size]], send: Any = None) -> float:
        """So many runs at the same time; gives how long they take."""
        run_virtually(self._run(limiter, runs, send or self.send), self.loop)
        return max(each.last for each in self.models.values())

    async def _run(self, limiter: Gates, runs: Sequence[Sequence[tuple[str, Size]]], send: Any) -> None:
        await asyncio.gather(*(self._process(limiter, rows, send) for rows in runs))

    def _process(self, limiter: Gates, rows: Sequence[tuple[str, Size]], send: Any) -> Any:
        self.status = StatusTracker()
        processor = Processor(
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
def test_a_small_models_limit_is_not_the_large_models(window: float, together: bool) -> None:
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


async def _one_after_the_other(server: Server, limiters: Limiters, *runs: Sequence[tuple[str, Size]]) -> None:
    for rows in runs:
        await server._run(limiters, [rows], server.send)


@WINDOWS
def test_a_file_whose_lines_name_several_models_uses_each_models_limit(window: float) -> None:
    limits = {"a": 1200.0, "b": 600.0, "c": 120.0}
    server = Server(**{name: {"max_requests_per_minute": rpm, "burst_seconds": window} for name, rpm in limits.items()})
    server.run(server.limiters(), mixed({(name, SMALL): int(rpm / 60 * (60 + window)) for name, rpm in limits.items()}))
    server.check_limits_are_used()
