"""Several accounts as one: each has its own limiter, and a request goes to the first with capacity."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from parallel_openai._limits.admission import Level
from parallel_openai._limits.cost import Counting
from parallel_openai._limits.limiter import INFINITY, Lease, Limiter
from parallel_openai._limits.model_limiters import MOST_MODELS, ModelLimiters, Sum, sum_of_known
from parallel_openai._limits.queue import CapacityQueue
from parallel_openai._log import log
from parallel_openai._records import APIRequest, Dimension, Response, Size, Usage, Verdict
from parallel_openai._requests.endpoints import usage_of
from parallel_openai._run.failed_sends import Denials
from parallel_openai._run.response_verdict import judge
from parallel_openai.errors import RunStoppedError

#: After this many consecutive failures, a member gets single requests with a backoff in between until one succeeds.
BACKOFF_AFTER = 3
FIRST_BACKOFF = 1.0
LONGEST_BACKOFF = 60.0

#: The counters of each member.
COUNTS = ("requests_sent", "answered", "rate_limit_errors", "other_errors", "prompt_tokens", "completion_tokens")


@dataclass(eq=False)
class Member:
    """One account of a pool, and its state."""

    name: str  # for messages; contains no key
    limiter: ModelLimiters | Limiter  # the account's limiters, one per model
    post: Callable[[APIRequest], Awaitable[Response]]  # sends a request
    max_concurrent_requests: int = 500  # the most requests in flight
    out: str | None = None  # why it is excluded; None if it is not
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))  # of its requests over all runs
    reached: bool = False  # whether it has ever sent an HTTP response
    denials: Denials = field(default_factory=Denials)  # of its key
    _failures: int = 0
    _backoff: float = 0.0
    _backoff_began: float = 0.0

    def has_room(self, now: float) -> bool:
        if self._failures >= BACKOFF_AFTER and (self.limiter.in_flight or now < self._backoff_began + self._backoff):
            return False
        return self.limiter.in_flight < self.max_concurrent_requests

    def seconds_until_room(self, now: float) -> float:
        """Seconds until the backoff ends; infinity if that depends on a request in flight."""
        if self.limiter.in_flight >= self.max_concurrent_requests or self._failures < BACKOFF_AFTER:
            return INFINITY
        return INFINITY if self.limiter.in_flight else max(0.001, self._backoff_began + self._backoff - now)

    def record(self, response: Response, verdict: Verdict, sent_at: float, now: float) -> None:
        """Count a response, and back off after repeated failures."""
        self.reached = self.reached or bool(response.status)
        self._count(response, verdict)
        if verdict.kind == "done":
            self._failures, self._backoff = 0, 0.0
        elif verdict.kind in ("retry", "hold") and response.status != 429:
            self._failures += 1
            if self._failures >= BACKOFF_AFTER and sent_at >= self._backoff_began:
                self._backoff = min(LONGEST_BACKOFF, 2 * self._backoff or FIRST_BACKOFF)
                self._backoff_began = now

    def reset(self) -> None:
        """Include the member again, for a new run."""
        self.out, self.reached, self._failures, self._backoff = None, False, 0, 0.0
        self.denials = Denials(self.counts["answered"])

    def _count(self, response: Response, verdict: Verdict) -> None:
        counts = self.counts
        counts["requests_sent"] += 1
        if verdict.kind == "done":
            usage = usage_of(response.data) or Usage()
            counts["answered"] += 1
            counts["prompt_tokens"] += usage.prompt_tokens
            counts["completion_tokens"] += usage.completion_tokens
        else:
            counts["rate_limit_errors" if response.status == 429 else "other_errors"] += 1


@dataclass(slots=True)
class PoolLease:
    member: Member
    limiter: Limiter
    lease: Lease | None
    size: Size
    model: PoolModel


class PoolLimiter:
    """The limiters of several accounts with the interface of one.

    A lease has its member. A member that fails permanently (an invalid key, no credit, an unreachable server) is
    excluded and its requests go to the others; the run stops only when none is left.
    """

    def __init__(self, members: Sequence[Member], *, clock: Callable[[], float]) -> None:
        self.members = members
        self.clock = clock
        self._models: dict[str | None, PoolModel] = {}
        self._last_stop: type[RunStoppedError] = RunStoppedError

    def of(self, model: str | None) -> PoolModel:
        """One model's limiters at all accounts."""
        if model not in self._models:
            if len(self._models) >= MOST_MODELS and model is not None:
                return self.of(None)
            self._models[model] = PoolModel(self, model)
        return self._models[model]

    @property
    def active(self) -> list[Member]:
        """The members that are not excluded; all of them if none is left."""
        return [each for each in self.members if each.out is None] or list(self.members)

    @property
    def requests(self) -> Level:
        return Sum([each.limiter.requests for each in self.active])

    @property
    def tokens(self) -> Level:
        return Sum([each.limiter.tokens for each in self.active])

    def level(self, dimension: Dimension, models: Collection[str | None]) -> Level:
        return Sum([each.limiter.level(dimension, models) for each in self.active])

    async def send(self, request: APIRequest, lease: PoolLease) -> Response:
        """Send a request to the lease's member, and to another if that member fails permanently.

        Raises:
            RunStoppedError: the last member failed too.
        """
        while True:
            member, sent_at = lease.member, self.clock()
            try:
                response = await member.post(request)
            except RunStoppedError as error:  # there is no key
                verdict = Verdict("stop", message=str(error), stop=type(error))
            else:
                verdict = judge(response, reached=member.reached, path=request.path)
                member.record(response, verdict, sent_at, self.clock())
                if verdict.kind != "stop" or member.denials.is_of_request(verdict, request, member.counts["answered"]):
                    return response
            self._exclude(member, verdict)
            self._return_lease(lease)
            moved = await lease.model.acquire(lease.size)
            lease.member, lease.limiter, lease.lease = moved.member, moved.limiter, moved.lease

    def include_all(self) -> None:
        """Include all members again, for a new run."""
        for each in self.members:
            each.reset()

    def counts(self, since: Sequence[Mapping[str, Any]] | None = None) -> list[dict[str, Any]]:
        """The counts of each member as plain data: since earlier counts, or in total."""
        first = since or [dict.fromkeys(COUNTS, 0)] * len(self.members)
        return [
            {"name": each.name, **{name: each.counts[name] - before[name] for name in COUNTS}, "out": each.out}
            for each, before in zip(self.members, first, strict=True)
        ]

    def notify(self) -> None:
        """Let the first waiting request of each model check again, since a member's state changed."""
        for each in self._models.values():
            each.queue.tell()

    def check_left(self) -> None:
        """Raise the last member's RunStoppedError if none is left."""
        if all(each.out is not None for each in self.members):
            reasons = "\n".join(f"{each.name}: {each.out}" for each in self.members)
            raise self._last_stop(f"No account of the pool is left. What was finished is kept.\n{reasons}")

    def _exclude(self, member: Member, verdict: Verdict) -> None:
        if member.out is not None:
            return
        member.out = verdict.message or verdict.code or "refused"
        left = sum(each.out is None for each in self.members)
        self._last_stop = verdict.stop or RunStoppedError
        if left:
            log.warning(
                "%s is excluded from the pool, %d of %d remain: %s", member.name, left, len(self.members), member.out
            )
        self.notify()

    def _return_lease(self, lease: PoolLease) -> None:
        returned, lease.lease = lease.lease, None
        if returned is not None:
            lease.limiter.unanswered(returned)
            self.notify()


