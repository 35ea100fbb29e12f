"""The simulator's settings, validated on construction."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from parallel_openai.local.simulator.batches.odd_lines import ODD_LINES

WINDOWS = ("bucket", "sliding", "fixed")
HEADERS = ("enforced", "minute", "none")
COUNTING = (
    "max_output_or_characters",
    "prompt_plus_max_output",
    "prompt_plus_max_output_times_n",
    "actual_usage",
    "settled",
)
RETRY_AFTER = ("seconds", "exact", "ms", "date", "none")
ERROR_STYLES = ("openai", "azure")
USAGES = ("whole", "beside", "in_total", "total_alone", "text", "nested", "missing")


class _Rule(NamedTuple):
    """What the value of a setting must be, as a test and in words; called, it makes such a setting."""

    holds: Callable[[Any], bool]
    words: str

    def __call__(self, default: Any, about: str) -> Any:
        return field(default=default, metadata={"rule": self, "about": about})


def _one_of(choices: Collection[str]) -> _Rule:
    return _Rule(lambda value: value in choices, f"one of {', '.join(choices)}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value)) and min(value) >= 0


def _is_length(value: Any) -> bool:
    low, high = value if isinstance(value, tuple) else (value, value)
    return _is_number(low) and _is_number(high) and 0 < low <= high


def _or_none(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or holds(value)


_any = _Rule(lambda _: True, "any value")
_above_0 = _Rule(lambda value: _is_number(value) and value > 0, "a number above 0")
_limit = _Rule(_or_none(_above_0.holds), "a number above 0, or None for no limit")
_seconds = _Rule(lambda value: _is_number(value) and value >= 0, "a number of at least 0")
_count = _Rule(_or_none(_seconds.holds), "0 or more, or None")
_share = _Rule(lambda value: _is_number(value) and 0 <= value <= 1, "a number from 0 to 1")
_pair = _Rule(_or_none(_is_pair), "two numbers of at least 0")
_length = _Rule(_is_length, "a number, or a low and a high one")
_whole = _Rule(lambda value: isinstance(value, int), "a whole number")
_wait = _Rule(lambda value: value in RETRY_AFTER or _seconds.holds(value), f"{_one_of(RETRY_AFTER).words}, or seconds")
_names = _Rule(_or_none(lambda value: isinstance(value, tuple)), "several, or None")
_batches = _Rule(
    _or_none(lambda value: isinstance(value, tuple) and all(type(each) is int for each in value)),
    "the numbers of batches, or None",
)
_lines = _Rule(
    _or_none(lambda value: isinstance(value, tuple) and set(value) <= set(ODD_LINES)),
    f"several of {', '.join(ODD_LINES)}, or None",
)


@dataclass(frozen=True)
class Settings:
    """How the simulated account is limited, how fast it answers, and what goes wrong.

    Raises:
        ValueError: an invalid value; the message says what is valid.

    >>> Settings(max_requests_per_minute=600).burst_seconds
    60.0
    >>> Settings(max_requests_per_minute=-1)
    Traceback (most recent call last):
    ValueError: max_requests_per_minute is -1; give a number above 0, or None for no limit.
    """

    max_requests_per_minute: float | None = _limit(600, "requests a minute; none: no limit")
    max_tokens_per_minute: float | None = _limit(None, "tokens a minute; none: no limit")
    max_requests_per_day: float | None = _limit(None, "requests a day; the headers then show the day")
    burst_seconds: float = _above_0(60.0, "how many seconds of the limit may be spent at once")
    start_level: float = _share(1.0, "how full the budgets are at the start, 0 to 1")
    window: str = _one_of(WINDOWS)("bucket", "how a limit is enforced: bucket, sliding or fixed")
    headers: str = _one_of(HEADERS)(
        "enforced", "the x-ratelimit-* headers: enforced, minute (of a whole minute) or none"
    )
    project_headers: bool = _any(False, "add x-ratelimit-*-project-tokens")
    counting: str = _one_of(COUNTING)(
        "max_output_or_characters", f"what a request costs in tokens: {', '.join(COUNTING)}"
    )
    charge_refused: bool = _any(False, "a request refused with 429 counts against the request limit")
    charge_failed: bool = _any(True, "an injected 5xx counts against the limits")
    retry_after: str | float = _wait("seconds", f"retry-after of a 429: {', '.join(RETRY_AFTER)}, or a number")
    error_style: str = _one_of(ERROR_STYLES)("openai", "the body of a 429: openai or azure")
    background_load: tuple[float, float] = _pair((0.0, 0.0), "requests and tokens a minute that other clients use")

    latency: float = _seconds(0.0, "seconds until an answer; the median if latency_sigma is set")
    latency_sigma: float = _seconds(0.0, "above 0: lognormal latency with this sigma")
    refusal_latency: float = _seconds(0.01, "seconds until a refusal (429)")
    answer_tokens: int | tuple[int, int] = _length(12, "length of an answer in tokens, or [low, high]")
    thoughts: int = _count(0, "reasoning tokens in each answer of chat and Responses, on top of any maximum")
    usage: str = _one_of(USAGES)(
        "whole", f"how usage is reported (beside and in_total: reasoning tokens): {', '.join(USAGES)}"
    )
    cached_share: float = _share(0.0, "share of each prompt reported as read from a cache")
    written_share: float = _share(0.0, "share of each prompt reported as written to a cache")
    sound_share: float = _share(0.0, "share of each prompt and answer reported as audio")
    context_length: int = _above_0(128_000, "longer prompts get 400 context_length_exceeded")
    models: tuple[str, ...] | None = _names(None, "the models that exist; none: any name is accepted")
    seed: int = _whole(0, "the same seed gives the same answers and faults")
    keep_charged: bool = _any(True, "count in /stats how often each request body was charged")

    fault_500: float = _share(0.0, "probability of HTTP 500")
    fault_502: float = _share(0.0, "probability of HTTP 502 with an HTML page")
    fault_503: float = _share(0.0, "probability of HTTP 503 server_is_overloaded")
    fault_429: float = _share(0.0, "probability of a rate-limit 429 without cause")
    fault_slow_down: float = _share(0.0, "probability of 429 slow_down")
    fault_reset: float = _share(0.0, "probability that the connection is reset")
    fault_hang: float = _share(0.0, "probability that no answer ever comes")
    fault_truncated: float = _share(0.0, "probability of a body shorter than its Content-Length")
    fault_malformed: float = _share(0.0, "probability of 200 with JSON that is cut off")
    fault_error_in_200: float = _share(0.0, "probability of 200 with an error inside")
    fault_wrong_type: float = _share(0.0, "probability of 200 with an HTML page")
    fault_close_keepalive: float = _share(0.0, "probability that the connection closes after a good answer")
    fault_gzip_bomb: float = _share(0.0, "probability of a small body that unpacks to 256 MB")
    fault_endless: float = _share(0.0, "probability of an endless body")
    fault_redirect: float = _share(0.0, "probability of 307 to redirect_to")
    fault_empty: float = _share(0.0, "probability of an answer with empty content")
    fault_length: float = _share(0.0, "probability of finish_reason length with empty content")
    fault_refusal: float = _share(0.0, "probability of a refusal instead of content")
    fault_content_filter: float = _share(0.0, "probability of finish_reason content_filter")
    fault_off_schema: float = _share(0.0, "probability of content that does not fit the schema")
    fault_429_retry_after: bool = _any(True, "whether the 429 without cause carries retry-after")
    faulty_attempts: int | None = _count(None, "only the first so many attempts of a request can fail")
    hang_seconds: float = _seconds(600.0, "the longest that a hanging or endless answer lasts")
    redirect_to: str = _any("/redirected", "the location of a 307")

    flex_unavailable: float = _share(0.0, "probability of 429 Resource Unavailable with service_tier flex")
    batch_speed: float = _above_0(1.0, "how many times faster than real time batches run")
    batch_validation_seconds: float = _seconds(30.0, "seconds of batch time until a batch is validated")
    batch_seconds: float = _seconds(3600.0, "seconds of batch time until a batch's requests are answered")
    batch_finalizing_seconds: float = _seconds(60.0, "seconds of batch time until its files are available")
    batch_expire: float = _share(0.0, "share of a batch's requests not answered within the 24 hours")
    batch_queued_tokens: int | None = _limit(None, "tokens of one model in batches at a time; none: no limit")
    batch_faults: float = _share(0.0, "probability of HTTP 500 on /v1/files and /v1/batches, before or after the work")

    batch_late_files: int = _count(0, "retrievals of an ended batch that do not show its files yet")
    batch_short_downloads: int = _count(0, "downloads of a batch's file that end after half of its lines")
    batch_odd_lines: tuple[str, ...] | None = _lines(
        None, f"malformations of the first lines of a batch's output, one each: {', '.join(ODD_LINES)}"
    )
    batch_lost: tuple[int, ...] | None = _batches(None, "batches, by number from 1, that get 404 once they have ended")
    batch_lost_files: tuple[int, ...] | None = _batches(None, "batches, by number from 1, whose files get 404")
    batch_late_list: int = _count(0, "listings that do not show a new batch yet")
    batch_list_metadata: bool = _any(True, "whether listings show the metadata of batches")

    insufficient_quota_after: int | None = _count(None, "accepted requests after which the credit is exhausted")
    outage: tuple[float, float] | None = _pair(None, "[start, duration] in seconds: connections are reset")
    required_api_key: str | None = _any(None, "any other key gets 401 invalid_api_key")
    slow_down_above: float | None = _limit(None, "429 slow_down above this many requests in a second")

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value, rule = getattr(self, each.name), each.metadata["rule"]
            if isinstance(value, list):  # as JSON and the command line give it
                value = tuple(value)
                object.__setattr__(self, each.name, value)
            if not rule.holds(value):
                raise ValueError(f"{each.name} is {value!r}; give {rule.words}.")
        if sum(self.faults().values()) > 1:
            raise ValueError("the faults' probabilities add up to more than 1.")

    def changed(self, **changes: Any) -> Settings:
        """A copy with some settings changed.

        >>> Settings().changed(latency=0.5).latency
        0.5
        >>> Settings().changed(latencies=0.5)
        Traceback (most recent call last):
        ValueError: The simulator has no setting 'latencies'.
        """
        for name in changes.keys() - {each.name for each in dataclasses.fields(self)}:
            raise ValueError(f"The simulator has no setting {name!r}.")
        return dataclasses.replace(self, **changes)

    def faults(self) -> dict[str, float]:
        """The probability of each kind of fault.

        >>> Settings(fault_500=0.25).faults()["500"]
        0.25
        """
        return {name.removeprefix("fault_"): getattr(self, name) for name in FAULT_FIELDS}

    def as_dict(self) -> dict[str, Any]:
        """All settings as JSON values, with the key masked.

        >>> Settings(required_api_key="sk-secret").as_dict()["required_api_key"]
        '***'
        """
        values = dataclasses.asdict(self)
        if self.required_api_key is not None:
            values["required_api_key"] = "***"
        return values


FAULT_FIELDS = tuple(
    each.name
    for each in dataclasses.fields(Settings)
    if each.name.startswith("fault_") and each.name != "fault_429_retry_after"
)


def options() -> Iterator[tuple[str, Any, str]]:
    """The name, default and description of each setting.

    >>> next(options())
    ('max_requests_per_minute', 600, 'requests a minute; none: no limit')
    """
    for each in dataclasses.fields(Settings):
        yield each.name, each.default, each.metadata["about"]
