"""What stands before every send: a model's limiter at one account, or at several behind one face."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from parallel_openai._limits.cost import Counting
from parallel_openai._records import APIRequest, Dimension, Size, Usage


class Level(Protocol):
    """One dimension of a limit, as far as it is known.

    `limit` is what `period` seconds allow, None while unknown; `rate` and `capacity` are what is used of it, per second
    and at once.
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
    """What a minute allows; None while unknown, or where the limit is an hour's or a day's: no rate to compare with."""
    return level.limit if level.period == 60.0 else None


#: Prompts with more tokens have limits of their own at some models, from one of these sizes on.
LONG_CONTEXTS = (272_000, 128_000)
#: Bytes of a body that may hold such a prompt: the tokens of a shorter one need not be counted.
LONG_BODY = 256_000
#: Stands behind a model's name, and then how many tokens there are at least.
LONG = " with prompts over "


def model_of(request: APIRequest) -> str | None:
    """The model that a request asks, as limits are told apart; None where it does not say.

    >>> model_of(APIRequest({"model": "m", "messages": []}))
    'm'
    """
    model = request.model
    if model is None or request.path == "embeddings" or len(request.body) < LONG_BODY or request.size is None:
        return model
    tokens = request.size.prompt_tokens
    return next((f"{model}{LONG}{least:,} tokens" for least in LONG_CONTEXTS if tokens > least), model)


class RunLimits(Protocol):
    """The limits of a run's models together, and what they made it wait for."""

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
    """Gives the admission that a model's requests go through, and shows a dimension of several of them together."""

    def of(self, model: str | None) -> Admission: ...
    def level(self, dimension: Dimension, models: Collection[str | None]) -> Level: ...


class Admission(RunLimits, Admissions, Protocol):
    """Says when a request may be sent, and learns from what became of it. A lease is whatever `acquire` gives."""

    @property
    def may_move(self) -> bool: ...
    @property
    def counting(self) -> Counting: ...
    @property
    def largest(self) -> float | None: ...
    @property
    def counts_tokens(self) -> bool: ...

    def at_once(self, size: Size) -> Any: ...
    def delay(self, size: Size) -> tuple[float, str]: ...
    async def acquire(self, size: Size) -> Any: ...
    def never_fits(self, size: Size) -> bool: ...
    def seems_too_large(self, size: Size, refusals: int, seconds: float, headers: Mapping[str, str]) -> bool: ...
    def answered(self, lease: Any, headers: Mapping[str, str], usage: Usage | None = None) -> None: ...
    def refused(
        self, lease: Any, headers: Mapping[str, str], dimension: Dimension | None, wait: float | None
    ) -> Any: ...
    def slow_down(self, lease: Any, wait: float | None) -> None: ...
    def overloaded(self, lease: Any, wait: float | None) -> bool: ...
    def unanswered(self, lease: Any, *, hold: float = 0.0) -> None: ...
