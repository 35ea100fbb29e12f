"""The simulator's settings, validated on construction."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

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


def _option(default: Any, about: str) -> Any:
    return field(default=default, metadata={"about": about})


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

    max_requests_per_minute: float | None = _option(600, "requests a minute; none: no limit")
    max_tokens_per_minute: float | None = _option(None, "tokens a minute; none: no limit")
    max_requests_per_day: float | None = _option(None, "requests a day; the headers then show the day")
    burst_seconds: float = _option(60.0, "how many seconds of the limit may be spent at once")
    start_level: float = _option(1.0, "how full the budgets are at the start, 0 to 1")
    window: str = _option("bucket", "how a limit is enforced: bucket, sliding or fixed")
    headers: str = _option("enforced", "the x-ratelimit-* headers: enforced, minute (of a whole minute) or none")
    project_headers: bool = _option(False, "add x-ratelimit-*-project-tokens")
    counting: str = _option("max_output_or_characters", f"what a request costs in tokens: {', '.join(COUNTING)}")
    charge_refused: bool = _option(False, "a request refused with 429 counts against the request limit")
    charge_failed: bool = _option(True, "an injected 5xx counts against the limits")
    retry_after: str | float = _option("seconds", f"retry-after of a 429: {', '.join(RETRY_AFTER)}, or a number")
    error_style: str = _option("openai", "the body of a 429: openai or azure")
    background_load: tuple[float, float] = _option((0.0, 0.0), "requests and tokens a minute that other clients use")

    latency: float = _option(0.0, "seconds until an answer; the median if latency_sigma is set")
    latency_sigma: float = _option(0.0, "above 0: lognormal latency with this sigma")
    refusal_latency: float = _option(0.01, "seconds until a refusal (429)")
    answer_tokens: int | tuple[int, int] = _option(12, "length of an answer in tokens, or [low, high]")
    thoughts: int = _option(0, "reasoning tokens in each answer of chat and Responses, on top of any maximum")
    usage: str = _option("whole", f"how usage is reported (beside and in_total: reasoning tokens): {', '.join(USAGES)}")
    cached_share: float = _option(0.0, "share of each prompt reported as read from a cache")
    written_share: float = _option(0.0, "share of each prompt reported as written to a cache")
    sound_share: float = _option(0.0, "share of each prompt and answer reported as audio")
    context_length: int = _option(128_000, "longer prompts get 400 context_length_exceeded")
    models: tuple[str, ...] | None = _option(None, "the models that exist; none: any name is accepted")
    seed: int = _option(0, "the same seed gives the same answers and faults")
    keep_charged: bool = _option(True, "count in /stats how often each request body was charged")

    fault_500: float = _option(0.0, "probability of HTTP 500")
    fault_502: float = _option(0.0, "probability of HTTP 502 with an HTML page")
    fault_503: float = _option(0.0, "probability of HTTP 503 server_is_overloaded")
    fault_429: float = _option(0.0, "probability of a rate-limit 429 without cause")
    fault_slow_down: float = _option(0.0, "probability of 429 slow_down")
    fault_reset: float = _option(0.0, "probability that the connection is reset")
    fault_hang: float = _option(0.0, "probability that no answer ever comes")
    fault_truncated: float = _option(0.0, "probability of a body shorter than its Content-Length")
    fault_malformed: float = _option(0.0, "probability of 200 with JSON that is cut off")
    fault_error_in_200: float = _option(0.0, "probability of 200 with an error inside")
    fault_wrong_type: float = _option(0.0, "probability of 200 with an HTML page")
    fault_close_keepalive: float = _option(0.0, "probability that the connection closes after a good answer")
    fault_gzip_bomb: float = _option(0.0, "probability of a small body that unpacks to 256 MB")
    fault_endless: float = _option(0.0, "probability of an endless body")
    fault_redirect: float = _option(0.0, "probability of 307 to redirect_to")
    fault_empty: float = _option(0.0, "probability of an answer with empty content")
    fault_length: float = _option(0.0, "probability of finish_reason length with empty content")
    fault_refusal: float = _option(0.0, "probability of a refusal instead of content")
    fault_content_filter: float = _option(0.0, "probability of finish_reason content_filter")
    fault_off_schema: float = _option(0.0, "probability of content that does not fit the schema")
    fault_429_retry_after: bool = _option(True, "whether the 429 without cause carries retry-after")
    faulty_attempts: int | None = _option(None, "only the first so many attempts of a request can fail")
    hang_seconds: float = _option(600.0, "the longest that a hanging or endless answer lasts")
    redirect_to: str = _option("/redirected", "the location of a 307")

    flex_unavailable: float = _option(0.0, "probability of 429 Resource Unavailable with service_tier flex")
    batch_speed: float = _option(1.0, "how many times faster than real time batches run")
    batch_validation_seconds: float = _option(30.0, "seconds of batch time until a batch is validated")
    batch_seconds: float = _option(3600.0, "seconds of batch time until a batch's requests are answered")
    batch_finalizing_seconds: float = _option(60.0, "seconds of batch time until its files are available")
    batch_expire: float = _option(0.0, "share of a batch's requests not answered within the 24 hours")
    batch_queued_tokens: int | None = _option(None, "tokens of one model in batches at a time; none: no limit")
    batch_faults: float = _option(0.0, "probability of HTTP 500 on /v1/files and /v1/batches, before or after the work")

    batch_late_files: int = _option(0, "retrievals of an ended batch that do not show its files yet")
    batch_short_downloads: int = _option(0, "downloads of a batch's file that end after half of its lines")
    batch_odd_lines: tuple[str, ...] | None = _option(
        None, f"malformations of the first lines of a batch's output, one each: {', '.join(ODD_LINES)}"
    )
    batch_lost: tuple[int, ...] | None = _option(None, "batches, by number from 1, that get 404 once they have ended")
    batch_lost_files: tuple[int, ...] | None = _option(None, "batches, by number from 1, whose files get 404")
    batch_late_list: int = _option(0, "listings that do not show a new batch yet")
    batch_list_metadata: bool = _option(True, "whether listings show the metadata of batches")

    insufficient_quota_after: int | None = _option(None, "accepted requests after which the credit is exhausted")
    outage: tuple[float, float] | None = _option(None, "[start, duration] in seconds: connections are reset")
    required_api_key: str | None = _option(None, "any other key gets 401 invalid_api_key")
    slow_down_above: float | None = _option(None, "429 slow_down above this many requests in a second")

    def __post_init__(self) -> None:
        for name in (each.name for each in dataclasses.fields(self)):
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))  # as JSON and the command line give it
        self._check_numbers()
        self._check_choices()
        self._check_pairs()
        _check(0 <= sum(self.faults().values()) <= 1, "the faults' probabilities add up to more than 1.")

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

    def _check_numbers(self) -> None:
        for name in (
            "max_requests_per_minute",
            "max_tokens_per_minute",
            "max_requests_per_day",
            "slow_down_above",
            "batch_queued_tokens",
        ):
            value = getattr(self, name)
            _check(
                value is None or (_is_number(value) and value > 0),
                f"{name} is {value!r}; give a number above 0, or None for no limit.",
            )
        for name in ("burst_seconds", "context_length", "batch_speed"):
            value = getattr(self, name)
            _check(_is_number(value) and value > 0, f"{name} is {value!r}; give a number above 0.")
        batch_seconds = ("batch_validation_seconds", "batch_seconds", "batch_finalizing_seconds")
        for name in ("latency", "latency_sigma", "refusal_latency", "hang_seconds", *batch_seconds):
            value = getattr(self, name)
            _check(_is_number(value) and value >= 0, f"{name} is {value!r}; give a number of at least 0.")
        batch_counts = ("batch_late_files", "batch_short_downloads", "batch_late_list")
        for name in ("insufficient_quota_after", "faulty_attempts", "thoughts", *batch_counts):
            value = getattr(self, name)
            _check(
                value is None or (_is_number(value) and value >= 0), f"{name} is {value!r}; give 0 or more, or None."
            )
        shares = ("cached_share", "written_share", "sound_share")
        for name in (*shares, "start_level", "flex_unavailable", "batch_expire", "batch_faults", *FAULT_FIELDS):
            value = getattr(self, name)
            _check(_is_number(value) and 0 <= value <= 1, f"{name} is {value!r}; give a number from 0 to 1.")

    def _check_choices(self) -> None:
        for name, choices in {
            "window": WINDOWS,
            "headers": HEADERS,
            "counting": COUNTING,
            "error_style": ERROR_STYLES,
            "usage": USAGES,
        }.items():
            value = getattr(self, name)
            _check(value in choices, f"{name} is {value!r}; give one of {', '.join(choices)}.")
        kinds = self.batch_odd_lines or ()
        _check(
            isinstance(kinds, tuple) and set(kinds) <= set(ODD_LINES),
            f"batch_odd_lines is {kinds!r}; give several of {', '.join(ODD_LINES)}, or None.",
        )
        _check(
            self.retry_after in RETRY_AFTER or (_is_number(self.retry_after) and float(self.retry_after) >= 0),
            f"retry_after is {self.retry_after!r}; give one of {', '.join(RETRY_AFTER)}, or seconds.",
        )

    def _check_pairs(self) -> None:
        for name in ("background_load", "outage"):
            value = getattr(self, name)
            if value is not None:
                good = isinstance(value, tuple) and len(value) == 2 and all(_is_number(each) for each in value)
                _check(good and min(value) >= 0, f"{name} is {value!r}; give two numbers of at least 0.")
        for name in ("batch_lost", "batch_lost_files"):
            value = getattr(self, name)
            good = value is None or (isinstance(value, tuple) and all(type(each) is int for each in value))
            _check(good, f"{name} is {value!r}; give the numbers of batches, or None.")
        _check(isinstance(self.seed, int), f"seed is {self.seed!r}; give a whole number.")
        _check(
            self.models is None or isinstance(self.models, tuple), f"models is {self.models!r}; give several, or None."
        )
        low, high = self.answer_tokens if isinstance(self.answer_tokens, tuple) else (self.answer_tokens,) * 2
        _check(
            _is_number(low) and _is_number(high) and 0 < low <= high,
            f"answer_tokens is {self.answer_tokens!r}; give a number, or a low and a high one.",
        )


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


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def _check(valid: bool, message: str) -> None:
    if not valid:
        raise ValueError(message)
