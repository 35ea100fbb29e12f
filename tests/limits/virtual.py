"""Time that passes only when nothing else is left to do, and a server in it: hours of limiting in a moment.

The loop's clock jumps to the next timer as soon as all that can run has run. The account behind the server is the
simulator's own, so what is refused here is refused there.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import selectors
from collections import deque
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from parallel_openai._limits.limiter import Limiter
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._records import APIRequest, Response, Result, Size
from parallel_openai._run.response_verdict import RetryPolicy
from parallel_openai._run.runner import Runner
from parallel_openai.local.simulator.endpoints.counting import reserved, settled
from parallel_openai.local.simulator.limits.account import Account, Lack
from parallel_openai.local.simulator.refusals import rate_limited, slow_down
from parallel_openai.local.simulator.settings import Settings

T = TypeVar("T")


#: What a good answer holds at the least.
GOOD: dict[str, Any] = {"choices": [{"message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}]}
#: Turns of a loop that no test needs: something is polled for in it.
MOST_TURNS = 2_000_000


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, most_turns: float) -> None:
        super().__init__()
        self.now = 0.0
        self.turns = 0
        self.most_turns = most_turns

    def select(self, timeout: float | None = None) -> Any:
        self.turns += 1
        assert self.turns < self.most_turns, f"At {self.now} s the loop turns and turns, and nothing comes of it."
        if timeout:
            self.now += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps from timer to timer; it fails after so many turns."""

    def __init__(self, most_turns: float = MOST_TURNS) -> None:
        self._jumping = _JumpingSelector(most_turns)
        super().__init__(self._jumping)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._jumping.now


def run_virtually(work: Coroutine[Any, Any, T], loop: VirtualLoop, *, within: float = 1e6) -> T:
    """Run to the end, or fail after so many virtual seconds: a deadlock would otherwise end the time."""
    try:
        return loop.run_until_complete(asyncio.wait_for(work, within))
    finally:
        loop.close()


