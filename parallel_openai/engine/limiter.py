"""When the next request may be sent: two budgets, planned ahead, following what the server shows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from parallel_openai.engine.bucket import Bucket, Mark
from parallel_openai.engine.headers import allowance
from parallel_openai.engine.retry import Dimension
from parallel_openai.records import Size, Usage

#: Requests in flight before the server has answered anything: enough to learn from, too few to hurt.
FIRST_WINDOW = 16
#: Seconds to hold back after a refusal that does not say for how long; doubled at each further one in a row.
FIRST_HOLD = 0.5
LONGEST_HOLD = 60.0


@dataclass(slots=True)
class Lease:
    """The right to send one request, and what was set aside for it."""

    tokens: float
    request_mark: Mark
    token_mark: Mark


class Limiter:
    """An account's request and token budgets, shared by all its runs.

    Args:
        max_requests_per_minute, max_tokens_per_minute: the account's limits; None: read from the server's headers.
        burst: seconds of the rate that may be sent at once; None: learned from the server.
        clock: gives seconds, never going back.

    Callers wait in line: first come, first served. A waiter's moment is computed and slept for once; it is computed
    again when an answer changes what is known.
    """

    def __init__(
        self,
        max_requests_per_minute: float | None = None,
        max_tokens_per_minute: float | None = None,
        *,
        burst: float | None = None,
        clock: Callable[[], float],
    ) -> None:
        self.clock = clock
        now = clock()
        self.requests = Bucket(max_requests_per_minute, burst=burst, now=now)
        self.tokens = Bucket(max_tokens_per_minute, burst=burst, now=now)
        self.in_flight = 0
        self.window = float(FIRST_WINDOW)
        self._refusals_in_a_row = 0
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
        self._changed: asyncio.Event | None = None

    async def acquire(self, size: Size) -> Lease:
        """Wait in line until the request may be sent, and set its capacity aside. Pass the lease to `answered`."""
        cost = self.cost(size)
        turn = self._turn()
        if not turn.locked():
            lease = self._take(cost)  # nobody waits and there is room: the usual case costs no switch of tasks
            if lease:
                return lease
        async with turn:
            while not (lease := self._take(cost)):
                await self._sleep_until_room(cost)
        return lease

    def cost(self, size: Size) -> float:
        """Tokens that the server will charge for a request: the safe bound, prompt and the whole of every answer."""
        return float(max(1, size.prompt_tokens + size.choices * (size.max_output_tokens or 0)))

    def never_fits(self, size: Size) -> bool:
        """Whether the prompt alone is larger than the whole token limit, so that waiting is in vain."""
        return self.tokens.limit is not None and size.prompt_tokens > self.tokens.limit

    def answered(self, lease: Lease, headers: Mapping[str, str], usage: Usage | None = None) -> None:
        """Learn from an answer that was not a refusal."""
        self._refusals_in_a_row = 0
        self.window += 1.0
        self._settle(lease, headers)

    def refused(
        self, lease: Lease, headers: Mapping[str, str], dimension: Dimension | None, wait: float | None
    ) -> None:
        """Learn from a 429: hold back the dimension that was refused for as long as the server says."""
        self._settle(lease, headers)
        now = self.clock()
        self._refusals_in_a_row += 1
        if wait is None:
            wait = min(LONGEST_HOLD, FIRST_HOLD * 2.0 ** min(self._refusals_in_a_row // FIRST_WINDOW, 10))
        for name, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            if dimension in (None, name):
                bucket.empty(now)
                bucket.hold(now + wait)
        self.window = max(1.0, self.window * 0.9)

    def unanswered(self, lease: Lease, *, hold: float = 0.0) -> None:
        """A send that brought no answer. With `hold`, nothing is sent for so many seconds: the server is away."""
        self.in_flight -= 1
        if hold:
            self.requests.hold(self.clock() + hold)
        self._wake()

    def _settle(self, lease: Lease, headers: Mapping[str, str]) -> None:
        self.in_flight -= 1
        now = self.clock()
        if (shown := allowance(headers, "requests")) is not None:
            self.requests.follow(shown, lease.request_mark, now)
        if (shown := allowance(headers, "tokens")) is not None:
            self.tokens.follow(shown, lease.token_mark, now)
        self._wake()

    def _take(self, cost: float) -> Lease | None:
        now = self.clock()
        if self._seconds_until(cost, now) > 0:
            return None
        self.in_flight += 1
        return Lease(cost, self.requests.charge(1.0, now), self.tokens.charge(cost, now))

    def _seconds_until(self, cost: float, now: float) -> float:
        if self.in_flight >= self.window and self.requests.limit is None:
            return float("inf")
        return max(self.requests.seconds_until(1.0, now), self.tokens.seconds_until(cost, now))

    async def _sleep_until_room(self, cost: float) -> None:
        delay = self._seconds_until(cost, self.clock())
        changed = self._changed = asyncio.Event()
        try:
            await asyncio.wait_for(changed.wait(), None if delay == float("inf") else delay)
        except asyncio.TimeoutError:
            pass
        finally:
            self._changed = None

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()

    def _turn(self) -> asyncio.Lock:
        loop = asyncio.get_running_loop()
        turn = self._turns.get(loop)
        if turn is None:
            turn = self._turns[loop] = asyncio.Lock()
        return turn
