"""Reads rate limits from an answer's headers, as different servers name them. Malformed headers count as missing."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from functools import lru_cache

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhd]))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])")
#: The headers for limit, remaining and reset; `{}` is the dimension. The first row that is present is used.
NAMES = (
    ("x-ratelimit-limit-{}", "x-ratelimit-remaining-{}", "x-ratelimit-reset-{}"),  # OpenAI, Azure, Groq, Fireworks
    ("anthropic-ratelimit-{}-limit", "anthropic-ratelimit-{}-remaining", "anthropic-ratelimit-{}-reset"),
    (
        "x-ratelimit-limit-{}-minute",
        "x-ratelimit-remaining-{}-minute",
        "x-ratelimit-reset-{}-minute",
    ),  # Cerebras
)
#: LiteLLM sends a set of headers for each scope that it counts; the smallest limit is used.
SCOPES = (
    "api_key",
    "model_per_key",
    "user",
    "team",
    "team_member",
    "model_per_team",
    "end_user",
    "organization",
    "model_per_organization",
)
_SCOPED = tuple(
    tuple(f"x-ratelimit-{scope}-{part}-{{}}" for part in ("limit", "remaining", "reset")) for scope in SCOPES
)


def _for_dimension(rows: tuple[tuple[str, ...], ...], dimension: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(name.format(dimension) for name in names) for names in rows)


_TABLE = {dimension: _for_dimension(NAMES, dimension) for dimension in ("requests", "tokens")}
_TABLE["requests"] += (("x-ratelimit-limit-req-minute", "x-ratelimit-remaining-req-minute", ""),)  # Mistral
_SCOPE_TABLE = {dimension: _for_dimension(_SCOPED, dimension) for dimension in ("requests", "tokens")}
#: Together's limit and remaining per second. Other servers use the names for requests in other units, so these count
#: only if the header for tokens is present too.
_PER_SECOND = {
    "requests": ("x-ratelimit-limit", "x-ratelimit-remaining"),
    "tokens": ("x-tokenlimit-limit", "x-tokenlimit-remaining"),
}
#: LiteLLM's limit of a key, stated without what remains of it.
_LIMIT_ALONE = {"requests": "x-litellm-key-rpm-limit", "tokens": "x-litellm-key-tpm-limit"}
_OF_A_DAY = re.compile(r"(?i)x-ratelimit-remaining-(?:requests|req|tokens)-(?:per-)?(?:hour|day|week|month)")
#: Values beyond these are taken for a gateway's mistake: the largest and smallest limit, and the longest wait.
_LARGEST, _SMALLEST, _LONGEST = 1e12, 1.0, 31 * 86400.0


@dataclass(frozen=True, slots=True)
class Allowance:
    """One dimension's limit on one answer, with what remains of it and the seconds until it is full again.

    `is_common` is True if the limit is known to be for all models together.
    """

    limit: float
    remaining: float
    reset: float | None
    is_common: bool = field(default=False, compare=False, repr=False)

    @property
    def period(self) -> float:
        """The limit's period in seconds: a minute, unless `reset` only fits an hour or a day.

        >>> Allowance(600, 590, 1.0).period, Allowance(14400, 14370, 180.0).period
        (60.0, 86400.0)
        """
        missing = self.limit - self.remaining
        if self.reset is None or missing <= 0:
            return 60.0
        by_minute = missing / (self.limit / 60.0)
        if self.reset <= by_minute + 1.5:
            return 60.0
        period = self.limit * self.reset / missing
        return next((usual for usual in (3600.0, 86400.0) if 0.75 < period / usual < 1.33), 60.0)

    def is_of_minute(self, period: float) -> bool:
        """Whether the limit is per minute although `period` was inferred.

        A fixed window, which refills all at once, looks like an hour's or a day's limit while little of it is used.

        >>> Allowance(20000, 19630, 59.1).period, Allowance(20000, 19300, 58.5).is_of_minute(3600.0)
        (3600.0, True)
        """
        needed = (self.limit - self.remaining) * period / self.limit
        if not needed or self.reset is None or self.reset > 60.0:
            return False
        return not needed / 2 - 1.5 < self.reset < 2 * needed + 1.5  # `reset` may be rounded to a second


def tells_of_limits(headers: Mapping[str, str]) -> bool:
    """A quick check whether any header may be about limits: the names of all of them contain "limit"."""
    return "limit" in " ".join(headers).lower()


def allowance(headers: Mapping[str, str], dimension: str) -> Allowance | None:
    """What the headers say of a dimension (`requests` or `tokens`), or None if they say nothing.

    >>> allowance({"x-ratelimit-limit-requests": "600", "x-ratelimit-remaining-requests": "599",
    ...            "x-ratelimit-reset-requests": "100ms"}, "requests")
    Allowance(limit=600.0, remaining=599.0, reset=0.1)
    >>> allowance({"x-ratelimit-limit-requests": "unlimited"}, "requests") is None
    True
    >>> allowance({"x-ratelimit-limit-requests": "36", "x-ratelimit-remaining-requests": "4e269"}, "requests") is None
    True
    """
    for names in _TABLE[dimension]:
        if names[0] in headers and (shown := _allowance(headers, *names)) is not None:
            return shown
    shown = min(_of_scopes(headers, dimension), key=lambda scope: scope.limit, default=None)
    if shown is None and _PER_SECOND["tokens"][0] in headers:
        return _within_a_second(headers, *_PER_SECOND[dimension])
    if shown is None and ("ratelimit" in headers or "ratelimit-limit" in headers):
        return min(_of_draft(headers, dimension), key=lambda policy: policy.remaining, default=None)
    return shown


def _of_scopes(headers: Mapping[str, str], dimension: str) -> Iterator[Allowance]:
    for names in _SCOPE_TABLE[dimension]:
        if names[0] in headers and (shown := _allowance(headers, *names)) is not None:
            yield replace(shown, is_common="-model_per_" not in names[0])


def _of_draft(headers: Mapping[str, str], dimension: str) -> Iterator[Allowance]:
    """The limits in fields of the IETF's draft "RateLimit header fields for HTTP", in the forms of all its versions.

    >>> new = {"ratelimit": '"default";r=50;t=30', "ratelimit-policy": '"default";q=100;w=60'}
    >>> old = {"ratelimit-limit": "100, 100;w=60", "ratelimit-remaining": "50", "ratelimit-reset": "30"}
    >>> allowance(new, "requests") == allowance(old, "requests") == Allowance(100.0, 50.0, 30.0)
    True
    """
    policies = dict(_items(headers.get("ratelimit-policy")))
    items = _items(headers.get("ratelimit"))
    found = [(policies.get(name, {}), left.get("r"), left.get("t")) for name, left in items]
    if dimension == "requests":
        told = dict(each.partition("=")[::2] for each, _ in items)  # version 7: limit=100, remaining=50, reset=30
        [(limit, _), *more] = _items(headers.get("ratelimit-limit")) or [(told.get("limit", ""), {})]
        window = {**policies, **dict(more)}.get(limit, {}).get("w")
        remaining, reset = (headers.get(f"ratelimit-{name}", told.get(name)) for name in ("remaining", "reset"))
        found.append(({"q": limit, "w": window or ""}, remaining, reset))
    for policy, remaining, reset in found:
        if policy.get("qu", "requests") == dimension:
            shown = {"limit": policy.get("q", ""), "remaining": remaining or "", "reset": reset or ""}
            allowed, seconds = _allowance(shown, *shown), _number(policy.get("w")) or 60.0
            if allowed is not None and seconds > 0.0:
                yield _within(allowed, seconds)


def _items(text: str | None) -> list[tuple[str, dict[str, str]]]:
    """The items of a structured field's list, each with its parameters."""
    parts = [part.split(";") for part in text.split(",")] if text else []
    return [
        (name.strip().strip('"'), {key.strip(): value.strip(' "') for key, _, value in map(_parted, parameters)})
        for name, *parameters in parts
    ]


