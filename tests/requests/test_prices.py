"""Prices agree with genai-prices, and are NaN if it does not know them."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
from genai_prices import Usage, calc_price

from parallel_openai._records import Usage as Taken
from parallel_openai._requests import prices
from parallel_openai._requests.prices import price

ROOT = Path(__file__).parents[2]

USAGES = [(0, 0, 0), (1, 1, 0), (1_000, 100, 0), (1_000, 100, 200), (1_000, 0, 1_000), (150_000, 5_000, 100_000)]
LONG = [(400_000, 1_000, 0), (400_000, 1_000, 300_000)]


def by_genai_prices(model: str, usage: "tuple[int, int, int]", provider: str) -> float:
    prompt, completion, cached = usage
    counts = Usage(input_tokens=prompt, output_tokens=completion, cache_read_tokens=cached)
    return float(calc_price(counts, model, provider_id=provider).total_price)


def ours(model: str, usage: "tuple[int, int, int]", base_url: "str | None" = None) -> float:
    prompt, completion, cached = usage
    return price(model, Taken(prompt, completion, cached_tokens=cached), base_url=base_url)


def in_tier(model: str, tier: str, usage: "tuple[int, int, int]", base_url: "str | None" = None) -> float:
    prompt, completion, cached = usage
    return price(model, Taken(prompt, completion, cached_tokens=cached), base_url=base_url, tier=tier)


@pytest.mark.parametrize("usage", USAGES + LONG, ids=str)
@pytest.mark.parametrize(
    "model",
    ["gpt-5-mini", "gpt-4o-mini-2024-07-18", "gpt-5.4", "gpt-audio-mini", "ft:gpt-4o-mini-2024-07-18:us::x"],
)
def test_prices_equal_those_of_genai_prices(model: str, usage: "tuple[int, int, int]") -> None:
    assert ours(model, usage) == pytest.approx(by_genai_prices(model, usage, "openai"))


CLASSES: "list[tuple[str, Taken, dict[str, int]]]" = [
    ("gpt-5.6-luna", Taken(1_000, 9, 0, 300, 500), {"cache_read_tokens": 300, "cache_write_tokens": 500}),
    ("gpt-5.6-luna", Taken(400_000, 9, 0, 300, 500), {"cache_read_tokens": 300, "cache_write_tokens": 500}),
    (
        "claude-sonnet-4-5",
        Taken(1_000, 9, cache_write_tokens=500, cache_write_1h_tokens=200),
        {"cache_write_tokens": 500, "cache_write_1h_tokens": 200},
    ),
    (
        "gpt-audio",
        Taken(1_000, 90, audio_prompt_tokens=600, audio_completion_tokens=40),
        {"input_audio_tokens": 600, "output_audio_tokens": 40},
    ),
    (
        "gpt-image-1.5",
        Taken(1_000, 90, image_prompt_tokens=600, image_completion_tokens=40),
        {"input_image_tokens": 600, "output_image_tokens": 40},
    ),
    ("gpt-6-sol", Taken(1_000, 9, searches=3, file_searches=2), {"web_searches": 3, "file_searches": 2}),
]


@pytest.mark.parametrize(("model", "taken", "classes"), CLASSES, ids=str)
def test_each_class_of_tokens_and_each_fee_has_the_price_of_genai_prices(
    model: str, taken: Taken, classes: "dict[str, int]"
) -> None:
    names = {"file_searches": "storage_searches"}
    counts = Usage(input_tokens=taken.prompt_tokens, output_tokens=taken.completion_tokens)
    for name, count in classes.items():
        setattr(counts, names.get(name, name), count)

    assert price(model, taken) == pytest.approx(float(calc_price(counts, model).total_price))


@pytest.mark.parametrize(
    "taken",
    [
        Taken(10, 5, audio_prompt_tokens=5),
        Taken(10, 5, audio_completion_tokens=5),
        Taken(10, 5, image_completion_tokens=5),
        Taken(10, 5, searches=1),
        Taken(10, 5, tool_runs=1),
    ],
    ids=str,
)
def test_a_class_of_tokens_without_a_price_makes_the_cost_unknown(taken: Taken) -> None:
    assert math.isnan(price("gpt-4o-audio-preview", taken))


def test_image_tokens_without_a_price_cost_as_much_as_text() -> None:
    assert price("gpt-4o-mini", Taken(1_000, 9, image_prompt_tokens=800)) == price("gpt-4o-mini", Taken(1_000, 9))


def test_tokens_of_two_classes_have_the_higher_price() -> None:
    both = Taken(1_000, 0, cached_tokens=1_000, audio_prompt_tokens=1_000)

    assert price("gpt-audio", both) == price("gpt-audio", Taken(1_000, 0, audio_prompt_tokens=1_000))


def test_the_batch_discount_applies_to_tokens_and_not_to_fees() -> None:
    base_url = "https://my.openai.azure.com/openai/v1"
    plain, searched = Taken(1_000, 9), Taken(1_000, 9, searches=1)
    fee = price("sonar", searched, base_url="https://api.perplexity.ai", tier="batch")

    assert price("gpt-5.4", plain, base_url=base_url, tier="batch") == price("gpt-5.4", plain, base_url=base_url) / 2
    assert fee > price("sonar", plain, base_url="https://api.perplexity.ai") / 2


def test_long_prompts_have_the_providers_higher_price() -> None:
    base_url = "https://generativelanguage.googleapis.com/v1beta/openai"

    short, long = (ours("gemini-2.5-pro", (tokens, 0, 0), base_url) / tokens for tokens in (1_000, 400_000))

    assert long == pytest.approx(2 * short)


def test_a_price_that_is_not_linear_in_tokens_is_calculated_each_time() -> None:
    # Perplexity's Sonar costs something for the request itself.
    usage = (1_000, 100, 0)

    assert ours("sonar", usage, "https://api.perplexity.ai") == pytest.approx(
        by_genai_prices("sonar", usage, "perplexity")
    )


def test_the_provider_is_recognised_by_the_base_url() -> None:
    model, usage = "llama-3.1-8b-instant", (1_000_000, 0, 0)

    assert ours(model, usage, "https://api.groq.com/openai/v1") == pytest.approx(by_genai_prices(model, usage, "groq"))


@pytest.mark.parametrize(
    "base_url",
    [None, "https://api.openai.com/v1", "https://eu.api.openai.com/v1", "http://127.0.0.1:8000/v1", "http://gpu:80/v1"],
)
def test_an_unknown_servers_price_follows_from_the_models_name(base_url: "str | None") -> None:
    assert ours("gpt-5-mini", (1_000_000, 0, 0), base_url) == pytest.approx(0.25)


def test_cached_tokens_are_at_most_the_prompt_tokens() -> None:
    assert ours("gpt-5-mini", (1_000, 0, 2_000)) == ours("gpt-5-mini", (1_000, 0, 1_000))


def test_an_unknown_model_costs_nan_and_is_noted_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "parallel_openai")

    assert math.isnan(ours("model-without-a-price", (1, 1, 0)))
    assert math.isnan(ours("model-without-a-price", (1, 1, 0), "http://127.0.0.1:8000/v1"))
    assert caplog.messages == ["genai-prices does not know the model 'model-without-a-price'; its cost is nan."]


def test_genai_prices_is_not_called_for_each_row() -> None:
    ours("gpt-5-mini", (1_000, 100, 0))
    before = prices._price_list.cache_info()

    ours("gpt-5-mini", (2_000, 100, 50))

    # At most one more miss, should the minute have changed in between.
    assert prices._price_list.cache_info().misses <= before.misses + 1


@pytest.mark.parametrize(
    ("model", "tier", "context"),
    [
        ("gpt-5-mini", "batch", {"processing": "batch"}),
        ("gpt-5-mini", "flex", {"service_tier": "flex"}),
        ("gpt-5-mini", "priority", {"service_tier": "priority"}),
    ],
)
@pytest.mark.parametrize("usage", [*USAGES, *LONG], ids=str)
def test_the_price_of_a_tier_is_that_of_genai_prices(
    model: str, tier: str, context: "dict[str, str]", usage: "tuple[int, int, int]"
) -> None:
    prompt, completion, cached = usage
    counts = Usage(input_tokens=prompt, output_tokens=completion, cache_read_tokens=cached)
    theirs = float(calc_price(counts, model, provider_id="openai", price_context=context).total_price)

    assert in_tier(model, tier, usage) == pytest.approx(theirs)
    assert prompt == 0 or theirs != pytest.approx(by_genai_prices(model, usage, "openai"))


@pytest.mark.parametrize("tier", ["batch", "flex"])
def test_a_tier_whose_price_is_not_listed_costs_half(tier: str) -> None:
    usage = (1_000_000, 0, 0)

    assert in_tier("text-embedding-3-small", tier, usage) == pytest.approx(ours("text-embedding-3-small", usage) / 2)


def test_the_discount_applies_to_the_long_prompt_price_too() -> None:
    base_url = "https://my.openai.azure.com/openai/v1"
    usage = (400_000, 1_000, 0)

    assert in_tier("gpt-5.4", "batch", usage, base_url) == pytest.approx(ours("gpt-5.4", usage, base_url) / 2)


def test_another_providers_flex_tier_has_no_openai_discount() -> None:
    model, usage, base_url = "llama-3.1-8b-instant", (1_000_000, 0, 0), "https://api.groq.com/openai/v1"

    assert in_tier(model, "flex", usage, base_url) == ours(model, usage, base_url)


def test_a_batch_costs_the_usual_price_where_no_discount_is_published() -> None:
    model, usage, base_url = "deepseek-chat", (1_000_000, 0, 0), "https://api.deepseek.com/v1"

    assert in_tier(model, "batch", usage, base_url) == ours(model, usage, base_url)


@pytest.mark.parametrize("tier", ["auto", "default", "scale", "on_demand", "something-new"])
def test_any_other_tier_costs_the_usual_price(tier: str) -> None:
    assert in_tier("gpt-5-mini", tier, (1_000, 10, 0)) == ours("gpt-5-mini", (1_000, 10, 0))


def test_a_priority_price_that_is_not_listed_is_not_guessed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "parallel_openai")

    assert math.isnan(in_tier("gpt-4-turbo", "priority", (1_000, 10, 0)))
    assert caplog.messages == ["genai-prices does not know the model 'gpt-4-turbo (priority)'; its cost is nan."]


def test_importing_the_prices_does_not_import_genai_prices() -> None:
    script = "import sys; import parallel_openai._requests.prices; print('genai_prices' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True, text=True)

    assert done.stdout.strip() == "False"
