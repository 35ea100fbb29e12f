"""Record what happened when in a run, in bounded memory, for the report."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields

from parallel_openai._limits.admission import RunLimits, per_minute
from parallel_openai._limits.cost import RULES
from parallel_openai._progress.cap_advice import SmallerCap, smaller_cap
from parallel_openai._records import APIRequest, Size, Usage, Verdict

#: Slices begin at one second; at this number, pairs are merged.
MOST_SLICES = 1800
#: Sample size for the cost of another cap: every request is kept at first, then every second, fourth, ...
MOST_SIZES = 512
#: Attempts of a slice between two readings of the limits.
LOOK_EVERY = 16
#: Bins of latencies: 5 % wide, from a millisecond to some hours.
SHORTEST, STEP, STEPS = 0.001, 1.05, 340
_STEPS_IN_E = 1 / math.log(STEP)
#: The parameters that cap an answer.
CAPS = ("max_completion_tokens", "max_tokens", "max_output_tokens")


@dataclass(slots=True)
class Slice:
    """What happened within an interval."""

    sent: int = 0  # attempts, including retries
    answered: int = 0  # complete answers
    refused: int = 0  # 429s
    failed: int = 0  # other errors
    # What the interval's attempts cost against the token limit, by the server's rule if it is known.
    tokens_charged: float = 0.0
    tokens_used: int = 0  # tokens in the answers' `usage`
    seconds: float = 0.0  # sum of the answers' latencies
    # The limits in force; None if unknown.
    max_requests_per_minute: float | None = None
    max_tokens_per_minute: float | None = None

    def join(self, later: Slice) -> None:
        """Merge the next slice into this one."""
        for name in SUMS:
            setattr(self, name, getattr(self, name) + getattr(later, name))
        for name in LIMITS:
            if getattr(later, name) is not None:
                setattr(self, name, getattr(later, name))


LIMITS = ("max_requests_per_minute", "max_tokens_per_minute")
SUMS = tuple(each.name for each in fields(Slice) if each.name not in LIMITS)


class Histogram:
    """A histogram of seconds in fixed memory, with percentiles accurate to about 3 %.

    >>> seconds = Histogram()
    >>> for each in range(1, 101):
    ...     seconds.add(each / 10)
    >>> [round(seconds.percentile(share)) for share in (0.5, 0.9, 1.0)]
    [5, 9, 10]
    """

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.longest = 0.0
        self._counts = [0] * STEPS

    def add(self, seconds: float) -> None:
        step = int(math.log(seconds / SHORTEST) * _STEPS_IN_E) if seconds > SHORTEST else 0
        self._counts[step if step < STEPS else STEPS - 1] += 1
        self.count += 1
        self.total += seconds
        if seconds > self.longest:
            self.longest = seconds

    def percentile(self, share: float) -> float:
        """The seconds that this share does not exceed; 0 without data."""
        rank, seen = share * self.count, 0
        for step, count in enumerate(self._counts):
            seen += count
            if count and seen >= rank:
                return min(SHORTEST * STEP ** (step + 0.5 if share < 1.0 else STEPS), self.longest)
        return 0.0


@dataclass(slots=True)
class SizeSample:
    """An even sample of the answered requests' sizes, with their models and the longest answer."""

    kept: list[Size] = field(default_factory=list)
    longest_output: int = 0
    answers: int = 0
    cap: str = CAPS[0]
    models: set[str | None] = field(default_factory=set)
    _every: int = 1

    def add(self, request: APIRequest, model: str | None, size: Size, output: int) -> None:
        if not self.answers:
            self.cap = next((name for name in CAPS if name in request.request_json), CAPS[0])
        self.models.add(model)
        self.longest_output = max(self.longest_output, output)
        if self.answers % self._every == 0:
            self.kept.append(size)
            if len(self.kept) >= MOST_SIZES:
                del self.kept[1::2]
                self._every *= 2
        self.answers += 1


