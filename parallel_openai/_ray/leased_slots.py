"""A worker's limiter: it sends in slots of the account's one limit, which it asks for shortly before it needs them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial

from parallel_openai._limits.bucket import SHORTEST_WAIT
from parallel_openai._limits.cost import Counting, Lot
from parallel_openai._limits.headers import Allowance, allowance
from parallel_openai._limits.learning.bucket_state import BucketState
from parallel_openai._limits.limiter import INFINITY, Lease, Limiter
from parallel_openai._limits.model_limiters import ModelLimiters
from parallel_openai._ray.shared_account import DIMENSIONS, Grant, KnownLimit, Limits, Refusal, Report
from parallel_openai._records import Dimension, Size, Usage

#: A slot may be used so many seconds after its moment.
LATE = 0.02
#: A grant that took longer than this to come is of a moment that nobody knows any more. Where it always takes longer,
#: the patience is doubled, up to this: a late start is better than none.
QUICK = 0.03
LONGEST_PATIENCE = 0.5
#: Requests that are asked for at once, at the first time and at the most.
FIRST_ASK = 16
MOST_ASK = 5000

#: Asks the account: requests, their tokens together, and what was learned since the last time.
Ask = Callable[[int, float, Report], Awaitable[Grant]]


@dataclass(slots=True)
class _Slot:
    """A moment at which one request may be sent, and the tokens that were set aside for it."""

    at: float
    until: float
    tokens: float
    cause: str


class LeasedLimiter(Limiter):
    """Sends when the account says, learns from the answers as every limiter does, and tells the account.

    Attributes:
        granted, used: slots that the account granted, and slots that were used.
    """

    def __init__(
        self,
        ask: Ask,  # asks the account for a grant
        # The account's limits, as far as they are known.
        max_requests_per_minute: float | None = None,
        max_tokens_per_minute: float | None = None,
        *,
        clock: Callable[[], float],  # gives seconds, never going back
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,  # sleeps so many seconds
    ) -> None:
        super().__init__(max_requests_per_minute, max_tokens_per_minute, clock=clock)
        self.counting = _SafeCounting()
        self.granted = self.used = 0
        self._ask = ask
        self._sleep = sleep
        self._slots: deque[_Slot] = deque()
        self._last = FIRST_ASK // 2  # the size of the last grant
        self._passed = 0  # slots that were not used since it was asked for
        self._patience = QUICK
        self._asking: asyncio.Future[None] | None = None
        self._report = Report()
        self._headers: Mapping[str, str] = {}
        self._cost = 0.0  # tokens of a request, on the mean
        self._balance = 0.0  # tokens set aside for what was sent, less what it was charged
        self._open, self._back = asyncio.Event(), asyncio.Event()
        self._open.set()

    async def acquire(self, size: Size) -> Lease:
        async with self._queue.turn():
            await self._wait_for_slot(self.counting.cost(size))
        self.used += 1
        return self._book(size, self.counting.draft(size), self.clock())

    def at_once(self, size: Size) -> Lease | None:
        """None: who sends takes a slot, and its moment is waited for in line."""
        return None

    def close(self) -> None:
        """Let nothing more out until it is opened again."""
        self._open.clear()

    def open(self) -> None:
        """Let out what may go."""
        self._open.set()

    async def all_back(self) -> None:
        """Wait until nothing is on its way any more."""
        while self.in_flight:
            self._back.clear()
            await self._back.wait()

    def answered(self, lease: Lease, headers: Mapping[str, str], usage: Usage | None = None) -> None:
        super().answered(lease, headers, usage)
        self._count_back()
        self._headers = headers
        if usage is not None:
            difference = usage.total_tokens - lease.token_mark.cost
            self._report.over += max(0.0, difference)
            self._report.under += max(0.0, -difference)

    def refused(
        self, lease: Lease, headers: Mapping[str, str], dimension: Dimension | None, wait: float | None
    ) -> bool:
        super().refused(lease, headers, dimension, wait)
        self._headers = headers
        self._tell(Refusal(dimension or "requests", self.clock() - lease.request_mark.at, wait))
        return False  # the account holds all back

    def slow_down(self, lease: Lease, wait: float | None) -> None:
        super().slow_down(lease, wait)
        self._tell(Refusal(None, self.clock() - lease.request_mark.at, wait))

    def unanswered(self, lease: Lease, *, hold: float = 0.0) -> None:
        super().unanswered(lease, hold=hold)
        self._count_back()

    def _count_back(self) -> None:
        self._report.answered += 1
        self._back.set()

    def take_report(self) -> Report:
        """What was learned since the last time."""
        report, self._report = self._report, Report()
        for name in DIMENSIONS:
            bucket = getattr(self, name)
            shown = allowance(self._headers, name)
            if bucket.limit is not None:
                left = None if shown is None else shown.remaining / shown.limit
                report.shown[name] = KnownLimit(bucket.limit, bucket.period, left)
        return report

    async def _wait_for_slot(self, cost: float) -> None:
        self._cost += (cost - self._cost) * (0.1 if self._cost else 1.0)
        while True:
            await self._open.wait()
            slot = self._next_slot()
            if slot is None:
                await self._more()
                continue
            if slot.at > (began := self.clock()):
                await self._sleep(slot.at - began)
                self.waited[slot.cause] += self.clock() - began
                continue  # looked at again: a busy loop sleeps too long, and a refusal takes the slots away
            self._slots.popleft()
            self._balance += slot.tokens - cost
            if len(self._slots) <= self._last // 2:
                self._begin_asking()
            return

    def _next_slot(self) -> _Slot | None:
        now = self.clock()
        while self._slots and now > self._slots[0].until:
            self._slots.popleft()
            self._passed += 1
        return self._slots[0] if self._slots else None

    async def _more(self) -> None:
        """Wait for the next grant. Who is cancelled meanwhile does not stop the asking."""
        await asyncio.shield(self._begin_asking())

    def _begin_asking(self) -> asyncio.Future[None]:
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._lease())
        return self._asking

    def _tell(self, refusal: Refusal) -> None:
        """At once, since the others must hold back too."""
        self._count_back()
        self._report.refusals.append(refusal)
        self._passed += len(self._slots)
        self._slots.clear()
        self._begin_asking()

    async def _lease(self) -> None:
        try:
            wanted = self._wanted()
            tokens = max(0.0, wanted * self._cost - self._balance)
            asked_at = self.clock()
            grant = await self._ask(wanted, tokens, self.take_report())
            now = self.clock()
            if not grant.requests:
                await self._sleep(max(grant.start, SHORTEST_WAIT))
                self.waited[grant.cause] += grant.start
            elif grant.expires and now - asked_at > self._patience:
                self._report.unused += grant.requests
                self._patience = min(2 * self._patience, LONGEST_PATIENCE)
            else:
                self._patience = QUICK
                self._put(grant, tokens / wanted, now)
        finally:
            self._asking = None

    def _wanted(self) -> int:
        """Twice what was granted last; half of it where most of that passed, as when all connections are busy."""
        passed, self._passed = self._passed, 0
        self._report.unused += passed
        return max(1, min(MOST_ASK, self._last // 2 if passed > self._last / 2 else 2 * self._last))

    def _put(self, grant: Grant, tokens: float, now: float) -> None:
        self.granted += grant.requests
        self._last = grant.requests
        step = grant.duration / grant.requests
        for number in range(grant.requests):
            at = now + grant.start + number * step
            self._slots.append(_Slot(at, at + LATE if grant.expires else INFINITY, tokens, grant.cause))


class LeasedLimiters(ModelLimiters):
    """Gives each model a limiter that asks the account for its slots."""

    def __init__(
        self,
        ask: Callable[[str | None, int, float, Report], Awaitable[Grant]],  # asks the account for a model's grant
        limits: Limits,  # what was given for all models together
        *,
        clock: Callable[[], float],  # gives seconds, never going back
    ) -> None:
        self._ask = ask
        self._leased: list[LeasedLimiter] = []
        self._closed = False
        super().__init__(*limits, clock=clock)

    def close(self) -> None:
        """Let nothing more out until it is opened again."""
        self._closed = True
        for each in self._leased:
            each.close()

    def open(self) -> None:
        """Let out what may go."""
        self._closed = False
        for each in self._leased:
            each.open()

    async def all_back(self) -> None:
        """Wait until nothing is on its way any more."""
        for each in self._leased:
            await each.all_back()

    def _new(self, model: str | None) -> LeasedLimiter:
        limiter = LeasedLimiter(partial(self._ask, model), *self.given, clock=self.clock)
        self._leased.append(limiter)
        if self._closed:
            limiter.close()
        return limiter


class _SafeCounting(Counting):
    """Keeps to the rule that bounds all others: what the server shows is moved by all the workers at once."""

    def learn(self, lot: Lot, shown: Allowance, mark: BucketState, capacity: float) -> None:
        pass
