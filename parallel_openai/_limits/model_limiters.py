"""A client's limiters, one for each model. Learned limits belong to a model; those given by the caller hold for all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from parallel_openai._limits.admission import LONG, Admission, Admissions, Level
from parallel_openai._limits.bucket import ROUNDING, SHORTEST_WAIT, USUAL_WINDOW
from parallel_openai._limits.common.common_limits import CommonLimits
from parallel_openai._limits.cost import Lot
from parallel_openai._limits.limiter import Lease, Limiter
from parallel_openai._records import Dimension, Size

INFINITY = float("inf")
#: At most this many models get a limiter of their own. Any further ones, as in a file that names more, share one.
MOST_MODELS = 200
#: A limiter whose turn passed this many seconds ago is no longer waited for.
GONE_AFTER = 1.0


class Sum:
    """The sum of several levels, at most `most`. Its limit is None if one of theirs is unknown."""

    def __init__(self, levels: Sequence[Level], most: float | None = None) -> None:
        self._levels, self._most = levels, INFINITY if most is None else most

    @property
    def limit(self) -> float | None:
        """The sum of the limits, per minute."""
        limits = [each.limit * 60.0 / each.period for each in self._levels if each.limit is not None]
        return min(self._most, sum(limits)) if len(limits) == len(self._levels) else None

    @property
    def period(self) -> float:
        return 60.0

    @property
    def rate(self) -> float:
        return min(self._most / 60.0, sum(each.rate for each in self._levels))

    @property
    def capacity(self) -> float:
        return sum(each.capacity for each in self._levels)

    @property
    def known(self) -> bool:
        return all(each.known for each in self._levels)


class ModelLimiters:
    """Keeps a limiter for each model, which learns that model's limits. It is made on first use.

    >>> limiters = ModelLimiters(600, clock=lambda: 0.0)
    >>> limiters.of("small").requests.set_limit(60, 0.0)
    >>> limiters.of("small").requests.limit, limiters.of("large").requests.limit, limiters.requests.limit
    (60, 600, 600)
    """

    def __init__(
        self,
        # What all models together may use; None leaves each to the server's limits.
        max_requests_per_minute: float | None = None,
        max_tokens_per_minute: float | None = None,
        *,
        # As in `Limiter`:
        burst: float | None = None,
        clock: Callable[[], float],
    ) -> None:
        self.given = max_requests_per_minute, max_tokens_per_minute
        self.clock = clock
        self._burst = burst
        self._limiters: dict[str | None, Limiter] = {}
        limited = self.given != (None, None)
        self._ceiling = _Ceiling(*self.given, burst, self._limiters.values(), clock()) if limited else None
        self._unused = self._new(None)
        # With given limits, all models keep to their sum anyway.
        self._common = None if limited else CommonLimits()
        # Called whenever a model's limiter is looked up.
        self.on_use: Callable[[str | None, Limiter], None] | None = None

    def of(self, model: str | None) -> Limiter:
        """The model's limiter.

        A model's long prompts share its limiter if the server shows the same limits for them. All models share one if
        the server says that its limits are for all.
        """
        limiter = self._limiters.get(model)
        if limiter is None:
            if len(self._limiters) >= MOST_MODELS and model is not None:
                return self.of(None)
            limiter = self._limiters[model] = self._new(model)
            limiter.may_move = model is not None and LONG in model
            if self._common is not None:
                self._common.add(list(self._limiters.values()))
        if self.on_use is not None:
            self.on_use(model, limiter)
        return self._now(model) if limiter.may_move else limiter

    def __iter__(self) -> Iterator[tuple[str | None, Limiter]]:
        """The models used so far, with their limiters."""
        return iter(list(self._limiters.items()))

    @property
    def in_flight(self) -> int:
        return sum(each.in_flight for each in self._limiters.values())

    @property
    def requests(self) -> Level:
        return self.level("requests", self._known("requests"))

    @property
    def tokens(self) -> Level:
        return self.level("tokens", self._known("tokens"))

    def level(self, dimension: Dimension, models: Collection[str | None]) -> Level:
        """One dimension of these models' limits together; without any model, the given limit."""
        limiters = [self._now(model) for model in models if model in self._limiters] or [self._unused]
        levels = list(dict.fromkeys(getattr(each, dimension) for each in limiters))
        return levels[0] if len(levels) == 1 else Sum(levels, self.given[dimension == "tokens"])

    def set_share(self, share: float) -> None:
        """Use this part of the given limits from now on, since other processes use the rest."""
        if self._ceiling is not None:
            self._ceiling.share = share

    def _known(self, dimension: Dimension) -> list[str | None]:
        """The models whose limit of this dimension is known; if there are none, the first model."""
        known = [model for model, each in self._limiters.items() if getattr(each, dimension).limit is not None]
        return known or list(self._limiters)[:1]

    def _now(self, model: str | None) -> Limiter:
        """The limiter that holds for the model's requests, by what the server has shown so far."""
        limiter = self._limiters[model]
        if not limiter.may_move:
            return limiter
        if limiter.holds_for_all:
            return next(each for each in self._limiters.values() if each.holds_for_all)
        usual = self._limiters.get((model or "").rpartition(LONG)[0])
        return usual if usual is not None and _shows_the_same(limiter, usual) else limiter

    def _new(self, model: str | None) -> Limiter:
        if self._ceiling is None:
            return Limiter(*self.given, burst=self._burst, clock=self.clock)
        return _Bounded(self._ceiling, *self.given, burst=self._burst, clock=self.clock)


