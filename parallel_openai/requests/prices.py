"""What tokens cost in dollars, by genai-prices: the only door to it.

genai-prices is imported on the first call (0.3 s), and asked once a minute for each model: its own calculation takes
over 100 µs, too much for every row.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

logger = logging.getLogger("parallel_openai")

_NAN = float("nan")


def price(
    model: str,
    *,
    prompt_tokens: int,
    completion_tokens: int,
    cached_tokens: int = 0,
    base_url: str | None = None,
) -> float:
    """Dollars for one answer; NaN, noted once in the log, for a model whose price is not known.

    The price is that of the provider at `base_url` where it is a known one, else OpenAI's for a model of that name:
    a rehearsal against a local server shows what the same run would cost. `cached_tokens` are those of the prompt
    that the server had in its cache. Batch and flex discounts are the caller's to apply.

    >>> f"{price('gpt-4o-mini-2024-07-18', prompt_tokens=1_000_000, completion_tokens=100_000):.2f}"
    '0.21'
    >>> price("smollm2-135m-instruct", prompt_tokens=1_000, completion_tokens=10)
    nan
    """
    # Asked again each minute: some providers' prices depend on the hour, and all change on some date.
    rates = _rates(model, base_url, int(time.time() // 60))
    if rates is None:
        return _NAN
    cached_tokens = min(cached_tokens, prompt_tokens)
    if prompt_tokens > rates.up_to_prompt_tokens:
        return _calculate(rates.where, model, prompt_tokens, completion_tokens, cached_tokens)
    return rates.flat(prompt_tokens, completion_tokens, cached_tokens)


@dataclass(frozen=True)
class _Rates:
    """Dollars a token, for prompts up to the length where a provider's long-context price begins.

    Attributes:
        where: how genai-prices finds the provider, as keyword arguments.
        up_to_prompt_tokens: -1 where the price is not flat at all, so that each must be calculated.
    """

    where: dict[str, str]
    prompt: float
    completion: float
    cached: float
    up_to_prompt_tokens: float

    def flat(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> float:
        return (
            (prompt_tokens - cached_tokens) * self.prompt
            + cached_tokens * self.cached
            + completion_tokens * self.completion
        )


@lru_cache(maxsize=1024)
def _rates(model: str, base_url: str | None, minute: int) -> _Rates | None:
    for where in _providers(base_url):
        try:
            prices = _ask(where, model, 1, 1, 0).model_price
        except LookupError:
            continue
        return _checked(_read(where, prices), model)
    _note_unknown(model)
    return None


def _providers(base_url: str | None) -> Iterator[dict[str, str]]:
    """Where to look for the model's price, best first."""
    if base_url is not None and "api.openai.com" not in base_url:
        yield {"provider_api_url": base_url}
    yield {"provider_id": "openai"}
    yield {}


def _read(where: dict[str, str], prices: Any) -> _Rates:
    prompt, completion, cached = (
        getattr(prices, name, None) for name in ("input_mtok", "output_mtok", "cache_read_mtok")
    )
    cached = prompt if cached is None else cached
    starts = [tier.start for value in (prompt, completion, cached) for tier in getattr(value, "tiers", ())]
    return _Rates(where, _base(prompt), _base(completion), _base(cached), min(starts, default=math.inf))


def _base(value: Any) -> float:
    """Dollars a token, below any tier."""
    return float(getattr(value, "base", value) or 0) / 1_000_000


def _checked(rates: _Rates, model: str) -> _Rates:
    """The rates, or none at all if genai-prices itself counts otherwise, as where each request costs something."""
    # Prompts within the first tier, unlike enough that a wrong rate cannot cancel another.
    samples = ((0, 0, 0), (100, 10, 0), (100, 0, 30), (1_000, 7, 999))
    if all(
        math.isclose(rates.flat(*sample), _calculate(rates.where, model, *sample), rel_tol=1e-9) for sample in samples
    ):
        return rates
    return _Rates(rates.where, 0.0, 0.0, 0.0, up_to_prompt_tokens=-1)


def _calculate(
    where: dict[str, str], model: str, prompt_tokens: int, completion_tokens: int, cached_tokens: int
) -> float:
    return float(_ask(where, model, prompt_tokens, completion_tokens, cached_tokens).total_price)


def _ask(where: dict[str, str], model: str, prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> Any:
    from genai_prices import Usage, calc_price

    usage = Usage(input_tokens=prompt_tokens, output_tokens=completion_tokens, cache_read_tokens=cached_tokens)
    return calc_price(usage, model, **where)  # type: ignore[call-overload]


@lru_cache(maxsize=1024)
def _note_unknown(model: str) -> None:
    logger.info("genai-prices does not know the model %r; its cost is nan.", model)