class Timeline:
    """The course of a run, recorded by the runner; times are seconds on the runner's clock.

    >>> timeline = Timeline()
    >>> timeline.sent(0.5); timeline.sent(2.5)
    >>> [each.sent for each in timeline.slices]
    [1, 0, 1]
    """

    def __init__(self) -> None:
        # What happened in each `width` seconds, from the start.
        self.slices: list[Slice] = []
        self.width = 1.0
        self.latency = Histogram()  # seconds from sending a request to the last byte of its answer
        # 429s by reason: `requests`, `tokens`, `slow_down`, `quota`, or `unknown` if the server does not say.
        self.refusals: Counter[str] = Counter()
        # Seconds that the next request had to wait, by cause, as in `Limiter.waited`. Concurrent runs of one client
        # wait for each other, and each counts that.
        self.waited: dict[str, float] = {}
        self.seconds = 0.0  # how long the runner worked on requests
        self.most_at_once: int | None = None  # how many concurrent requests the server accepts, if it refused more
        # A smaller cap on the answers that would have made the run faster, if there is one.
        self.advice: SmallerCap | None = None
        self._sizes = SizeSample()
        self._limiter: RunLimits | None = None
        self._origin: float | None = None
        self._began = 0.0
        self._waited_before: dict[str, float] = {}
        self._first_sent: float | None = None
        self._last_seen = 0.0

    def begin(self, limiter: RunLimits, now: float) -> None:
        """Start the clock for requests within these limits."""
        self._limiter = limiter
        self._began = now
        self._waited_before = dict(limiter.waited)
        if self._origin is None:
            self._origin = now

    def end(self, now: float, *, max_concurrent_requests: int) -> None:
        if self.slices:
            self._record_limits(self.slices[-1])
        limiter, self._limiter = self._limiter, None
        assert limiter is not None
        self.seconds += now - self._began
        for cause, seconds in limiter.waited.items():
            waited = seconds - self._waited_before.get(cause, 0.0)
            self.waited[cause] = self.waited.get(cause, 0.0) + waited
        self.most_at_once = limiter.most_at_once
        self.advice = self._smaller_cap(limiter, max_concurrent_requests)

    def sent(self, at: float) -> None:
        if self._first_sent is None or at < self._first_sent:  # workers report out of order
            self._first_sent = at
        piece = self._slice(at)
        piece.sent += 1
        if piece.sent % LOOK_EVERY == 1:
            self._record_limits(piece)

    def answered(
        self,
        sent_at: float,
        now: float,
        request: APIRequest,
        model: str | None,
        size: Size,
        seconds: float,
        usage: Usage | None,
    ) -> None:
        self._last_seen = max(self._last_seen, now)
        piece = self._slice(now)
        piece.answered += 1
        piece.seconds += seconds
        self.latency.add(seconds)
        if usage is not None:
            piece.tokens_used += usage.total_tokens
            if size.max_output_tokens:
                self._sizes.add(request, model, size, usage.completion_tokens)
        if self._limiter is not None:
            counting = self._limiter.of(model).counting
            charged = usage.total_tokens if usage and RULES[counting.rule].settles else counting.at_send(size)
            self._slice(sent_at).tokens_charged += charged

    def failed(self, now: float, status: int, verdict: Verdict) -> None:
        self._last_seen = max(self._last_seen, now)
        if status == 429:
            self._slice(now).refused += 1
            self.refusals[_why(verdict)] += 1
        else:
            self._slice(now).failed += 1

    def utilisation(self) -> dict[str, float]:
        """The used share of each known limit, from the first attempt to the last answer.

        Above 1 if the account started with unused capacity.
        """
        used = {
            "requests": float(sum(each.answered for each in self.slices)),
            "tokens": sum(each.tokens_charged for each in self.slices),
        }
        allowed = {"requests": 0.0, "tokens": 0.0}
        for seconds, requests, tokens in self._busy_limits():
            allowed["requests"] += (requests or 0.0) / 60.0 * seconds
            allowed["tokens"] += (tokens or 0.0) / 60.0 * seconds
        return {name: used[name] / allowed[name] for name in used if allowed[name]}

    def limits(self) -> Iterator[tuple[float | None, float | None]]:
        """The limits in force in each slice; one without attempts has the previous slice's, the first ones the next."""
        known: list[float | None] = [
            next((limit for each in self.slices if (limit := getattr(each, name)) is not None), None) for name in LIMITS
        ]
        for each in self.slices:
            known = [
                now if (now := getattr(each, name)) is not None else before
                for name, before in zip(LIMITS, known, strict=True)
            ]
            yield known[0], known[1]

    def _smaller_cap(self, limiter: RunLimits, max_concurrent_requests: int) -> SmallerCap | None:
        sizes = self._sizes
        if len(sizes.models) != 1:  # models differ in limits and answers
            return None
        [model] = sizes.models
        return smaller_cap(
            limiter.of(model),
            sizes.kept,
            name=sizes.cap,
            answers=sizes.answers,
            longest=sizes.longest_output,
            seconds=self.seconds,
            waited=self.waited.get("tokens", 0.0),
            fastest=max(self.latency.total / max_concurrent_requests, self.latency.percentile(0.5)),
        )

    def _busy_limits(self) -> Iterator[tuple[float, float | None, float | None]]:
        if self._origin is None or self._first_sent is None:
            return
        first, last = self._first_sent - self._origin, self._last_seen - self._origin
        for number, (requests, tokens) in enumerate(self.limits()):
            begins, ends = number * self.width, (number + 1) * self.width
            yield max(0.0, min(ends, last) - max(begins, first)), requests, tokens

    def _record_limits(self, piece: Slice) -> None:
        if self._limiter is not None:
            piece.max_requests_per_minute = per_minute(self._limiter.requests)
            piece.max_tokens_per_minute = per_minute(self._limiter.tokens)

    def _slice(self, at: float) -> Slice:
        if self._origin is None:
            self._origin = math.floor(at)
        elif 0 <= (number := int((at - self._origin) / self.width)) < len(self.slices):
            return self.slices[number]
        while (number := max(0, int((at - self._origin) / self.width))) >= MOST_SLICES:
            self._halve()
        while len(self.slices) <= number:
            self.slices.append(Slice())
        return self.slices[number]

    def _halve(self) -> None:
        later = self.slices[1::2]
        self.slices = self.slices[::2]
        self.width *= 2
        for each, next_one in zip(self.slices, later, strict=False):  # the last one may have no second
            each.join(next_one)


def _why(verdict: Verdict) -> str:
    if verdict.kind == "stop":
        return "quota"
    return "slow_down" if verdict.code == "slow_down" else verdict.dimension or "unknown"
