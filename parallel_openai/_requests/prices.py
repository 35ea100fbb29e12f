"""Compute prices in dollars with genai-prices. The only module that uses it.

genai-prices is imported on the first call (0.3 s), and rates are cached for a minute per model: its own calculation
takes over 100 µs, too much for every row.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

from parallel_openai._log import log
from parallel_openai._loop.forks import fork_safe_lock
from parallel_openai._records import Usage

_NAN = float("nan")

#: The price context of batches for genai-prices; any other tier is a `service_tier`.
_BATCH = {"processing": "batch"}
#: Factor on the standard price if genai-prices has no price for the tier: for batches, as these publish it ("Batch API:
#: save 50% on inputs and outputs"); for flex, as OpenAI does ("tokens are priced at Batch API rates").
HALF = 0.5
_HALF_IN_BATCHES = frozenset({"openai", "azure", "anthropic", "google", "groq", "mistral"})


def price(model: str, usage: Usage, tier: str | None = None, *, base_url: str | None = None) -> float:
    """The cost of one answer in dollars; NaN if a price is unknown, which is logged once.

    The price is that of the provider at `base_url` if it is known, otherwise OpenAI's for a model of that name, so that
    a run against a local server shows what it would cost. `tier` is `batch` for the Batch API, otherwise the answer's
    `service_tier`: `flex`, `priority` ...; None and `default` mean the standard price. If genai-prices has no price for
    the tier, batch and OpenAI's flex cost half where that is documented, and priority is NaN.

    >>> f"{price('gpt-4o-mini-2024-07-18', Usage(1_000_000, 100_000)):.2f}"
    '0.21'
    >>> f"{price('gpt-4o-mini-2024-07-18', Usage(1_000_000, 100_000), tier='batch'):.3f}"
    '0.105'

    Models and audio without a known price are not free:

    >>> price("smollm2-135m-instruct", Usage(1_000, 10))
    nan
    >>> price("gpt-4o-mini", Usage(1_000, 10, audio_completion_tokens=10))
    nan
    """
    # Looked up again each minute: some providers' prices depend on the hour, and all may change on some date.
    steps = _price_list(model, base_url, None if tier in _STANDARD_TIERS else tier, int(time.time() // 60))
    for start, rates in steps:
        if usage.prompt_tokens > start:
            return rates.cost(usage)
    return _NAN


#: Tiers at the standard price; `scale` is prepaid, with the standard list price.
_STANDARD_TIERS = frozenset({None, "auto", "default", "standard", "scale", "on_demand"})


def tier_of(response: Any) -> str | None:
    """The `service_tier` of a response or a request; None without one.

    >>> tier_of({"service_tier": "flex", "choices": []})
    'flex'
    """
    tier = response.get("service_tier") if isinstance(response, dict) else None
    return tier if isinstance(tier, str) else None


@lru_cache(maxsize=1024)
def context_window(model: str, base_url: str | None = None) -> int | None:
    """The model's context window in tokens; None if unknown.

    >>> context_window("gpt-5-mini"), context_window("my-own-model")
    (400000, None)
    """
    for where in _providers(base_url):
        try:
            window: int | None = _ask(where, model).model.context_window
        except LookupError:
            continue
        return window
    return None


@dataclass(frozen=True)
class _Rates:
    """Dollars per token, call or request; NaN if unknown.

    Input images without a price of their own cost the same as text, as OpenAI documents; audio and output images do
    not.
    """

    prompt: float
    completion: float
    reasoning: float
    cached: float
    written: float
    written_1h: float
    audio_prompt: float
    image_prompt: float
    audio_completion: float
    image_completion: float
    search: float
    file_search: float
    request: float

    def cost(self, usage: Usage) -> float:
        if not any(usage[2:]):  # fast path for most answers
            output = usage.completion_tokens * self.completion if usage.completion_tokens else 0.0
            return usage.prompt_tokens * self.prompt + output + self.request
        written_1h = min(usage.cache_write_1h_tokens, usage.cache_write_tokens)
        read = (
            (self.cached, usage.cached_tokens),
            (self.written, usage.cache_write_tokens - written_1h),
            (self.written_1h, written_1h),
            (self.audio_prompt, usage.audio_prompt_tokens),
            (self.image_prompt, usage.image_prompt_tokens),
        )
        wrote = (
            (self.reasoning, usage.reasoning_tokens),
            (self.audio_completion, usage.audio_completion_tokens),
            (self.image_completion, usage.image_completion_tokens),
        )
        fees = ((self.search, usage.searches), (self.file_search, usage.file_searches), (_NAN, usage.tool_runs))
        return (
            _dearest(usage.prompt_tokens, self.prompt, read)
            + _dearest(usage.completion_tokens, self.completion, wrote)
            + sum(fee * count for fee, count in fees if count)
            + self.request
        )

    def scaled(self, factor: float) -> _Rates:
        """The rates with a factor on token prices; fees are unchanged."""
        fees = {"search": self.search, "file_search": self.file_search, "request": self.request}
        return replace(_Rates(*(factor * getattr(self, each.name) for each in fields(self))), **fees)


def _dearest(tokens: int, plain: float, classes: Iterable[tuple[float, int]]) -> float:
    """Dollars for tokens of which some belong to classes with other prices.

    If classes overlap, as with cached audio, each token counts as its most expensive class.
    """
    used = [(rate, count) for rate, count in classes if count]
    if not used:
        return tokens * plain if tokens else 0.0
    if any(math.isnan(rate) for rate, _ in used):
        return _NAN
    cost, left = 0.0, tokens
    for rate, count in sorted(used, reverse=True):
        taken = min(count, left)
        cost, left = cost + taken * rate, left - taken
    return cost + left * plain if left else cost


#: Rates, each with the prompt length above which it applies, the longest first.
_Steps = tuple[tuple[float, _Rates], ...]


@lru_cache(maxsize=1024)
def _price_list(model: str, base_url: str | None, tier: str | None, minute: int) -> _Steps:
    """The model's rates by prompt length; empty if unknown."""
    for where in _providers(base_url):
        try:
            standard = _ask(where, model)
        except LookupError:
            continue
        if tier is None:
            return _steps(standard.model_price)
        context = _BATCH if tier == "batch" else {"service_tier": tier}
        prices = _ask({**where, "price_context": context}, model).model_price
        steps = _steps(prices)
        return steps if prices != standard.model_price else _documented(steps, tier, standard.provider.id, model)
    _note_unknown(model)
    return ()


