"""Runs of several models at once against limits that no header shows, in virtual time."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from parallel_openai._limits.model_limiters import ModelLimiters
from parallel_openai._records import APIRequest, Response, Size
from parallel_openai._run.response_verdict import RetryPolicy
from parallel_openai._run.runner import Runner
from parallel_openai.local.simulator.limits.account import Account
from tests.limits.virtual import Rehearsal, VirtualLoop, run_virtually

SMALL = Size(prompt_tokens=50, characters=200, max_output_tokens=20, choices=1)
#: Until the models together have this many answers, they may search.
SEARCHED = 200


@dataclass
class ModelRun:
    """The rows of one model, and when its run starts."""

    rows: int
    starts: float = 0.0


@dataclass
class SeveralModels:
    """Runs of several models through one client: at a key that limits them together, or each with its own limit.

    With `mixed`, the models' rows come shuffled in a single run, as from a file. With `parts_at`, all share the
    first limit until that time.
    """

    servers: list[Rehearsal]  # one, which all share, or one for each model
    models: list[ModelRun]
    mixed: bool = False
    seed: int = 1
    parts_at: float = float("inf")
    answered: int = 0
    refused: int = 0  # those after the search
    without_cause: int = 0
    wall: float = 0.0

    def run(self) -> SeveralModels:
        loop = self._loop = VirtualLoop()
        for number, server in enumerate(self.servers):
            server._loop, server._random = loop, random.Random(100 * self.seed + number)
            server._account = Account(server.settings, now=0.0)
            server._account.record(0.0)
            server.sizes = [SMALL]
        self.limiters = ModelLimiters(clock=loop.time)
        run_virtually(self._run(), loop)
        self.wall = max(server.last for server in self.servers)
        return self

    @property
    def accepted(self) -> int:
        """The answers after the search."""
        return max(1, self.answered - SEARCHED)

    @property
    def utilisation(self) -> float:
        """What was used of the common limit, or the mean for those of each model."""
        return sum(server.utilisation for server in self.servers) / len(self.servers)

    async def _run(self) -> None:
        rows = [model for model, run in enumerate(self.models) for _ in range(run.rows)]
        if self.mixed:
            random.Random(self.seed).shuffle(rows)
            await self._process(rows, 0.0)
        else:
            await asyncio.gather(
                *(self._process([model] * run.rows, run.starts) for model, run in enumerate(self.models))
            )

    async def _process(self, rows: list[int], starts: float) -> None:
        await asyncio.sleep(starts)
        runner = Runner(
            send=self._send,
            limiter=self.limiters,
            on_result=lambda result: None,
            retry=RetryPolicy(max_wait=1e5, random=random.Random(self.seed).random),
            clock=self._loop.time,
        )
        await runner.run(self._request(model) for model in rows)

    def _request(self, model: int) -> APIRequest:
        request = APIRequest({"n": 0, "model": f"model {model}"})
        request.size = SMALL
        return request

    async def _send(self, request: APIRequest, lease: object = None) -> Response:
        model = int(str(request.model).split()[1])
        together = len(self.servers) == 1 or self._loop.time() < self.parts_at < float("inf")
        response = await self.servers[0 if together else model]._send(request)
        if response.status == 200:
            self.answered += 1
        elif self.answered > SEARCHED:
            self.refused += 1
        return response
