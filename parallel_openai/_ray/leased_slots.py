"""A worker's limiter: sends only in slots granted by the account's actor, which it requests shortly before use."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from parallel_openai._limits.bucket import SHORTEST_WAIT
from parallel_openai._limits.cost import Counting, Lot
from parallel_openai._limits.headers import Allowance, allowance
from parallel_openai._limits.learning.bucket_state import BucketState
from parallel_openai._limits.limiter import INFINITY, Lease, Limiter
from parallel_openai._limits.model_limiters import ModelLimiters
from parallel_openai._ray.shared_account import DIMENSIONS, Grant, KnownLimit, Limits, Refusal, Report
from parallel_openai._records import Dimension, Size, Usage

#: A slot expires this many seconds after its moment.
LATE = 0.02
#: A grant that takes longer than this to arrive is discarded, as its moments, stated relative to the grant, are too
#: uncertain. If grants keep taking longer, the patience doubles up to LONGEST_PATIENCE: late is better than never.
QUICK = 0.03
LONGEST_PATIENCE = 0.5
#: Slots requested at once: the first time, and at most.
FIRST_ASK = 16
MOST_ASK = 5000

#: However long the account makes it wait, a worker asks again after so many seconds: another worker, or this one, may
#: have found out meanwhile that the server was only full.
ASK_AGAIN = 1.0

#: Requests a grant from the account, given the number of requests, their tokens in total and a report.
Ask = Callable[[int, float, Report], Awaitable[Grant]]


@dataclass(slots=True)
class _Slot:
    """A moment at which one request may be sent, and the tokens reserved for it."""

    at: float
    until: float
    tokens: float
    cause: str


class LeasedLimiter(Limiter):
    """Sends when the account says, learns from the answers as every limiter does, and reports to the account.

    Attributes:
        granted, used: the numbers of slots granted by the account, and used.
    """

    def __init__(
        self,
        ask: Ask,
        # The account's limits, as far as they are known.
        max_requests_per_minute: float | None = None,
        max_tokens_per_minute: float | None = None,
        *,
        clock: Callable[[], float],  # monotonic, in seconds
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        super().__init__(max_requests_per_minute, max_tokens_per_minute, clock=clock)
        self.counting = _SafeCounting()
        self.granted = self.used = 0
        self._ask = ask
        self._sleep = sleep
        self._slots: deque[_Slot] = deque()
        self._last = FIRST_ASK // 2  # the size of the last grant
        self._expired = 0  # slots that expired since that grant was requested
        self._patience = QUICK
        self._grant_task: asyncio.Future[None] | None = None
        self._report = Report()
        self._headers: Mapping[str, str] = {}
        self._cost = 0.0  # tokens of a request, on average
        self._balance = 0.0  # tokens reserved by used slots, less the tokens charged
        self._open, self._back = asyncio.Event(), asyncio.Event()
        self._open.set()

    async def acquire(self, size: Size) -> Lease:
        async with self._queue.turn():
            await self._wait_for_slot(self.counting.cost(size))
        self.used += 1
        return self._book(size, self.counting.draft(size), self.clock())

    def at_once(self, size: Size) -> Lease | None:
        """Always None, since a slot has to be waited for in the queue."""
        return None

    def close(self) -> None:
        """Let nothing more out until it is opened again."""
        self._open.clear()

    def open(self) -> None:
        """Let out what may go."""
        self._open.set()

    async def until_idle(self) -> None:
        """Wait until no request is in flight."""
        while self.in_flight:
            self._back.clear()
            await self._back.wait()

    def answered(
        self, lease: Lease, headers: Mapping[str, str], usage: Usage | None = None, *, worked: bool = True
    ) -> None:
        super().answered(lease, headers, usage, worked=worked)
        self._count_back()
        self._headers = headers
        if usage is not None:
            difference = usage.total_tokens - lease.token_mark.cost
            self._report.over += max(0.0, difference)
            self._report.under += max(0.0, -difference)

    def refused(
        self, lease: Lease, headers: Mapping[str, str], dimension: Dimension | None, wait: float | None
    ) -> bool:
        may_go = super().refused(lease, headers, dimension, wait)
        if may_go and self.slots.proven:
            self._count_back()
            return True  # an answer makes room, and the other workers need not wait
        self._headers = headers
        self._report_refusal(Refusal(dimension or "requests", self.clock() - lease.request_mark.at, wait))
        return may_go  # the account makes all workers wait, but for what finds out whether the server was only full

    def slow_down(self, lease: Lease, wait: float | None) -> None:
        super().slow_down(lease, wait)
        self._report_refusal(Refusal(None, self.clock() - lease.request_mark.at, wait))

    def unanswered(self, lease: Lease, *, hold: float = 0.0) -> None:
        super().unanswered(lease, hold=hold)
        self._count_back()

    def _count_back(self) -> None:
        self._report.answered += 1
        self._back.set()

    def take_report(self) -> Report:
        """What was learned since the last report."""
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
            if self._may_be_full and (delay := self.slots.seconds_until_room(self.in_flight, self.clock())):
                await self._queue.sleep(max(delay, SHORTEST_WAIT), "slots")
                continue
            if self._may_be_full and self._tries_slots(self.clock()):
                self._report.unused -= 1  # so that the account counts it as one of the slots that it granted
                self._balance -= cost
                return
            slot = self._next_slot()
            if slot is None:
                if self._may_be_full and self.slots.is_tried(self.clock()):
                    await self._wait_for_grant()
                else:
                    await asyncio.shield(self._request_grant())
                continue
            if slot.at > (began := self.clock()):
                await self._sleep(slot.at - began)
                self.waited[slot.cause] += self.clock() - began
                continue  # check again: a busy loop may have slept too long, or a refusal has voided the slots
            self._slots.popleft()
            self._balance += slot.tokens - cost
            if len(self._slots) <= self._last // 2:
                self._request_grant()
            return

    async def _wait_for_grant(self) -> None:
        """Wait until slots are granted, or a request has come back, after which one may go without a slot."""
        grant = self._request_grant()  # others may wait for the same one
        self._back.clear()
        back = asyncio.ensure_future(self._back.wait())
        either: set[asyncio.Future[Any]] = {grant, back}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            back.cancel()
        if grant.done():
            grant.result()

    def _next_slot(self) -> _Slot | None:
        now = self.clock()
        while self._slots and now > self._slots[0].until:
            self._slots.popleft()
            self._expired += 1
        return self._slots[0] if self._slots else None

    def _request_grant(self) -> asyncio.Future[None]:
        if self._grant_task is None:
            self._grant_task = asyncio.ensure_future(self._lease())
        return self._grant_task

    def _forget_refusals(self, now: float) -> None:
        super()._forget_refusals(now)
        self._report.was_full = True

    def _report_refusal(self, refusal: Refusal) -> None:
        # At once, since the other workers must wait too.
        self._count_back()
        self._report.refusals.append(refusal)
        self._expired += len(self._slots)
        self._slots.clear()
        self._request_grant()

    async def _lease(self) -> None:
        try:
            wanted = self._count_to_request()
            tokens = max(0.0, wanted * self._cost - self._balance)
            asked_at = self.clock()
            grant = await self._ask(wanted, tokens, self.take_report())
            now = self.clock()
            if not grant.requests:
                began = now
                await self._sleep(max(min(grant.start, ASK_AGAIN), SHORTEST_WAIT))
                self.waited[grant.cause] += self.clock() - began
            elif grant.expires and now - asked_at > self._patience:
                self._report.unused += grant.requests
                self._patience = min(2 * self._patience, LONGEST_PATIENCE)
            else:
                self._patience = QUICK
                self._put(grant, tokens / wanted, now)
        finally:
            self._grant_task = None

    def _count_to_request(self) -> int:
        """Twice the last grant, or half of it if most of its slots expired, as when all connections are busy."""
        passed, self._expired = self._expired, 0
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
    """Keeps a limiter for each model, which gets its slots from the account."""

    def __init__(
        self,
        ask: Callable[[str | None, int, float, Report], Awaitable[Grant]],  # `Ask` with the model before it
        limits: Limits,  # the limits that the caller set for all models together
        *,
        clock: Callable[[], float],  # monotonic, in seconds
    ) -> None:
        self._ask = ask
        self._leased: list[LeasedLimiter] = []
        self._closed = False
        super().__init__(*limits, clock=clock)
        self._common = None  # the account says when to send

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

    async def until_idle(self) -> None:
        """Wait until no request is in flight."""
        for each in self._leased:
            await each.until_idle()

    def _new(self, model: str | None) -> LeasedLimiter:
        limiter = LeasedLimiter(partial(self._ask, model), *self.given, clock=self.clock)
        self._leased.append(limiter)
        if self._closed:
            limiter.close()
        return limiter


class _SafeCounting(Counting):
    """Never learns how the server counts tokens, since what it shows reflects the requests of all workers at once."""

    def learn(self, lot: Lot, shown: Allowance, mark: BucketState, capacity: float) -> None:
        pass
