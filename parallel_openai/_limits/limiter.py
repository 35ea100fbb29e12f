"""One model's limiter: says when the next request may be sent, and follows what the server shows and refuses."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from parallel_openai._limits.bucket import Bucket
from parallel_openai._limits.cost import Counting, Lot
from parallel_openai._limits.headers import allowance, limit_alone, retry_after, tells_of_limits
from parallel_openai._limits.largest import Largest
from parallel_openai._limits.learning.bucket_state import BucketState
from parallel_openai._limits.learning.slots import Slots
from parallel_openai._limits.learning.slow_down import SlowDown
from parallel_openai._limits.learning.window import FIRST_HOLD, Window
from parallel_openai._limits.queue import CapacityQueue
from parallel_openai._records import Dimension, Size, Usage

INFINITY = float("inf")
#: An overloaded server that refuses more often than this without an answer in between, and not for want of slots,
#: refuses what comes too fast.
UNEXPLAINED = 2


@dataclass(slots=True)
class Lease:
    """The right to send one request, and the capacity reserved for it."""

    size: Size
    request_mark: BucketState
    token_mark: BucketState
    lot: Lot
    in_flight: int  # at the send, this one included


class Common(Protocol):
    """What several limiters have in common, as far as it is learned: see `CommonLimits`."""

    def sent(self, limiter: Limiter, request: BucketState, tokens: BucketState) -> None: ...
    def refused(self, limiter: Limiter, lease: Lease, dimension: Dimension, now: float) -> None: ...
    def leave(self, limiter: Limiter, dimension: Dimension, now: float) -> None: ...


class Limiter:
    """One model's request and token budgets at an account, shared by all its runs.

    Callers wait in a queue, whose first one tries again when an answer changes what is known.

    Attributes:
        may_move: whether another limiter may become the model's, so that it must be looked up for every request.
        holds_for_all: whether the server has said that these limits are for all models together.
        common: is told of what is sent and refused, and may replace the buckets; None for a single model.
        shares: whether it shares a bucket with other models' limiters.
        waited: seconds that the first in the queue has waited, by cause, as in `CapacityQueue`.
    """

    def __init__(
        self,
        # The account's limits; None: read from the server's headers.
        max_requests_per_minute: float | None = None,
        max_tokens_per_minute: float | None = None,
        *,
        burst: float | None = None,  # seconds of the rate that may be sent at once; None: learned from the server
        clock: Callable[[], float],  # monotonic, in seconds
    ) -> None:
        self.clock = clock
        now = clock()
        self.requests = Bucket(max_requests_per_minute, burst=burst, now=now)
        self.tokens = Bucket(max_tokens_per_minute, burst=burst, now=now)
        self.slowdown = SlowDown()
        self.counting = Counting()
        self.slots = Slots()
        self.in_flight = 0
        self.may_move = self.holds_for_all = False
        self.common: Common | None = None
        self.shares = False
        self._window = Window()
        self._queue = CapacityQueue(clock)
        self.waited = self._queue.waited
        self._unexplained, self._is_busy_by_rate = 0, False
        self._largest = Largest()
        self._has_refused = self._may_be_full = False
        self._is_limited = False  # whether a refusal was due to a limit that it does not show

    def replace(self, dimension: Dimension, bucket: Bucket, *, shares: bool) -> None:
        """Use another bucket for a dimension, by which its refusals are explained."""
        setattr(self, dimension, bucket)
        self._is_limited, self.shares = True, shares
        self.slots = Slots()  # what was suspected was the limit
        self._queue.tell()

    def set_share(self, share: float) -> None:
        """Use this part of the limits from now on, since other processes use the rest."""
        now = self.clock()
        self.requests.set_share(share, now)
        self.tokens.set_share(share, now)
        self._queue.tell()

    def of(self, model: str | None) -> Limiter:
        """This limiter, which serves all models if it is used alone."""
        return self

    def level(self, dimension: Dimension, models: Collection[str | None]) -> Bucket:
        bucket: Bucket = getattr(self, dimension)
        return bucket

    async def acquire(self, size: Size) -> Lease:
        """Wait in the queue until the request may be sent, and reserve its capacity.

        Pass the lease to `answered`, `refused` or `unanswered` when the outcome is known.
        """
        lease = self.at_once(size)
        if lease is not None:
            return lease
        return await self._queue.wait(lambda: self.take(size), lambda: self.delay(size))

    def at_once(self, size: Size) -> Lease | None:
        """As `acquire` if nobody is waiting and there is room now; else None."""
        return self.take(size) if self._queue.count == 0 else None

    @property
    def most_at_once(self) -> int | None:
        """The number of requests in flight beyond which the server refuses, or None if no such number is known."""
        return int(self.slots.level) if self.slots.proven else None

    @property
    def overrules_waits(self) -> bool:
        """Whether an answer makes room for what an overloaded server told to wait, as it was only full."""
        return self.slots.overrules_waits

    @property
    def counts_tokens(self) -> bool:
        """Whether a request's tokens matter: a limit of tokens is known, or the server has refused something."""
        return self.tokens.limit is not None or self._has_refused

    def delay(self, size: Size) -> tuple[float, str]:
        """The estimated seconds until the request may be sent, and their cause, as in `waited`."""
        return self._plan(self.counting.cost(size), self.clock())

    @property
    def largest(self) -> float | None:
        """Tokens of the largest prompt that can ever be sent, or None while unknown."""
        return self.tokens.limit

    def never_fits(self, size: Size) -> bool:
        """Whether the prompt alone exceeds the whole token limit, so that waiting cannot help."""
        limit = self.tokens.limit
        return limit is not None and size.prompt_tokens > limit >= self._largest.sent

    def seems_too_large(self, size: Size, refusals: int, seconds: float, headers: Mapping[str, str]) -> bool:
        """Whether a request refused for its tokens `refusals` times, over `seconds`, will never be accepted.

        With a known limit: it may cost more than the limit, and a full bucket refused it or it was refused repeatedly.
        Without a shown limit: it is much larger than any request accepted, and was refused for longer than a window.
        A request that fits the shown limit is accepted once the others leave enough of it.
        """
        most, limit, shown = self.counting.most(size), self.tokens.limit, allowance(headers, "tokens")
        if limit is not None and most > limit:
            return refusals > 1 or (shown is not None and shown.remaining >= 0.9 * min(limit, self.tokens.capacity))
        if shown is not None:
            return False
        return self._largest.is_hopeless(most, refusals, seconds, asked=retry_after(headers) is not None)

    def answered(
        self, lease: Lease, headers: Mapping[str, str], usage: Usage | None = None, *, worked: bool = True
    ) -> None:
        """Learn from an answer that no limit refused; but if the server has not `worked` for it, none was asked."""
        self.in_flight -= 1
        self._unexplained = 0
        self._window.answered(worked=worked)
        now = self.clock()
        self.slots.answers.append(now)
        if self._may_be_full:  # without a refusal there is nothing to learn about slots
            self._learn_slots(lease, now)
        tells = tells_of_limits(headers)
        if tells and self.shares:
            self._leave_shared(headers, now)
        shown = allowance(headers, "requests") if tells else None
        self.requests.accepted(lease.request_mark, shown, now, worked=worked)
        if shown is not None and shown.is_common:
            self.may_move = self.holds_for_all = True
        elif shown is None and tells:
            self._hear_limits(headers, now)
        shown = allowance(headers, "tokens") if tells else None
        prompt_tokens = (usage.prompt_tokens if usage else 0) or lease.size.prompt_tokens
        largest = self._largest
        if worked:
            largest.accepted = max(largest.accepted, prompt_tokens)
            largest.charged = max(largest.charged, *lease.lot.charges)
        if shown is not None and largest.accepted > shown.limit:
            shown = None  # cannot be right: the server has accepted more
        if self.tokens.seen and largest.accepted > (self.tokens.limit or INFINITY):
            self.tokens.disbelieve(now)
        self.tokens.accepted(lease.token_mark, shown, now, worked=worked)
        if change := self.counting.finished(lease.lot, usage):
            self._settle(change)
        if shown is not None:
            self.counting.learn(lease.lot, shown, lease.token_mark, self.tokens.capacity)
        self._queue.tell()

    def refused(
        self, lease: Lease, headers: Mapping[str, str], dimension: Dimension | None, wait: float | None
    ) -> bool:
        """Learn from a 429, and pause the dimension that was refused for as long as the server says.

        Returns whether the request should be sent again as soon as there is room, although the server asks it to wait.
        """
        self.in_flight -= 1
        self._has_refused = self._may_be_full = True
        now = self.clock()
        usual = self._window.refused(lease.in_flight, at=lease.request_mark.at, now=now)
        wait = usual if wait is None else wait
        self.counting.cancelled(lease.lot)
        if dimension == "tokens":
            self._largest.refused(lease.size.prompt_tokens)
        cause = self.slots.refused(lease.in_flight, at=lease.request_mark.at, now=now, left=self.in_flight)
        blamed = "" if cause else dimension or "requests"
        is_limits = self._refuse(lease, headers, blamed, wait, now)
        if self.common is not None and blamed:
            self.common.refused(self, lease, dimension or "requests", now)
        if is_limits and not self.shares:
            self.slots.suspect(lease.in_flight, left=self.in_flight, at=now, wait=wait)
            if self.slots.proven:
                self._forget_refusals(now)
        elif cause == "experiment":
            bucket, mark = (
                (self.tokens, lease.token_mark) if dimension == "tokens" else (self.requests, lease.request_mark)
            )
            bucket.also_refused(mark, now, wait)
        self._queue.tell()
        return cause == "slots" or self.slots.is_tried(now) or (is_limits and self.slots.proven)

    def _refuse(self, lease: Lease, headers: Mapping[str, str], blamed: str, wait: float, now: float) -> bool:
        """Let both dimensions learn from a refusal. Returns whether it was due to a limit that is not shown."""
        shown, known = (allowance(headers, "requests"), allowance(headers, "tokens")), self._is_limited
        for_requests, for_tokens = blamed == "requests", blamed == "tokens"
        requests = self.requests.refused(
            lease.request_mark, shown[0], now, blamed=for_requests, wait=wait, most=1.0, is_limited=known
        )
        most = max(lease.lot.charges)
        tokens = self.tokens.refused(
            lease.token_mark, shown[1], now, blamed=for_tokens, wait=wait, most=most, is_limited=known
        )
        self._is_limited = known or requests or tokens
        return requests or tokens

    def _leave_shared(self, headers: Mapping[str, str], now: float) -> None:
        """Share no bucket whose limit the server shows: the shared ones were found where it shows nothing."""
        dimensions: tuple[Dimension, ...] = ("requests", "tokens")
        for dimension in dimensions:
            if self.common is not None and allowance(headers, dimension) is not None:
                self.common.leave(self, dimension, now)

    def _tries_slots(self, now: float) -> bool:
        """Whether a request may be sent although the server told all to wait, to find out if it was only full."""
        return self.slots.tries(self.in_flight, now) or (not self.in_flight and self.slots.is_tried(now))

    def _learn_slots(self, lease: Lease, now: float) -> None:
        was_proven = self.slots.proven
        self.slots.accepted(lease.in_flight, at=lease.request_mark.at, now=now)
        if self.slots.proven and not was_proven:
            self._forget_refusals(now)

    def _forget_refusals(self, now: float) -> None:
        """Forget the buckets' refusals, since they were due to slots and not to a limit."""
        if self.shares:
            return
        self._is_limited = False
        self.requests.forget_refusals(now)
        self.tokens.forget_refusals(now)

    def slow_down(self, lease: Lease, wait: float | None) -> None:
        """Learn from a 429 `slow_down`: the limits were kept, but the rate has grown too fast."""
        self.unanswered(lease, hold=wait or FIRST_HOLD)
        now = self.clock()
        self.slowdown.slow_down(sent_at=lease.request_mark.at, now=now, recent=self.requests.recent_rate(now))

    def overloaded(self, lease: Lease, wait: float | None) -> bool:
        """Learn from the refusal of an overloaded server, which may ask the request to wait.

        Returns whether the server's slots seem to be full, so that the request may go as soon as one is free. If the
        server asks for a wait, that must be certain.
        """
        if self._is_due_to_rate(wait):
            return self.refused(lease, {}, "requests", None)
        self.unanswered(lease)
        self._may_be_full = True
        is_full = self.slots.overloaded(
            lease.in_flight, at=lease.request_mark.at, now=self.clock(), left=self.in_flight
        )
        return is_full and (not wait or self.slots.overrules_waits)

    def _is_due_to_rate(self, wait: float | None) -> bool:
        """Whether what an overloaded server has just refused came too fast."""
        if self.slots.kept or wait or self.in_flight < 2:
            return False
        self._unexplained += 1
        if self._unexplained > UNEXPLAINED:
            self._is_busy_by_rate = True
        elif not self._is_limited:
            return False
        return self._is_busy_by_rate

    def unanswered(self, lease: Lease, *, hold: float = 0.0) -> None:
        """Learn that a send brought no answer. With `hold`, nothing is sent for that many seconds."""
        self.in_flight -= 1
        self.counting.cancelled(lease.lot)
        if hold:
            self.requests.hold(self.clock() + hold)
        self._queue.tell()

    def take(self, size: Size) -> Lease | None:
        """Reserve the request's capacity if it may be sent now, whoever is in the queue; else return None."""
        now = self.clock()
        lot = self.counting.draft(size)
        if self._plan(lot.cost, now)[0] > 0:
            return None
        return self._book(size, lot, now)

    def _book(self, size: Size, lot: Lot, now: float) -> Lease:
        self.in_flight += 1
        self._largest.sent = max(self._largest.sent, size.prompt_tokens)
        if self._may_be_full:
            self.slots.sent(now)
        self.counting.book(lot)
        if self.slowdown.was_asked_for:
            self.slowdown.sent(now)
        request_mark = self.requests.charge(1.0, now)
        token_mark = self.tokens.charge(max(1.0, lot.charges[self.counting.rule]), now)
        if self.common is not None:
            self.common.sent(self, request_mark, token_mark)
        return Lease(size, request_mark, token_mark, lot, self.in_flight)

    def _hear_limits(self, headers: Mapping[str, str], now: float) -> None:
        """Take over limits that are stated without what remains of them."""
        for dimension, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            if (limit := limit_alone(headers, dimension)) is not None and not bucket.seen:
                bucket.told(limit, now)
                self.may_move = self.holds_for_all = True  # a limit of the key holds for all models

    def _settle(self, tokens: float) -> None:
        """Correct a charge by what the server charged beyond it (negative: less than it)."""
        self.tokens.adjust(tokens)

    def _plan(self, cost: float, now: float) -> tuple[float, str]:
        """Seconds until a request of that cost may be sent, and their cause."""
        known = self.requests.rate != INFINITY or self.tokens.rate != INFINITY
        if self._window.is_recovering and self.in_flight >= self._window.size:
            return INFINITY, "learning"
        tries = False
        if self._may_be_full:
            if (delay := self.slots.seconds_until_room(self.in_flight, now)) > 0.0:
                return delay, "slots"
            tries = self._tries_slots(now)
        if not known and self.slots.proven:
            self._window.begin(now)  # if they are given up, what was learned before them counts no more
        elif not known and self.in_flight >= self._window.size:
            delay = self._window.seconds_until_room(self.in_flight, now)
            if delay > 0.0:
                return delay, "learning"
        slowed = self.slowdown.seconds_until(now) if self.slowdown.was_asked_for else 0.0
        requests = self.requests.seconds_until(1.0, now, heeds_hold=not tries)
        tokens = self.tokens.seconds_until(cost + self.counting.outstanding, now, heeds_hold=not tries)
        if slowed > max(requests, tokens):
            return slowed, "refused"
        if tokens > requests:
            return tokens, "refused" if self.tokens.held_until - now >= tokens else "tokens"
        return requests, "refused" if self.requests.held_until - now >= requests else "requests"