def sum_of_known(numbers: Iterable[int | None]) -> int | None:
    """The sum of the numbers, or None if one of them is unknown."""
    known = list(numbers)
    return None if None in known else sum(filter(None, known)) or None


class InUse:
    """The limiters that a run uses, with their levels and waits together."""

    def __init__(self, admissions: Admissions) -> None:
        self.several = False
        self._admissions = admissions
        self._admission_of: dict[str | None, Admission] = {}
        self._waited_before: dict[Admission, Mapping[str, float]] = {}

    def of(self, model: str | None) -> Admission:
        admission = self._admission_of.get(model)
        if admission is None or admission.may_move:
            admission = self._admission_of[model] = self._admissions.of(model)
            self._waited_before.setdefault(admission, dict(admission.waited))
            self.several = len(self._waited_before) > 1
        return admission

    @property
    def requests(self) -> Level:
        return self._admissions.level("requests", self._admission_of)

    @property
    def tokens(self) -> Level:
        return self._admissions.level("tokens", self._admission_of)

    @property
    def most_at_once(self) -> int | None:
        """The number of requests in flight that the server accepts for all models together; None if unknown for one."""
        return sum_of_known(admission.most_at_once for admission in self._waited_before)

    @property
    def waited(self) -> Mapping[str, float]:
        """Seconds waited since the run first used each model, by cause, for all its models together."""
        waited: Counter[str] = Counter()
        for admission, before in self._waited_before.items():
            waited.update({cause: seconds - before.get(cause, 0.0) for cause, seconds in admission.waited.items()})
        return waited


def _shows_the_same(one: Limiter, other: Limiter) -> bool:
    """Whether the server has shown limits for both limiters, and they are equal."""
    pairs = (one.requests, other.requests), (one.tokens, other.tokens)
    shown = [(first.limit, second.limit) for first, second in pairs if first.seen and second.seen]
    return bool(shown) and all(first == second for first, second in shown)