def _documented(steps: _Steps, tier: str, provider: str, model: str) -> _Steps:
    """The rates of a tier for which genai-prices has only standard rates."""
    if (tier == "batch" and provider in _HALF_IN_BATCHES) or (tier == "flex" and provider == "openai"):
        return tuple((start, rates.scaled(HALF)) for start, rates in steps)
    if tier in ("priority", "fast"):  # it costs more, by a factor that differs between models
        _note_unknown(f"{model} ({tier})")
        return ()
    return steps


def _providers(base_url: str | None) -> Iterator[dict[str, Any]]:
    """The places to look up a model's price, in order of preference."""
    if base_url is not None and "api.openai.com" not in base_url:
        yield {"provider_api_url": base_url}
    yield {"provider_id": "openai"}
    yield {}


def _steps(prices: Any) -> _Steps:
    starts = {tier.start for value in vars(prices).values() for tier in getattr(value, "tiers", ())}
    return tuple((start, _rates(prices, start)) for start in sorted({-1, *starts}, reverse=True))


def _rates(prices: Any, start: float) -> _Rates:
    def rate(*names: str, per: int = 1_000_000, otherwise: float = _NAN) -> float:
        values = (_at(getattr(prices, name, None), start) for name in names)
        return next((value / per for value in values if value is not None), otherwise)

    prompt, completion = rate("input_mtok", "input_text_mtok"), rate("output_mtok", "output_text_mtok")
    if math.isnan(completion):  # embeddings
        completion = prompt
    written = rate("cache_write_mtok", otherwise=prompt)
    request = rate("requests_kcount", per=1000, otherwise=0.0)
    return _Rates(
        prompt,
        completion,
        reasoning=rate("output_reasoning_mtok", otherwise=completion),
        cached=rate("cache_read_mtok", otherwise=prompt),
        written=written,
        written_1h=rate("cache_write_1h_mtok", otherwise=written),
        audio_prompt=rate("input_audio_mtok"),
        image_prompt=rate("input_image_mtok", otherwise=prompt),
        audio_completion=rate("output_audio_mtok"),
        image_completion=rate("output_image_mtok"),
        search=rate("web_searches_kcount", per=1000, otherwise=0.0 if request else _NAN),  # in the request fee
        file_search=rate("storage_searches_kcount", per=1000),
        request=request,
    )


def _at(value: Any, start: float) -> float | None:
    if value is None:
        return None
    prices = [getattr(value, "base", value)]
    prices += [tier.price for tier in getattr(value, "tiers", ()) if tier.start <= start]
    return float(prices[-1])


def _ask(where: dict[str, Any], model: str) -> Any:
    with _importing:  # which takes a while, and the list itself is imported by the first call
        from genai_prices import Usage as NoUsage
        from genai_prices import calc_price

        return calc_price(NoUsage(), model, **where)


_importing = fork_safe_lock()


@lru_cache(maxsize=1024)
def _note_unknown(model: str) -> None:
    log.info("genai-prices does not know the model %r; its cost is nan.", model)