def _parted(parameter: str) -> tuple[str, str, str]:
    return parameter.partition("=")


def _within(shown: Allowance, window: float) -> Allowance:
    """A limit for a window of so many seconds, written as one of a minute, an hour or a day."""
    if window == 60.0:
        return shown
    limit = shown.limit if window in (3600.0, 86400.0) else max(_SMALLEST, shown.limit * 60.0 / window)
    return Allowance(limit, min(limit, shown.remaining), window * (1.0 - shown.remaining / shown.limit))


def limit_alone(headers: Mapping[str, str], dimension: str) -> float | None:
    """A limit per minute that is stated without what remains of it, or None.

    >>> limit_alone({"x-litellm-key-rpm-limit": "600", "x-litellm-key-tpm-limit": "None"}, "requests")
    600.0
    """
    limit = _number(headers.get(_LIMIT_ALONE[dimension]))
    return limit if limit is not None and _SMALLEST <= limit <= _LARGEST else None


def day_used_up(headers: Mapping[str, str]) -> float | None:
    """Seconds until a used-up limit per hour or longer resets: infinity if unknown, None if there is no such limit.

    >>> day_used_up({"x-ratelimit-remaining-requests-day": "0", "x-ratelimit-reset-requests-day": "33011.3"})
    33011.3
    """
    waits = []
    for name, left in headers.items():
        if _OF_A_DAY.fullmatch(name) and _number(left) == 0.0:
            reset = duration(headers.get(name.lower().replace("-remaining-", "-reset-")))
            waits.append(math.inf if reset is None else reset)
    waits = [each for each in waits if each > 0.0]  # those of 0 have been reset
    return max(waits, default=None)


