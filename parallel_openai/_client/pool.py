"""Several accounts behind one face: each has its own limiter, and a request goes where there is capacity first."""

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
from parallel_openai._run.response_verdict import judge
from parallel_openai.errors import RunStoppedError

#: So many broken sends in a row, and an account is asked one by one, with a rest in between, until an answer comes.
REST_AFTER = 3
FIRST_REST = 1.0
LONGEST_REST = 60.0


#: What is counted for each member.
COUNTS = ("requests_sent", "answered", "rate_limit_errors", "other_errors", "prompt_tokens", "completion_tokens")


@dataclass(eq=False)
class Member:
    """One account of a pool, and how it does.

    Attributes:
        name: for people; it shows no key.
        limiter: says when, for each model.
        post: puts a request on the wire.
        max_concurrent_requests: in flight at the most.
        out: why it is asked no more; None while it is.
        counts: what became of its requests, summed up over all runs.
    """

    name: str
    limiter: ModelLimiters | Limiter
    post: Callable[[APIRequest], Awaitable[Response]]
    max_concurrent_requests: int = 500
    out: str | None = None
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    reached: bool = False
    _broken: int = 0
    _rest: float = 0.0
    _rest_began: float = 0.0

    def has_room(self, now: float) -> bool:
        if self._broken >= REST_AFTER and (self.limiter.in_flight or now < self._rest_began + self._rest):
            return False
        return self.limiter.in_flight < self.max_concurrent_requests

    def rests_for(self, now: float) -> float:
        """Seconds; infinity where only an answer can tell."""
        if self.limiter.in_flight >= self.max_concurrent_requests or self._broken < REST_AFTER:
            return INFINITY
        return INFINITY if self.limiter.in_flight else max(0.001, self._rest_began + self._rest - now)

    def heard(self, response: Response, verdict: Verdict, sent_at: float, now: float) -> None:
        """Keep the counts, and rest where nothing but broken answers comes."""
        self.reached = self.reached or bool(response.status)
        self._count(response, verdict)
        if verdict.kind == "done":
            self._broken, self._rest = 0, 0.0
        elif verdict.kind in ("retry", "hold") and response.status != 429:
            self._broken += 1
            if self._broken >= REST_AFTER and sent_at >= self._rest_began:
                self._rest = min(LONGEST_REST, 2 * self._rest or FIRST_REST)
                self._rest_began = now

    def come_back(self) -> None:
        """A new run tries it again."""
        self.out, self.reached, self._broken, self._rest = None, False, 0, 0.0

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
    """The right to send one request to this member."""

    member: Member
    limiter: Limiter
    lease: Lease | None
    size: Size
    model: PoolModel


class PoolLimiter:
    """The limiters of several accounts behind one face.

    A lease remembers its member. One that is refused for good (a wrong key, no credit, nobody there) is put out of the
    pool, and what was sent to it goes to the others; only when none is left, the run stops.

    Args:
        members: the accounts.
        clock: seconds, never going back.
    """

    def __init__(self, members: Sequence[Member], *, clock: Callable[[], float]) -> None:
        self.members = members
        self.clock = clock
        self._models: dict[str | None, PoolModel] = {}
        self._last_stop: type[RunStoppedError] = RunStoppedError

    def of(self, model: str | None) -> PoolModel:
        """The limiters of one model at all accounts."""
        if model not in self._models:
            if len(self._models) >= MOST_MODELS and model is not None:
                return self.of(None)
            self._models[model] = PoolModel(self, model)
        return self._models[model]

    @property
    def alive(self) -> list[Member]:
        """Those that are asked; all of them where none is."""
        return [each for each in self.members if each.out is None] or list(self.members)

    @property
    def requests(self) -> Level:
        return Sum([each.limiter.requests for each in self.alive])

    @property
    def tokens(self) -> Level:
        return Sum([each.limiter.tokens for each in self.alive])

    def level(self, dimension: Dimension, models: Collection[str | None]) -> Level:
        return Sum([each.limiter.level(dimension, models) for each in self.alive])

    async def send(self, request: APIRequest, lease: PoolLease) -> Response:
        """Send it to the lease's member; where that one turns out to be refused for good, to another.

        Raises:
            RunStoppedError: the last member was refused for good too.
        """
        while True:
            member, sent_at = lease.member, self.clock()
            try:
                response = await member.post(request)
            except RunStoppedError as error:  # nobody gives it a key
                verdict = Verdict("stop", message=str(error), stop=type(error))
            else:
                verdict = judge(response, reached=member.reached, path=request.path)
                member.heard(response, verdict, sent_at, self.clock())
                if verdict.kind != "stop":
                    return response
            self._put_out(member, verdict)
            self._give_back(lease)
            moved = await lease.model.acquire(lease.size)
            lease.member, lease.limiter, lease.lease = moved.member, moved.limiter, moved.lease

    def begin(self) -> None:
        """A new run tries all members."""
        for each in self.members:
            each.come_back()

    def counts(self, since: Sequence[Mapping[str, Any]] | None = None) -> list[dict[str, Any]]:
        """How each member does, as plain data: since the counts that were given then, or in all."""
        first = since or [dict.fromkeys(COUNTS, 0)] * len(self.members)
        return [
            {"name": each.name, **{name: each.counts[name] - before[name] for name in COUNTS}, "out": each.out}
            for each, before in zip(self.members, first, strict=True)
        ]

    def tell(self) -> None:
        """There is news of a member: whoever is first in line for a model looks again."""
        for each in self._models.values():
            each.queue.tell()

    def check_left(self) -> None:
        """Raises the last member's RunStoppedError where none is left."""
        if all(each.out is not None for each in self.members):
            reasons = "\n".join(f"{each.name}: {each.out}" for each in self.members)
            raise self._last_stop(f"No account of the pool is left. What was finished is kept.\n{reasons}")

    def _put_out(self, member: Member, verdict: Verdict) -> None:
        if member.out is not None:
            return
        member.out = verdict.message or verdict.code or "refused"
        left = sum(each.out is None for each in self.members)
        self._last_stop = verdict.stop or RunStoppedError
        if left:
            log.warning(
                "%s is put out of the pool, %d of %d go on: %s", member.name, left, len(self.members), member.out
            )
        self.tell()

    def _give_back(self, lease: PoolLease) -> None:
        given, lease.lease = lease.lease, None
        if given is not None:
            lease.limiter.unanswered(given)
            self.tell()