@dataclass
class Rehearsal:
    """One run against an account in virtual time."""

    settings: Settings
    sizes: list[Size]
    outputs: list[int] | None = None
    latency: float = 0.5
    sigma: float = 0.4
    seed: int = 1
    max_concurrent_requests: int = 500
    changes: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    limiter_options: dict[str, Any] = field(default_factory=dict)
    limiter_class: type[Limiter] = Limiter
    slots: int | None = None  # requests that the server takes at once
    refusal: tuple[int, dict[str, str]] = (429, {})  # status and headers of what is refused for a slot
    in_server: int = 0
    busy: float = 0.0  # seconds that all slots together were taken
    accepted: int = 0
    accepted_tokens: float = 0.0
    refused: int = 0
    without_cause: int = 0
    first: float | None = None
    last: float = 0.0
    wall: float = 0.0
    order: list[int] = field(default_factory=list)
    sends: list[tuple[float, float]] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    slowed: list[float] = field(default_factory=list)
    recent: deque[float] = field(default_factory=deque)

    def run(self) -> Rehearsal:
        loop = VirtualLoop()
        run_virtually(self._run(loop), loop)
        return self

    async def _run(self, loop: VirtualLoop) -> None:
        self._random = random.Random(self.seed)
        self._account = Account(self.settings, now=0.0)
        self._account.record(0.0)
        self._loop = loop
        for at, change in self.changes:
            loop.call_at(at, self._change, change)
        self.limiter = self.limiter_class(clock=loop.time, **self.limiter_options)
        self.results: list[Result] = []
        self.status = StatusTracker()
        processor = Runner(
            send=self._send,
            limiter=self.limiter,
            on_result=self.results.append,
            retry=RetryPolicy(max_wait=1e5, random=self._random.random),
            status=self.status,
            max_concurrent_requests=self.max_concurrent_requests,
            clock=loop.time,
        )
        await processor.run(self._requests())
        self.wall = loop.time()

    def by_hand(self, at_once: int) -> float:
        """Seconds that it takes with the OpenAI SDK: so many at once, each with two retries after its own wait."""
        loop = VirtualLoop()
        run_virtually(self._by_hand(loop, at_once), loop)
        return loop.time()

    async def _by_hand(self, loop: VirtualLoop, at_once: int) -> None:
        self._random = random.Random(self.seed)
        self._account = Account(self.settings, now=0.0)
        self._account.record(0.0)
        self._loop, gate = loop, asyncio.Semaphore(at_once)

        async def one(request: APIRequest) -> None:
            async with gate:
                for retries in range(3):
                    response = await self._send(request)
                    if response.status == 200:
                        return
                    asked = float(response.headers.get("retry-after", "0"))
                    backoff = 0.5 * 2**retries * (1 - 0.25 * self._random.random())
                    await asyncio.sleep(asked if 0 < asked <= 60 else backoff)

        await asyncio.gather(*map(one, self._requests()))

    def _change(self, change: dict[str, Any]) -> None:
        self._account.change(dataclasses.replace(self._account.settings, **change), self._loop.time())

    def _requests(self) -> Iterator[APIRequest]:
        for number, size in enumerate(self.sizes):
            request = APIRequest({"n": number})
            request.size = size
            yield request

    async def _send(self, request: APIRequest, lease: object = None) -> Response:
        number = request.request_json["n"]
        size = self.sizes[number]
        await asyncio.sleep(self._random.uniform(0.0002, 0.003))
        now = self._loop.time()
        settings = self._account.settings
        if self._too_fast(now):
            self.slowed.append(now)
            await asyncio.sleep(settings.refusal_latency)
            return Response(429, {}, b"", {"error": slow_down().error()}, 0.01)
        if self.slots is not None and self.in_server >= self.slots:
            self.refused += 1
            self.refusals.append(now)
            await asyncio.sleep(settings.refusal_latency)
            return Response(self.refusal[0], self.refusal[1], b"", None, 0.01)
        prompt, most, n = -(-size.characters // 4), size.max_output_tokens, size.choices
        cost = reserved(settings.counting, prompt_tokens=prompt, max_output=most, n=n)
        lack = self._account.lack(cost, now)
        self._account.record(now)
        if lack is None and settings.fault_429 and self._random.random() < settings.fault_429:
            lack = Lack("requests", "min", 0.0, 0.0, 1.0, 1.0)  # without cause
            self.without_cause += 1
        if lack is not None:
            self.refused += 1
            self.refusals.append(now)
            if settings.charge_refused:
                self._account.take_refused(now)
            refusal = rate_limited(lack, model="m", style="openai", retry_after=settings.retry_after)
            headers = {**self._account.headers(now), **refusal.headers}
            await asyncio.sleep(settings.refusal_latency)
            return Response(429, headers, b"", {"error": refusal.error()}, 0.01)
        self._account.take(1, cost, now)
        self.recent.append(now)
        headers = self._account.headers(now)
        self.accepted += 1
        self.accepted_tokens += cost
        self.first = now if self.first is None else self.first
        self.last = now
        self.sends.append((now, cost))
        self.order.append(number)
        delay = self.latency * self._random.lognormvariate(0, self.sigma)
        self.in_server, self.busy = self.in_server + 1, self.busy + delay
        await asyncio.sleep(delay)
        self.in_server -= 1
        output = self.outputs[number] if self.outputs is not None else 12
        final = settled(settings.counting, cost, total_tokens=prompt + output)
        self._account.settle(final - cost, self._loop.time(), taken_at=now)
        self.accepted_tokens += final - cost
        data = {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": output}}
        return Response(200, headers, b"{}", data, delay)

    def _too_fast(self, now: float) -> bool:
        while self.recent and self.recent[0] <= now - 1:
            self.recent.popleft()
        above = self._account.settings.slow_down_above
        return above is not None and len(self.recent) >= above

    @property
    def utilisation(self) -> float:
        """The accepted as a share of what the account allowed, in the dimension that came closer, or of all slots."""
        assert self.first is not None
        self._account.record(self.last)
        allowed = self._account.allowed(self.first, self.last)
        shares = [] if self.slots is None else [self.busy / (self.slots * self.wall)]
        if allowed["requests"]:
            shares.append(self.accepted / allowed["requests"])
        if allowed["tokens"]:
            shares.append(self.accepted_tokens / allowed["tokens"])
        return max(shares, default=1.0)

    def line(self) -> str:
        per_thousand = 1000 * self.refused / max(1, self.accepted)
        return f"utilisation {self.utilisation:7.2%}  429s per 1,000 {per_thousand:7.2f}  wall {self.wall:7.1f} s"