def _within_a_second(headers: Mapping[str, str], limit_name: str, remaining_name: str) -> Allowance | None:
    """A limit per second, written as one per minute whose bucket holds a second's worth."""
    shown = _allowance(headers, limit_name, remaining_name, "")
    if shown is None:
        return None
    return Allowance(60.0 * shown.limit, shown.remaining, 1.0 - shown.remaining / shown.limit)


def _allowance(headers: Mapping[str, str], limit_name: str, remaining_name: str, reset_name: str) -> Allowance | None:
    """The allowance in these headers, or None if they are not numbers or contradict each other."""
    limit, remaining = _number(headers.get(limit_name)), _number(headers.get(remaining_name))
    if limit is None or not _SMALLEST <= limit <= _LARGEST:
        return None
    if remaining is None or not 0.0 <= remaining <= limit:
        return None
    return Allowance(limit, remaining, duration(headers.get(reset_name)))


@lru_cache(maxsize=4096)  # the same few values recur
def duration(text: str | None) -> float | None:
    """Seconds in a Go-style duration such as `6m0s`, or a bare number of seconds; None for anything else.

    >>> [duration(text) for text in ("1s", "6m0s", "120ms", "1h2m", "7.66s", "2", "soon")]
    [1.0, 360.0, 0.12, 3720.0, 7.66, 2.0, None]
    >>> duration("9999999999")  # too long for any limit
    """
    if not text:
        return None
    if _DURATION.fullmatch(text):
        return _sensible(sum(float(amount) * _UNITS[unit] for amount, unit in _PART.findall(text)))
    return _sensible(_number(text))


def retry_after(headers: Mapping[str, str], *, now: float | None = None) -> float | None:
    """Seconds that the server asks us to wait, or None if it states nothing sensible: 0, say, or a moment in the past.

    A date is compared with the answer's own `Date`, since the local clock may be wrong, or else with the Unix time
    `now`.

    >>> retry_after({"retry-after-ms": "1500"}), retry_after({"retry-after": "1m30s"})
    (1.5, 90.0)
    >>> retry_after({"retry-after": "Wed, 21 Oct 2026 07:28:10 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"})
    10.0
    """
    milliseconds, text = _number(headers.get("retry-after-ms")), headers.get("retry-after")
    if milliseconds is not None and milliseconds > 0:
        return _sensible(milliseconds / 1000)
    seconds, moment = duration(text), _moment(text)
    if seconds is None and moment is not None:
        seconds = moment - sent_at(headers, now)
    return _sensible(seconds) or None


def sent_at(headers: Mapping[str, str], now: float | None = None) -> float:
    """When an answer was sent, as Unix time: by the server's clock if there is a `Date`, else by the local one.

    >>> sent_at({"date": "Thu, 01 Jan 1970 00:01:00 GMT"})
    60.0
    """
    sent = _moment(headers.get("date"))
    if sent is not None:
        return sent
    return time.time() if now is None else now


def _moment(text: str | None) -> float | None:
    """An HTTP date as Unix time."""
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def _sensible(seconds: float | None) -> float | None:
    return None if seconds is None or seconds > _LONGEST else max(0.0, seconds)


def _number(text: str | None) -> float | None:
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if number == number and abs(number) != float("inf") else None