class PoolModel:
    """One model's limiters at all the accounts of a pool.

    Args:
        pool: whose.
        name: the model's; None: whatever requests that name none are for.
    """

    def __init__(self, pool: PoolLimiter, name: str | None) -> None:
        self.name = name
        self.may_move = False  # its accounts' limiters are asked for at each request
        self.queue = CapacityQueue(pool.clock)
        self.waited = self.queue.waited
        self._pool = pool
        self._next = 0

    def of(self, model: str | None) -> PoolModel:
        """Itself: it serves one model."""
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
    def counts_tokens(self) -> bool:
        return any(each.counts_tokens for each in self._limiters)

    @property
    def largest(self) -> float | None:
        sizes = [each.largest for each in self._limiters]
        return None if None in sizes else max(filter(None, sizes))

    async def acquire(self, size: Size) -> PoolLease:
        """Wait in line until one of the members has capacity for the request, and set it aside there."""
        lease = self.at_once(size)
        if lease is not None:
            return lease
        return await self.queue.wait(lambda: self._take_of_those_left(size), lambda: self.delay(size))

    def delay(self, size: Size) -> tuple[float, str]:
        """Seconds until some member may send the request, as far as is known, and what they are for."""
        now = self._pool.clock()
        return min((self._delay(each, size, now) for each in self._candidates(size)), default=(INFINITY, "learning"))

    def at_once(self, size: Size) -> PoolLease | None:
        """The same where nobody waits and there is room; else None."""
        self._pool.check_left()
        return self._take(size) if self.queue.count == 0 else None

    def never_fits(self, size: Size) -> bool:
        return all(each.never_fits(size) for each in self._limiters)

    def seems_too_large(self, size: Size, refusals: int, seconds: float, headers: Mapping[str, str]) -> bool:
        return all(each.seems_too_large(size, refusals, seconds, headers) for each in self._limiters)

    def answered(self, lease: PoolLease, headers: Mapping[str, str], usage: Usage | None = None) -> None:
        if lease.lease is not None:
            lease.limiter.answered(lease.lease, headers, usage)
        self._pool.tell()

    def refused(
        self, lease: PoolLease, headers: Mapping[str, str], dimension: Dimension | None, wait: float | None
    ) -> Any:
        refused: Callable[..., Any] = lease.limiter.refused
        held = refused(lease.lease, headers, dimension, wait) if lease.lease is not None else None
        self._pool.tell()
        return held

    def slow_down(self, lease: PoolLease, wait: float | None) -> None:
        if lease.lease is not None:
            lease.limiter.slow_down(lease.lease, wait)
        self._pool.tell()

    def unanswered(self, lease: PoolLease, *, hold: float = 0.0) -> None:
        if lease.lease is not None:
            lease.limiter.unanswered(lease.lease, hold=hold)
        self._pool.tell()

    @property
    def _limiters(self) -> list[Limiter]:
        return [self._of(each) for each in self._pool.alive]

    def _of(self, member: Member) -> Limiter:
        return member.limiter.of(self.name)

    def _take(self, size: Size) -> PoolLease | None:
        """Of the members with capacity the one after the last that was taken, so that all learn their limits."""
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
        inside = [each for each in (*members[start:], *members[:start]) if each.out is None]
        return [each for each in inside if not self._of(each).never_fits(size)] or inside

    def _take_of_those_left(self, size: Size) -> PoolLease | None:
        self._pool.check_left()
        return self._take(size)

    def _delay(self, member: Member, size: Size, now: float) -> tuple[float, str]:
        if not member.has_room(now):
            return member.rests_for(now), "refused"
        delay, cause = self._of(member).delay(size)
        return max(delay, 0.001), cause
