"""The protocols for what a run asks before every send: a model's limiter at one account, or at several as one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from parallel_openai._limits.cost import Counting
from parallel_openai._records import APIRequest, Dimension, Size, Usage


class Level(Protocol):
    """One dimension of a limit, as far as it is known.

    `limit` is allowed per `period` seconds, None while unknown. `rate` (per second) and `capacity` (at once) are what
    is actually used of it.
    """

    @property
    def limit(self) -> float | None: ...
    @property
    def period(self) -> float: ...
    @property
    def rate(self) -> float: ...
    @property
    def capacity(self) -> float: ...
    @property
    def known(self) -> bool: ...


def per_minute(level: Level) -> float | None:
    """The limit per minute; None while unknown, or if the limit is per hour or day."""
    return level.limit if level.period == 60.0 else None


#: Some models have separate limits for prompts with more tokens than one of these.
LONG_CONTEXTS = (272_000, 128_000)
#: A shorter body, in bytes, cannot hold such a prompt, so its tokens need not be counted.
LONG_BODY = 256_000
#: Between a model's name and a number of tokens, in the name under which long prompts have their limits.
LONG = " with prompts over "


def model_of(request: APIRequest) -> str | None:
    """The name under which a request has its limits: its model, and that of long prompts. None without a model.

    >>> model_of(APIRequest({"model": "m", "messages": []}))
    'm'
    """
    model = request.model
    if model is None or request.path == "embeddings" or len(request.body) < LONG_BODY or request.size is None:
        return model
    tokens = request.size.prompt_tokens
    return next((f"{model}{LONG}{least:,} tokens" for least in LONG_CONTEXTS if tokens > least), model)


class RunLimits(Protocol):
    """The limits of a run's models together, and how long the run has waited for them."""

    @property
    def requests(self) -> Level: ...
    @property
    def tokens(self) -> Level: ...
    @property
    def waited(self) -> Mapping[str, float]: ...
    @property
    def most_at_once(self) -> int | None: ...

    def of(self, model: str | None) -> Admission: ...


class Admissions(Protocol):
    """Returns each model's admission, and the level of a dimension of several models together."""

    def of(self, model: str | None) -> Admission: ...
    def level(self, dimension: Dimension, models: Collection[str | None]) -> Level: ...


class Admission(RunLimits, Admissions, Protocol):
    """Says when a request may be sent, and learns from its outcome. A lease is whatever `acquire` returns."""

    @property
    def may_move(self) -> bool: ...
    @property
    def counting(self) -> Counting: ...
    @property
    def largest(self) -> float | None: ...
    @property
    def overrules_waits(self) -> bool: ...
    @property
    def counts_tokens(self) -> bool: ...

    def at_once(self, size: Size) -> Any: ...
    def delay(self, size: Size) -> tuple[float, str]: ...
    async def acquire(self, size: Size) -> Any: ...
    def never_fits(self, size: Size) -> bool: ...
    def seems_too_large(self, size: Size, refusals: int, seconds: float, headers: Mapping[str, str]) -> bool: ...
    def answered(
        self, lease: Any, headers: Mapping[str, str], usage: Usage | None = None, *, worked: bool = True
    ) -> None: ...
    def refused(
        self, lease: Any, headers: Mapping[str, str], dimension: Dimension | None, wait: float | None
    ) -> Any: ...
    def slow_down(self, lease: Any, wait: float | None) -> None: ...
    def overloaded(self, lease: Any, wait: float | None) -> bool: ...
    def unanswered(self, lease: Any, *, hold: float = 0.0) -> None: ...
