"""Usage in every format that servers use: of contradictory values the larger one counts, once."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest

from parallel_openai._records import APIRequest, Response, Size, Usage
from parallel_openai._requests.endpoints import bill_of, usage_of
from parallel_openai._requests.prices import price
from parallel_openai._run.spending.budget import Budget
from parallel_openai._run.spending.caps import prices_at
from parallel_openai._run.spending.funds import Reserve

CHAT: dict[str, Any] = {"model": "gpt-5.6-luna", "choices": [{"message": {"content": "Yes."}}]}
EMBEDDINGS: dict[str, Any] = {"model": "text-embedding-3-small", "data": [{"embedding": [0.5]}]}

#: Beside an answer, or in the place of one, where gateways tell it too.
ELSEWHERE: dict[str, dict[str, Any]] = {
    "in a choice": {"choices": [{"message": {"content": "Yes."}, "usage": {"prompt_tokens": 90, "total_tokens": 95}}]},
    "in an error": {"error": {"message": "Broke off.", "usage": {"prompt_tokens": 90, "completion_tokens": 5}}},
    "beside an error's words": {"error": {"metadata": {"usage": {"prompt_tokens": 90, "completion_tokens": 5}}}},
}


@pytest.mark.parametrize("place", ELSEWHERE)
def test_usage_in_unusual_places_is_read_and_kept_for_the_cost(place: str) -> None:
    assert usage_of(ELSEWHERE[place]) == Usage(90, 5)
    assert usage_of(bill_of(ELSEWHERE[place])) == Usage(90, 5)


def with_choices(*usages: Any, **further: Any) -> dict[str, Any]:
    return {"model": "m", "choices": [{"message": {"content": "Yes."}, "usage": each} for each in usages], **further}


ONE, TWO = {"prompt_tokens": 9, "completion_tokens": 5}, {"prompt_tokens": 9, "completion_tokens": 7}
#: Each choice tells its own; at the top stands nothing, less or the sum.
IN_CHOICES: dict[str, tuple[dict[str, Any], Usage]] = {
    "alone": (with_choices(ONE, TWO), Usage(18, 12)),
    "with the last one's at the top": (with_choices(ONE, TWO, usage=TWO), Usage(18, 12)),
    "with the sum at the top": (
        with_choices(ONE, TWO, usage=[{"input_tokens": 18, "output_tokens": 12}]),
        Usage(18, 12),
    ),
    "with the prompt at the top": (
        with_choices({"completion_tokens": 5}, {"completion_tokens": 7}, usage={"prompt_tokens": 9}),
        Usage(9, 12),
    ),
    "some without one": (with_choices(ONE, None, {}, "none", TWO), Usage(18, 12)),
    "as JSON in a string": (with_choices(ONE, json.dumps(TWO)), Usage(18, 12)),
}


@pytest.mark.parametrize(("response", "expected"), IN_CHOICES.values(), ids=IN_CHOICES)
def test_the_usage_of_several_choices_adds_up(response: dict[str, Any], expected: Usage) -> None:
    assert usage_of(response) == expected
    assert usage_of(bill_of(response)) == expected
    assert usage_of(json.loads(json.dumps(bill_of(response)))) == expected


#: Where makers tell it outside of `usage`.
PLACES: dict[str, dict[str, Any]] = {
    "Groq": {"x_groq": {"id": "req_1", "usage": ONE}},
    "Gemini": {"usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 5, "totalTokenCount": 14}},
    "Gemini's SDK": {"usage_metadata": {"prompt_token_count": 9, "candidates_token_count": 5}},
    "Bedrock": {"amazon-bedrock-invocationMetrics": {"inputTokenCount": 9, "outputTokenCount": 5}},
    "Cohere": {"meta": {"billed_units": {"input_tokens": 2, "output_tokens": 5}, "tokens": {"input_tokens": 9}}},
}


@pytest.mark.parametrize("maker", PLACES)
def test_usage_is_read_where_makers_tell_it(maker: str) -> None:
    assert usage_of(PLACES[maker]) == Usage(9, 5)
    assert usage_of(bill_of(PLACES[maker])) == Usage(9, 5)
    smaller = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    assert usage_of({**PLACES[maker], "usage": smaller}) == Usage(9, 5)


@pytest.mark.parametrize("wrapper", ["data", "result", "response"])
def test_the_usage_of_an_answer_in_a_wrapper_is_read(wrapper: str) -> None:
    wrapped = {"code": 0, wrapper: {"choices": [], "usage": ONE}}
    assert usage_of(wrapped) == usage_of(bill_of(wrapped)) == Usage(9, 5)


@pytest.mark.parametrize("usage", [{"total_tokens": 8}, {"prompt_tokens": 8}], ids=str)
def test_embeddings_are_billed_for_their_prompt_tokens(usage: dict[str, Any]) -> None:
    assert usage_of(bill_of({**EMBEDDINGS, "usage": usage})) == Usage(8)


NONSENSE: dict[str, Any] = {"prompt_tokens": True, "completion_tokens": math.nan, "total_tokens": "many"}
ZEROS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


@pytest.mark.parametrize("usage", [ZEROS, {}, NONSENSE], ids=str)
def test_zero_and_invalid_token_counts_count_as_missing(usage: dict[str, Any]) -> None:
    assert usage_of({**CHAT, "usage": usage}) is None


#: As servers tell it, and what is read.
TOLD: dict[str, tuple[Any, Usage]] = {
    "a cache that was written": (
        {"prompt_tokens": 90, "completion_tokens": 5, "prompt_tokens_details": {"cache_write_tokens": 80}},
        Usage(90, 5, cache_write_tokens=80),
    ),
    "the same in Responses": (
        {"input_tokens": 90, "output_tokens": 5, "input_tokens_details": {"cache_write_tokens": 80}},
        Usage(90, 5, cache_write_tokens=80),
    ),
    "a cache as Anthropic tells it, beside the input": (
        {"input_tokens": 9, "output_tokens": 5, "cache_creation_input_tokens": 80, "cache_read_input_tokens": 40},
        Usage(129, 5, cached_tokens=40, cache_write_tokens=80),
    ),
    "the same as AWS names it": (
        {"inputTokens": 9, "outputTokens": 5, "cacheWriteInputTokens": 80, "cacheReadInputTokens": 40},
        Usage(129, 5, cached_tokens=40, cache_write_tokens=80),
    ),
    "by other makers' names": ({"promptTokens": 9, "completionTokens": 5, "totalTokens": 14}, Usage(9, 5)),
    "the same within a prompt, where the total says so": (
        {"prompt_tokens": 129, "completion_tokens": 5, "total_tokens": 134, "cache_creation_input_tokens": 80},
        Usage(129, 5, cache_write_tokens=80),
    ),
    "a cache kept for an hour": (
        {
            "input_tokens": 9,
            "cache_creation_input_tokens": 80,
            "cache_creation": {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 50},
        },
        Usage(89, 0, cache_write_tokens=80, cache_write_1h_tokens=50),
    ),
    "the same as LiteLLM tells it": (
        {
            "prompt_tokens": 89,
            "total_tokens": 89,
            "prompt_tokens_details": {
                "cache_creation_tokens": 80,
                "cache_creation_token_details": {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 50},
            },
        },
        Usage(89, 0, cache_write_tokens=80, cache_write_1h_tokens=50),
    ),
    "a cache that was written, as Qwen tells it": (
        {
            "prompt_tokens": 90,
            "completion_tokens": 5,
            "total_tokens": 95,
            "prompt_tokens_details": {
                "cache_creation": {"ephemeral_5m_input_tokens": 80},
                "cache_creation_input_tokens": 80,
            },
        },
        Usage(90, 5, cache_write_tokens=80),
    ),
    "sound in the singular": (
        {
            "input_tokens": 90,
            "output_tokens": 50,
            "total_tokens": 140,
            "input_token_details": {"audio_tokens": 60},
            "output_token_details": {"audio_tokens": 40},
        },
        Usage(90, 50, audio_prompt_tokens=60, audio_completion_tokens=40),
    ),
    "sound": (
        {
            "prompt_tokens": 90,
            "completion_tokens": 50,
            "total_tokens": 140,
            "prompt_tokens_details": {"audio_tokens": 60},
            "completion_tokens_details": {"audio_tokens": 40},
        },
        Usage(90, 50, audio_prompt_tokens=60, audio_completion_tokens=40),
    ),
    "rejected predictions beside the completion": (
        {
            "prompt_tokens": 90,
            "completion_tokens": 20,
            "completion_tokens_details": {"accepted_prediction_tokens": 10, "rejected_prediction_tokens": 40},
        },
        Usage(90, 60),
    ),
    "rejected predictions among it": (
        {
            "prompt_tokens": 90,
            "completion_tokens": 60,
            "completion_tokens_details": {"accepted_prediction_tokens": 10, "rejected_prediction_tokens": 40},
        },
        Usage(90, 60),
    ),
    "thoughts in the total alone": (
        {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 480},
        Usage(9, 471, reasoning_tokens=466),
    ),
    "thoughts beside the completion": (
        {"prompt_tokens": 9, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 400}},
        Usage(9, 405, reasoning_tokens=400),
    ),
    "the same, and in the total": (
        {
            "prompt_tokens": 9,
            "completion_tokens": 5,
            "total_tokens": 414,
            "completion_tokens_details": {"reasoning_tokens": 400},
        },
        Usage(9, 405, reasoning_tokens=400),
    ),
    "thoughts that the total shows to be within": (
        {"prompt_tokens": 9, "completion_tokens": 500, "total_tokens": 509, "reasoning_tokens": 400},
        Usage(9, 500, reasoning_tokens=400),
    ),
    "as Gemini tells it": (
        {"promptTokenCount": 9, "candidatesTokenCount": 5, "thoughtsTokenCount": 400, "totalTokenCount": 414},
        Usage(9, 405, reasoning_tokens=400),
    ),
    "text instead of numbers": (
        {"prompt_tokens": "9", "completion_tokens": "5.0", "total_tokens": "14"},
        Usage(9, 5),
    ),
    "nested": ({"tokens": {"input_tokens": 9, "output_tokens": 5}}, Usage(9, 5)),
    "nested twice, with what is billed beside": (
        {"billed_units": {"input_tokens": 5, "output_tokens": 5}, "tokens": {"input_tokens": 9, "output_tokens": 5}},
        Usage(9, 5),
    ),
    "twice": (
        [{"prompt_tokens": 9, "completion_tokens": 5}, {"prompt_tokens": 9, "completion_tokens": 7}],
        Usage(9, 7),
    ),
    "as JSON in a string": ('{"prompt_tokens": 9, "completion_tokens": 5}', Usage(9, 5)),
    "nulls": ({"prompt_tokens": 9, "completion_tokens": None, "prompt_tokens_details": None}, Usage(9)),
    "cached as little as any reading has it": (
        {"prompt_tokens": 90, "prompt_tokens_details": {"cached_tokens": 80}, "prompt_cache_hit_tokens": 10},
        Usage(90, cached_tokens=10),
    ),
    "searches": ({"prompt_tokens": 9, "num_search_queries": 3}, Usage(9, searches=3)),
    "searches as Anthropic tells them": (
        {"input_tokens": 9, "server_tool_use": {"web_search_requests": 3}},
        Usage(9, searches=3),
    ),
    "tools that xAI runs": (
        {
            "prompt_tokens": 9,
            "server_side_tool_usage_details": {"web_search_calls": 2, "x_search_calls": 1, "file_search_calls": 4},
        },
        Usage(9, searches=2, file_searches=4, tool_runs=1),
    ),
}


@pytest.mark.parametrize(("told", "expected"), TOLD.values(), ids=TOLD)
def test_of_two_usage_records_the_larger_counts(told: Any, expected: Usage) -> None:
    assert usage_of({**CHAT, "usage": told}) == expected


@pytest.mark.parametrize("told", [None, "none", [], 5, ["x"], "{"], ids=str)
def test_a_response_without_usage_has_none(told: Any) -> None:
    assert usage_of({**CHAT, "usage": told}) is None
    assert usage_of(CHAT) is None


def test_usage_repeated_in_two_places_counts_once() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 5}
    assert usage_of({**CHAT, "usage": usage, "x_groq": {"usage": {**usage, "completion_tokens": 8}}}) == Usage(9, 8)


def test_total_tokens_alone_are_prompt_tokens_for_embeddings() -> None:
    assert usage_of({**EMBEDDINGS, "usage": {"total_tokens": 40}}) == Usage(40)


def test_calls_of_the_servers_tools_are_counted_in_the_cost() -> None:
    kinds = ("web_search_call", "message", "web_search_call", "file_search_call", "code_interpreter_call")
    response = {"usage": {"input_tokens": 9}, "output": [{"type": kind} for kind in kinds]}
    assert usage_of(response) == Usage(9, searches=2, file_searches=1, tool_runs=1)
    assert usage_of(bill_of(response)) == usage_of(response)


@pytest.mark.parametrize(
    "further",
    [
        {"model": "gpt-4o-search-preview"},
        {"model": "gpt-5-search-api"},
        {"choices": [{"message": {"annotations": [{"type": "url_citation"}]}}]},
    ],
    ids=str,
)
def test_an_answer_of_a_search_model_counts_one_search(further: dict[str, Any]) -> None:
    found = usage_of({**CHAT, **further, "usage": {"prompt_tokens": 9}})
    assert found is not None
    assert found.searches == 1


# The fuzz: what was really billed is told in one of many ways, and then spoiled.

WAYS = ("whole", "beside", "in_total", "total_alone", "text", "nested", "twice", "anthropic", "nulls", "contradictory")


#: Ways that may leave out what a cache cost, so that nobody can know it.
SILENT = frozenset({"nulls", "contradictory", "total_alone"})


def billed(chance: random.Random, way: str, *, embeds: bool) -> Usage:
    prompt = chance.choice([1, chance.randint(1, 500), chance.randint(1, 300_000)])
    if embeds:
        return Usage(prompt)
    output = chance.choice([0, chance.randint(1, 400), chance.randint(1, 20_000)])
    cached = 0 if way in SILENT else chance.choice([0, chance.randint(0, prompt)])
    written = 0 if way in SILENT else chance.choice([0, chance.randint(0, prompt - cached)])
    return Usage(prompt, output, chance.choice([0, chance.randint(0, output)]), cached, written)


def as_told(usage: Usage, way: str, names: tuple[str, str], chance: random.Random) -> Any:
    reads, writes = names
    beside = way in ("beside", "in_total")
    whole: dict[str, Any] = {
        reads: usage.prompt_tokens,
        writes: usage.completion_tokens - (usage.reasoning_tokens if beside else 0),
        "total_tokens": usage.total_tokens,
        f"{reads}_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": usage.cache_write_tokens},
        f"{writes}_details": {"reasoning_tokens": 0 if way == "in_total" else usage.reasoning_tokens},
    }
    if way == "beside" and chance.random() < 0.5:
        del whole["total_tokens"]
        whole["reasoning_tokens"] = usage.reasoning_tokens
    if way == "total_alone":
        return {"total_tokens": usage.total_tokens}
    if way == "text":
        return json.loads(json.dumps(whole), parse_int=str)
    if way == "nested":
        return {"tokens": whole, "cost": None}
    if way == "twice":
        return chance.sample([whole, {reads: usage.prompt_tokens // 2, "total_tokens": "?"}], 2)
    if way == "anthropic":
        plain = usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens
        cache = {
            "cache_read_input_tokens": usage.cached_tokens,
            "cache_creation_input_tokens": usage.cache_write_tokens,
        }
        return {"input_tokens": plain, "output_tokens": usage.completion_tokens, **cache}
    if way == "nulls":
        return {**whole, f"{reads}_details": None, f"{writes}_details": []}
    if way == "contradictory":
        spoiled = chance.choice([reads, writes, f"{reads}_details", f"{writes}_details"])
        return {**whole, spoiled: chance.choice([None, -1, "x", {"a": 1}, 0, math.inf])}
    return whole


@pytest.mark.parametrize("endpoint", ["chat", "responses", "embeddings"])
def test_no_usage_record_is_read_as_less_than_was_billed(endpoint: str) -> None:
    chance = random.Random(endpoint)
    names = ("input_tokens", "output_tokens") if endpoint == "responses" else ("prompt_tokens", "completion_tokens")
    response = EMBEDDINGS if endpoint == "embeddings" else CHAT
    for number in range(5000):
        way = WAYS[number % len(WAYS)]
        usage = billed(chance, way, embeds=endpoint == "embeddings")
        told = as_told(usage, way, names, chance)
        found = usage_of({**response, "usage": told})
        assert found is not None
        assert found.total_tokens >= usage.total_tokens, (way, usage, told)
        assert price(response["model"], found) >= price(response["model"], usage) * (1 - 1e-12), (way, usage, told)
        if way in ("whole", "text", "nested"):
            assert found.total_tokens == usage.total_tokens
            assert price(response["model"], found) == pytest.approx(price(response["model"], usage))


def anything(chance: random.Random, depth: int = 0) -> Any:
    """A record that nobody would write."""
    names = (
        *("prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens", "reasoning_tokens"),
        *("cached_tokens", "cache_creation_input_tokens", "num_search_queries", "audio_tokens", "usage"),
        *("prompt_tokens_details", "completion_tokens_details", "cache_creation", "server_tool_use"),
    )
    kind = chance.randrange(4 if depth < 4 else 3)
    if kind == 3:
        return {chance.choice(names): anything(chance, depth + 1) for _ in range(chance.randrange(6))}
    if kind == 2:
        return chance.choice(
            [None, True, "", "7", "1e3", "nan", "{}", [{}], [], -3, 2**70, 1e300, '{"total_tokens": 9}']
        )
    return chance.randint(0, 1000)


def test_nothing_in_place_of_a_usage_record_stops_a_run() -> None:
    chance, names = random.Random(5), ("prompt_tokens", "completion_tokens", "total_tokens")
    for _ in range(5000):
        told = anything(chance)
        found = usage_of({**CHAT, "usage": told, "output": anything(chance), "choices": anything(chance)})
        numbers = [told[name] for name in names if type(told.get(name)) is int] if isinstance(told, dict) else []
        assert found is None or found.total_tokens >= max((each for each in numbers if 0 <= each < 2**60), default=0)
        if found is not None:
            assert all(0 <= each < 2**62 for each in found)
            assert not price("gpt-5.6-luna", found) < 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("bound", ["usd", "tokens"])
def test_no_format_of_usage_makes_a_run_exceed_its_budget(bound: str, way: str) -> None:
    """A thousand sends, four at a time, of which some are never answered though billed."""
    chance, limit = random.Random(bound + way), 0.1 if bound == "usd" else 400_000
    budget = Budget(**{bound: limit}, price=prices_at("http://127.0.0.1/v1"))
    on_the_way: list[tuple[Usage, Reserve]] = []
    spent = 0.0
    for _ in range(1000):
        usage = billed(chance, way, embeds=False)._replace(completion_tokens=chance.randint(0, 500))
        usage = usage._replace(reasoning_tokens=min(usage.reasoning_tokens, usage.completion_tokens))
        request = APIRequest({"model": CHAT["model"], "max_completion_tokens": 500})
        request.size = Size(usage.prompt_tokens, 4, 500, 1)
        reserve = budget.reserve(request)
        if reserve is not None:
            on_the_way.append((usage, reserve))
        while on_the_way and (reserve is None or len(on_the_way) > 3):
            usage, reserve = on_the_way.pop(chance.randrange(len(on_the_way)))
            spent += price(CHAT["model"], usage) if bound == "usd" else usage.total_tokens
            budget.settle(reserve, answered(usage, way, chance))
    assert limit * 0.3 < spent <= limit


def answered(usage: Usage, way: str, chance: random.Random) -> Response:
    if chance.random() < 0.05:
        return Response(0, {}, b"", None, 9.0, "timeout")
    told = as_told(usage, way, ("prompt_tokens", "completion_tokens"), chance)
    return Response(200, {}, b"", {**CHAT, "model": chance.choice([CHAT["model"], "an-alias"]), "usage": told}, 1.0)
