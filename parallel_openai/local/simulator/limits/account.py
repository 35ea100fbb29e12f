"""The simulated account: all its budgets, which of them refuses a request, and the rate-limit headers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from parallel_openai.local.simulator.limits.budgets import KINDS, Bucket, Budget
from parallel_openai.local.simulator.settings import Settings

DAY = 86_400.0


@dataclass(frozen=True)
class Lack:
    """The limit that refuses a request, with the numbers for the message."""

    dimension: str  # "requests" or "tokens"
    span: str  # "min" or "day"
    limit: float
    used: float
    requested: float
    seconds: float | None  # None: it will never fit


class Account:
    """The budgets that the settings ask for.

    >>> account = Account(Settings(max_requests_per_minute=60, burst_seconds=1.0), now=0.0)
    >>> account.lack(tokens=5, now=0.0)
    >>> account.take(1, 5, now=0.0)
    >>> account.lack(tokens=5, now=0.25).seconds
    0.75
    >>> account.headers(now=0.25)["x-ratelimit-reset-requests"]
    '750ms'
    """

    def __init__(self, settings: Settings, now: float) -> None:
        self.settings = settings
        self.requests: Budget | None = None
        self.tokens: Budget | None = None
        self.day: Budget | None = None
        # The same use against a whole minute, for servers whose headers do not show what they enforce.
        self.requests_minute: Budget | None = None
        self.tokens_minute: Budget | None = None
        self._build(now)

    def change(self, settings: Settings, now: float) -> None:
        """Apply new settings; an existing budget keeps its level."""
        same_kind = settings.window == self.settings.window
        self.settings = settings
        if not same_kind:
            self.requests = self.tokens = None
        self._build(now)

    def record(self, now: float) -> None:
        for budget in (self.requests, self.tokens):
            if budget is not None:
                budget.record(now)

    def lack(self, tokens: float, now: float) -> Lack | None:
        """The limit that refuses a request of this many tokens, or None."""
        if self.tokens is not None and tokens > self.tokens.limit:
            used = self.tokens.limit - max(0.0, self.tokens.level(now))
            return Lack("tokens", "min", self.tokens.limit, used, tokens, None)
        for dimension, span, amount, budget in (
            ("requests", "day", 1.0, self.day),
            ("requests", "min", 1.0, self.requests),
            ("tokens", "min", tokens, self.tokens),
        ):
            if budget is not None and not budget.holds(amount, now):
                # Relative to the whole limit, as the API reports it.
                used = min(budget.limit, budget.limit - budget.level(now))
                return Lack(dimension, span, budget.limit, used, amount, budget.seconds_until(amount, now))
        return None

    def take(self, requests: float, tokens: float, now: float) -> None:
        for budget in (self.requests, self.requests_minute, self.day):
            if budget is not None and requests:
                budget.take(requests, now)
        for budget in (self.tokens, self.tokens_minute):
            if budget is not None and tokens:
                budget.take(tokens, now)

    def take_refused(self, now: float) -> None:
        """Charge a refused request to the request limits, down to an empty budget."""
        for budget in (self.requests, self.requests_minute, self.day):
            if budget is not None:
                budget.take(min(1.0, max(0.0, budget.level(now))), now)

    def settle(self, tokens: float, now: float, taken_at: float) -> None:
        """Charge this many more tokens (negative: refund) for a request that arrived at `taken_at`."""
        for budget in (self.tokens, self.tokens_minute):
            if budget is not None and tokens:
                budget.adjust(tokens, now, taken_at=taken_at)

    def headers(self, now: float) -> dict[str, str]:
        if self.settings.headers == "none":
            return {}
        minute = self.settings.headers == "minute"
        requests = self.day or (self.requests_minute if minute else self.requests)
        tokens = self.tokens_minute if minute else self.tokens
        headers: dict[str, str] = {}
        if requests is not None:
            headers.update(_headers("requests", requests, now))
        if tokens is not None:
            headers.update(_headers("tokens", tokens, now))
            if self.settings.project_headers:
                headers.update(_headers("project-tokens", tokens, now))
        return headers

    def allowed(self, first: float, last: float) -> dict[str, float | None]:
        """The requests and tokens that the limits allowed between two moments; None if there is no limit."""
        return {
            "requests": None if self.requests is None else self.requests.allowed(first, last),
            "tokens": None if self.tokens is None else self.tokens.allowed(first, last),
        }

    def levels(self, now: float) -> dict[str, float | None]:
        return {
            "requests": None if self.requests is None else self.requests.level(now),
            "tokens": None if self.tokens is None else self.tokens.level(now),
        }

    def _build(self, now: float) -> None:
        settings = self.settings
        kind, burst = KINDS[settings.window], settings.burst_seconds
        requests, tokens = settings.max_requests_per_minute, settings.max_tokens_per_minute
        others_requests, others_tokens = (each / 60.0 for each in settings.background_load)
        self.requests = self._budget(self.requests, kind, requests, 60.0, burst, others_requests, now)
        self.tokens = self._budget(self.tokens, kind, tokens, 60.0, burst, others_tokens, now)
        self.requests_minute = self._budget(self.requests_minute, Bucket, requests, 60.0, 60.0, others_requests, now)
        self.tokens_minute = self._budget(self.tokens_minute, Bucket, tokens, 60.0, 60.0, others_tokens, now)
        self.day = self._budget(self.day, Bucket, settings.max_requests_per_day, DAY, DAY, others_requests, now)

    def _budget(
        self,
        present: Budget | None,
        kind: type[Budget],
        limit: float | None,
        period: float,
        window: float,
        background: float,
        now: float,
    ) -> Budget | None:
        if limit is None:
            return None
        if present is not None:
            if (limit, window, background) != (present.limit, present.window, present.background):
                present.change(limit, window=window, background=background, now=now)
            return present
        level = self.settings.start_level
        return kind(limit, period=period, window=window, background=background, start_level=level, now=now)


def duration(seconds: float) -> str:
    """Seconds in the format of the API's reset headers, rounded up.

    >>> [duration(each) for each in (0, 0.12, 1, 8.64, 360, 432.5, 3720)]
    ['0s', '120ms', '1s', '8.64s', '6m0s', '7m12.5s', '1h2m']
    """
    milliseconds = math.ceil(seconds * 1000 - 1e-6)
    if milliseconds <= 0:
        return "0s"
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    if milliseconds >= 3_600_000:
        hours, minutes = divmod(math.ceil(milliseconds / 60_000), 60)
        return f"{hours}h{minutes}m"
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes}m{rest / 1000:g}s" if minutes else f"{rest / 1000:g}s"


def _headers(dimension: str, budget: Budget, now: float) -> Iterator[tuple[str, str]]:
    yield f"x-ratelimit-limit-{dimension}", str(int(budget.limit))
    yield f"x-ratelimit-remaining-{dimension}", str(max(0, math.floor(budget.level(now) + 1e-6)))
    yield f"x-ratelimit-reset-{dimension}", duration(budget.seconds_until_full(now))
