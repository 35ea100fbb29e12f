"""Several accounts behind one face: each has its own limiter, and a request goes where there is capacity first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from parallel_openai.engine.bucket import Bucket
from parallel_openai.engine.counting import Counting
from parallel_openai.engine.limiter import INFINITY, Lease, Limiter
from parallel_openai.engine.retry import Dimension, Verdict, judge
from parallel_openai.engine.waiting import WaitingLine
from parallel_openai.errors import RunStoppedError
from parallel_openai.log import log
from parallel_openai.records import APIRequest, Response, Size, Usage
from parallel_openai.requests.endpoints import usage_of

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
        limiter: says when.
        post: puts a request on the wire.
        max_concurrent_requests: in flight at the most.
        out: why it is asked no more; None while it is.
        counts: what became of its requests, summed up over all runs.
    """

    name: str
    limiter: Limiter
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
    lease: Lease | None
    size: Size


class Sum:
    """One dimension of all the members' limits together."""

    def __init__(self, pool: PoolLimiter, dimension: Dimension) -> None:
        self._pool, self._dimension = pool, dimension

    @property
    def limit(self) -> float | None:
        """Per minute; None unless each member's is known."""
        limits = [each.limit * 60.0 / each.period for each in self._buckets if each.limit is not None]
        return sum(limits) if len(limits) == len(self._pool.alive) else None

    @property
    def period(self) -> float:
        return 60.0

    @property
    def rate(self) -> float:
        return sum(each.rate for each in self._buckets)

    @property
    def capacity(self) -> float:
        return sum(each.capacity for each in self._buckets)

    @property
    def known(self) -> bool:
        return all(each.known for each in self._buckets)

    @property
    def _buckets(self) -> list[Bucket]:
        limiters = [each.limiter for each in self._pool.alive]
        return [each.requests if self._dimension == "requests" else each.tokens for each in limiters]


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
        self._line = WaitingLine(clock)
        self.waited = self._line.waited
        self.requests = Sum(self, "requests")
        self.tokens = Sum(self, "tokens")
        self._next = 0
        self._last_stop: type[RunStoppedError] = RunStoppedError

    @property
    def alive(self) -> list[Member]:
        """Those that are asked; all of them where none is."""
        return [each for each in self.members if each.out is None] or list(self.members)

    @property
    def counting(self) -> Counting:
        return self.alive[0].limiter.counting

    @property
    def largest(self) -> float | None:
        sizes = [each.limiter.largest for each in self.alive]
        return None if None in sizes else max(filter(None, sizes))

    async def acquire(self, size: Size) -> PoolLease:
        """Wait in line until one of the members has capacity for the request, and set it aside there."""
        lease = self.at_once(size)
        if lease is not None:
            return lease
        return await self._line.wait(lambda: self._take_of_those_left(size), lambda: self._plan(size))

    def delay(self, size: Size) -> tuple[float, str]:
        """Seconds until some member may send the request, as far as is known, and what they are for."""
        return self._plan(size)

    def at_once(self, size: Size) -> PoolLease | None:
        """The same where nobody waits and there is room; else None."""
        self._check_left()
        return self._take(size) if self._line.is_empty else None

    @property
    def counts_tokens(self) -> bool:
        return any(each.limiter.counts_tokens for each in self.alive)

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
                verdict = judge(response, reached=member.reached)
                member.heard(response, verdict, sent_at, self.clock())
                if verdict.kind != "stop":
                    return response
            self._put_out(member, verdict)
            self._give_back(lease)
            moved = await self.acquire(lease.size)
            lease.member, lease.lease = moved.member, moved.lease

    def never_fits(self, size: Size) -> bool:
        return all(each.limiter.never_fits(size) for each in self.alive)

    def seems_too_large(self, size: Size, refusals: int, seconds: float, headers: Mapping[str, str]) -> bool:
        return all(each.limiter.seems_too_large(size, refusals, seconds, headers) for each in self.alive)

    def answered(self, lease: PoolLease, headers: Mapping[str, str], usage: Usage | None = None) -> None:
        if lease.lease is not None:
            lease.member.limiter.answered(lease.lease, headers, usage)
        self._line.tell()

    def refused(
        self, lease: PoolLease, headers: Mapping[str, str], dimension: Dimension | None, wait: float | None
    ) -> Any:
        refused: Callable[..., Any] = lease.member.limiter.refused
        held = refused(lease.lease, headers, dimension, wait) if lease.lease is not None else None
        self._line.tell()
        return held

    def slow_down(self, lease: PoolLease, wait: float | None) -> None:
        if lease.lease is not None:
            lease.member.limiter.slow_down(lease.lease, wait)
        self._line.tell()

    def unanswered(self, lease: PoolLease, *, hold: float = 0.0) -> None:
        if lease.lease is not None:
            lease.member.limiter.unanswered(lease.lease, hold=hold)
        self._line.tell()

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

    def _take(self, size: Size) -> PoolLease | None:
        """Of the members with capacity the one after the last that was taken, so that all learn their limits."""
        now = self.clock()
        for member in self._candidates(size):
            if member.has_room(now) and (lease := member.limiter.take(size)) is not None:
                self._next = self.members.index(member) + 1
                return PoolLease(member, lease, size)
        return None

    def _candidates(self, size: Size) -> Iterable[Member]:
        start = self._next % len(self.members)
        inside = [each for each in (*self.members[start:], *self.members[:start]) if each.out is None]
        return [each for each in inside if not each.limiter.never_fits(size)] or inside

    def _take_of_those_left(self, size: Size) -> PoolLease | None:
        self._check_left()
        return self._take(size)

    def _plan(self, size: Size) -> tuple[float, str]:
        now = self.clock()
        return min((self._delay(each, size, now) for each in self._candidates(size)), default=(INFINITY, "learning"))

    def _delay(self, member: Member, size: Size, now: float) -> tuple[float, str]:
        if not member.has_room(now):
            return member.rests_for(now), "refused"
        delay, cause = member.limiter.delay(size)
        return max(delay, 0.001), cause

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
        self._line.tell()

    def _give_back(self, lease: PoolLease) -> None:
        given, lease.lease = lease.lease, None
        if given is not None:
            lease.member.limiter.unanswered(given)
            self._line.tell()

    def _check_left(self) -> None:
        """Raises the last member's RunStoppedError where none is left."""
        if all(each.out is not None for each in self.members):
            reasons = "\n".join(f"{each.name}: {each.out}" for each in self.members)
            raise self._last_stop(f"No account of the pool is left. What was finished is kept.\n{reasons}")
