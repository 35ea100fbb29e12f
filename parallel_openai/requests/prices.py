"""What tokens cost in dollars, by genai-prices: the only door to it.

genai-prices is imported on the first call (0.3 s), and asked once a minute for each model: its own calculation takes
over 100 µs, too much for every row.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from parallel_openai.log import log

_NAN = float("nan")

#: What an answer says of how it was processed, as genai-prices asks for it; any other tier is a `service_tier`.
_BATCH = {"processing": "batch"}
#: Half of the usual price, where genai-prices knows none of the tier's own: for batches as OpenAI and Azure publish it
#: ("Batch API: save 50% on inputs and outputs"), and Anthropic, Google, Groq and Mistral likewise; for flex as OpenAI
#: does ("tokens are priced at Batch API rates"). Others' flex is something else.
HALF = 0.5


def price(
    model: str,
    *,
    prompt_tokens: int,
    completion_tokens: int,
    cached_tokens: int = 0,
    base_url: str | None = None,
    tier: str | None = None,
) -> float:
    """Dollars for one answer; NaN, noted once in the log, for a model whose price is not known.

    The price is that of the provider at `base_url` where it is a known one, else OpenAI's for a model of that name:
    a rehearsal against a local server shows what the same run would cost. `cached_tokens` are those of the prompt
    that the server had in its cache. `tier` is `batch` for the Batch API, else the answer's `service_tier`: `flex`,
    `priority` ...; None and `default` are the usual price. genai-prices knows the tiers' prices for most models; where
    it does not, batch and OpenAI's flex cost half, as they are documented to, and priority is NaN.

    >>> f"{price('gpt-4o-mini-2024-07-18', prompt_tokens=1_000_000, completion_tokens=100_000):.2f}"
    '0.21'
    >>> f"{price('gpt-4o-mini-2024-07-18', prompt_tokens=1_000_000, completion_tokens=100_000, tier='batch'):.3f}"
    '0.105'
    >>> price("smollm2-135m-instruct", prompt_tokens=1_000, completion_tokens=10)
    nan
    """
    # Asked again each minute: some providers' prices depend on the hour, and all change on some date.
    rates = _rates(model, base_url, None if tier in _USUAL else tier, int(time.time() // 60))
    if rates is None:
        return _NAN
    cached_tokens = min(cached_tokens, prompt_tokens)
    if prompt_tokens > rates.up_to_prompt_tokens:
        return rates.factor * _calculate(rates.where, model, prompt_tokens, completion_tokens, cached_tokens)
    return rates.factor * rates.flat(prompt_tokens, completion_tokens, cached_tokens)


#: Tiers at the usual price; `scale` is paid in advance, and its list price is the usual one.
_USUAL = frozenset({None, "auto", "default", "standard", "scale", "on_demand"})


def tier_of(response: Any) -> str | None:
    """The tier that an answer says it was served in, or a request asks for; None where it does not say.

    >>> tier_of({"service_tier": "flex", "choices": []})
    'flex'
    """
    tier = response.get("service_tier") if isinstance(response, Mapping) else None
    return tier if isinstance(tier, str) else None


def context_window(model: str, base_url: str | None = None) -> int | None:
    """Tokens that the model reads and writes in one call at the most; None where that is not known.

    >>> context_window("gpt-5-mini"), context_window("my-own-model")
    (400000, None)
    """
    return _context_window(model, base_url)


@lru_cache(maxsize=1024)
def _context_window(model: str, base_url: str | None) -> int | None:
    for where in _providers(base_url):
        try:
            window: int | None = _ask(where, model, 1, 1, 0).model.context_window
        except LookupError:
            continue
        return window
    return None


@dataclass(frozen=True)
class _Rates:
    """Dollars a token, for prompts up to the length where a provider's long-context price begins.

    Attributes:
        where: how genai-prices finds the provider and the tier, as keyword arguments.
        factor: what the price is multiplied by.
        up_to_prompt_tokens: -1 where the price is not flat at all, so that each must be calculated.
    """

    where: dict[str, Any]
    prompt: float
    completion: float
    cached: float
    up_to_prompt_tokens: float
    factor: float = 1.0

    def flat(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> float:
        return (
            (prompt_tokens - cached_tokens) * self.prompt
            + cached_tokens * self.cached
            + completion_tokens * self.completion
        )


@lru_cache(maxsize=1024)
def _rates(model: str, base_url: str | None, tier: str | None, minute: int) -> _Rates | None:
    for where in _providers(base_url):
        try:
            usual = _ask(where, model, 1, 1, 0)
        except LookupError:
            continue
        if tier is None:
            return _checked(_read(where, usual.model_price), model)
        where = {**where, "price_context": _BATCH if tier == "batch" else {"service_tier": tier}}
        prices = _ask(where, model, 1, 1, 0).model_price
        rates = _checked(_read(where, prices), model)
        return rates if prices != usual.model_price else _documented(rates, tier, usual.provider.id, model)
    _note_unknown(model)
    return None


def _documented(rates: _Rates, tier: str, provider: str, model: str) -> _Rates | None:
    """The rates of a tier for which genai-prices has only the usual ones."""
    if tier == "batch" or (tier == "flex" and provider == "openai"):
        return replace(rates, factor=HALF)
    if tier in ("priority", "fast"):  # it costs more, and how much more differs from model to model
        _note_unknown(f"{model} ({tier})")
        return None
    return rates


def _providers(base_url: str | None) -> Iterator[dict[str, Any]]:
    """Where to look for the model's price, best first."""
    if base_url is not None and "api.openai.com" not in base_url:
        yield {"provider_api_url": base_url}
    yield {"provider_id": "openai"}
    yield {}


def _read(where: dict[str, Any], prices: Any) -> _Rates:
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
    where: dict[str, Any], model: str, prompt_tokens: int, completion_tokens: int, cached_tokens: int
) -> float:
    return float(_ask(where, model, prompt_tokens, completion_tokens, cached_tokens).total_price)


def _ask(where: dict[str, Any], model: str, prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> Any:
    from genai_prices import Usage, calc_price

    usage = Usage(input_tokens=prompt_tokens, output_tokens=completion_tokens, cache_read_tokens=cached_tokens)
    return calc_price(usage, model, **where)


@lru_cache(maxsize=1024)
def _note_unknown(model: str) -> None:
    log.info("genai-prices does not know the model %r; its cost is nan.", model)