class _Ceiling:
    """The limits that the caller set for all models of an account together.

    Each model's limiter keeps within them on its own, so this only matters with several models or other processes. A
    limiter that waits for more than is left is served before those that came later.
    """

    def __init__(
        self,
        max_requests_per_minute: float | None,
        max_tokens_per_minute: float | None,
        burst: float | None,
        limiters: Collection[Limiter],
        now: float,
    ) -> None:
        self.share = 1.0
        self._burst, self._limiters = burst, limiters
        window = USUAL_WINDOW if burst is None else burst
        self._requests = _Store(max_requests_per_minute, window, now)
        self._tokens = _Store(max_tokens_per_minute, window, now)
        self._waiting: dict[Limiter, tuple[float, float]] = {}  # the tokens wanted, and when they are due

    def charge(self, requests: float, tokens: float, now: float) -> None:
        self._requests.charge(requests, now)
        self._tokens.charge(tokens, now)

    def seconds_until(self, limiter: Limiter, cost: float, now: float) -> tuple[float, str]:
        """Seconds until a limiter may send a request of that cost, and their cause."""
        if len(self._limiters) < 2 and self.share >= limiter.requests.share:
            return 0.0, "requests"
        self._look_at_windows()
        requests, tokens = 1.0, cost
        for other, (others_cost, due) in list(self._waiting.items()):
            if other is limiter:
                break
            if due < now - GONE_AFTER:
                del self._waiting[other]
            else:
                requests, tokens = requests + 1.0, tokens + others_cost
        waits = self._requests.seconds_until(requests, now), self._tokens.seconds_until(tokens, now)
        if max(waits) > 0.0:
            self._waiting[limiter] = cost, now + max(waits)
        else:
            self.does_not_wait(limiter)
        return max(waits), "tokens" if waits[1] > waits[0] else "requests"

    def does_not_wait(self, limiter: Limiter) -> None:
        self._waiting.pop(limiter, None)

    def _look_at_windows(self) -> None:
        """Shorten the window to the shortest that was learned for a model, since the account probably has it too."""
        window = self._burst
        if window is None:
            buckets = [each.requests for each in self._limiters if each.requests.known]
            window = min((each.capacity / each.rate for each in buckets), default=USUAL_WINDOW)
        self._requests.resize(self.share, window)
        self._tokens.resize(self.share, window)


class _Store:
    """The bucket of one dimension of the ceiling; without a limit, it always has enough."""

    __slots__ = ("_capacity", "_level", "_rate", "_updated", "_whole")

    def __init__(self, limit: float | None, window: float, now: float) -> None:
        self._whole = self._rate = INFINITY if limit is None else limit / 60.0
        self._level = self._capacity = max(1.0, self._rate * window)
        self._updated = now

    def resize(self, share: float, window: float) -> None:
        """Make the bucket hold `window` seconds of this share of the limit. What is missing in it stays missing."""
        if self._whole == INFINITY:
            return
        self._rate, before = share * self._whole, self._capacity
        self._capacity = max(1.0, self._rate * window)
        self._level = max(self._level + self._capacity - before, min(self._level, 0.0))

    def charge(self, cost: float, now: float) -> None:
        if self._whole != INFINITY:
            self._level = min(self._capacity, self._level + self._rate * (now - self._updated)) - cost
            self._updated = now

    def seconds_until(self, cost: float, now: float) -> float:
        """Seconds until a charge may go. One beyond the capacity goes when the bucket is full, and leaves a debt."""
        if self._whole == INFINITY:
            return 0.0
        self.charge(0.0, now)
        short = min(cost, self._capacity) - self._level
        return max(short / self._rate, SHORTEST_WAIT) if short > ROUNDING * self._capacity else 0.0


class _Bounded(Limiter):
    """A model's limiter that also keeps to the account's ceiling."""

    def __init__(
        self, ceiling: _Ceiling, *limits: float | None, burst: float | None, clock: Callable[[], float]
    ) -> None:
        super().__init__(*limits, burst=burst, clock=clock)
        self._ceiling = ceiling

    def _plan(self, cost: float, now: float) -> tuple[float, str]:
        own = super()._plan(cost, now)
        if own[0] > 0:
            self._ceiling.does_not_wait(self)
            return own
        return self._ceiling.seconds_until(self, cost, now)

    def _book(self, size: Size, lot: Lot, now: float) -> Lease:
        lease = super()._book(size, lot, now)
        self._ceiling.charge(1.0, lease.token_mark.cost, now)
        return lease

    def _settle(self, tokens: float) -> None:
        super()._settle(tokens)
        self._ceiling.charge(0.0, tokens, self.clock())