class PoolModel:
    """One model's limiters at all the accounts of a pool."""

    def __init__(self, pool: PoolLimiter, name: str | None) -> None:
        self.name = name
        self.may_move = False  # its members' limiters are looked up for each request
        self.queue = CapacityQueue(pool.clock)
        self.waited = self.queue.waited
        self._pool = pool
        self._next = 0

    def of(self, model: str | None) -> PoolModel:
        """Itself, since it is for one model."""
        return self

    @property
    def requests(self) -> Level:
        return Sum([each.requests for each in self._limiters])

    @property
    def tokens(self) -> Level:
        return Sum([each.tokens for each in self._limiters])

    def level(self, dimension: Dimension, models: Collection[str | None]) -> Level:
        return self.requests if dimension == "requests" else self.tokens

    @property
    def counting(self) -> Counting:
        return self._limiters[0].counting

    @property
    def most_at_once(self) -> int | None:
        return sum_of_known(each.most_at_once for each in self._limiters)

    @property
    def overrules_waits(self) -> bool:
        return any(each.overrules_waits for each in self._limiters)

    @property
    def counts_tokens(self) -> bool:
        return any(each.counts_tokens for each in self._limiters)

    @property
    def largest(self) -> float | None:
        sizes = [each.largest for each in self._limiters]
        return None if None in sizes else max(filter(None, sizes))

    async def acquire(self, size: Size) -> PoolLease:
        lease = self.at_once(size)
        if lease is not None:
            return lease
        return await self.queue.wait(lambda: self._take_checked(size), lambda: self.delay(size))

    def delay(self, size: Size) -> tuple[float, str]:
        now = self._pool.clock()
        return min((self._delay(each, size, now) for each in self._candidates(size)), default=(INFINITY, "learning"))

    def at_once(self, size: Size) -> PoolLease | None:
        self._pool.check_left()
        return self._take(size) if self.queue.count == 0 else None

    def never_fits(self, size: Size) -> bool:
        return all(each.never_fits(size) for each in self._limiters)

    def seems_too_large(self, size: Size, refusals: int, seconds: float, headers: Mapping[str, str]) -> bool:
        return all(each.seems_too_large(size, refusals, seconds, headers) for each in self._limiters)

    def answered(
        self, lease: PoolLease, headers: Mapping[str, str], usage: Usage | None = None, *, worked: bool = True
    ) -> None:
        if lease.lease is not None:
            lease.limiter.answered(lease.lease, headers, usage, worked=worked)
        self._pool.notify()

    def refused(
        self, lease: PoolLease, headers: Mapping[str, str], dimension: Dimension | None, wait: float | None
    ) -> Any:
        refused: Callable[..., Any] = lease.limiter.refused
        hold = refused(lease.lease, headers, dimension, wait) if lease.lease is not None else None
        self._pool.notify()
        return hold

    def slow_down(self, lease: PoolLease, wait: float | None) -> None:
        if lease.lease is not None:
            lease.limiter.slow_down(lease.lease, wait)
        self._pool.notify()

    def overloaded(self, lease: PoolLease, wait: float | None) -> bool:
        was_full = lease.lease is not None and lease.limiter.overloaded(lease.lease, wait)
        self._pool.notify()
        return was_full

    def unanswered(self, lease: PoolLease, *, hold: float = 0.0) -> None:
        if lease.lease is not None:
            lease.limiter.unanswered(lease.lease, hold=hold)
        self._pool.notify()

    @property
    def _limiters(self) -> list[Limiter]:
        return [self._of(each) for each in self._pool.active]

    def _of(self, member: Member) -> Limiter:
        return member.limiter.of(self.name)

    def _take(self, size: Size) -> PoolLease | None:
        """A lease of the next member with capacity, in turn, so that the limits of all are learned."""
        now = self._pool.clock()
        for member in self._candidates(size):
            limiter = self._of(member)
            if member.has_room(now) and (lease := limiter.take(size)) is not None:
                self._next = self._pool.members.index(member) + 1
                return PoolLease(member, limiter, lease, size, self)
        return None

    def _candidates(self, size: Size) -> Iterable[Member]:
        members = self._pool.members
        start = self._next % len(members)
        included = [each for each in (*members[start:], *members[:start]) if each.out is None]
        return [each for each in included if not self._of(each).never_fits(size)] or included

    def _take_checked(self, size: Size) -> PoolLease | None:
        self._pool.check_left()
        return self._take(size)

    def _delay(self, member: Member, size: Size, now: float) -> tuple[float, str]:
        if not member.has_room(now):
            return member.seconds_until_room(now), "refused"
        delay, cause = self._of(member).delay(size)
        return max(delay, 0.001), cause
