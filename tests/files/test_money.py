"""A run on files reports all tokens and keeps its budget, whatever the format of usage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import parallel_openai as po
from parallel_openai._records import Usage
from parallel_openai._requests.prices import price
from parallel_openai.errors import InvalidInputError
from parallel_openai.local.simulator import Server

MODEL = "gpt-5.6-luna"
WAYS = ("whole", "beside", "in_total", "total_alone", "text", "nested")


def run(server: Server, path: str, bodies: list[dict[str, Any]], **bounds: Any) -> po.StatusTracker:
    Path("in.jsonl").write_text("".join(json.dumps(body) + "\n" for body in bodies), "utf-8")
    url = f"{server.base_url}/{path}"
    return po.process_api_requests_from_file("in.jsonl", "out.jsonl", url, "sk-test", **{"progress": False, **bounds})


def chats(**more: Any) -> list[dict[str, Any]]:
    texts = [f"Review number {n} of a lamp. " + "It is good. " * 20 for n in range(60)]
    common = {"model": MODEL, "max_completion_tokens": 20, **more}
    return [{**common, "messages": [{"role": "user", "content": text}]} for text in texts]


def billed(server: Server) -> Usage:
    stats = server.stats(charged=False)
    return Usage(int(stats["prompt_tokens"]), int(stats["completion_tokens"]))


@pytest.mark.parametrize("way", WAYS)
def test_a_budget_in_tokens_is_kept_and_all_tokens_are_reported(server: Server, way: str) -> None:
    server.set(usage=way, thoughts=300)
    status = run(server, "chat/completions", chats(), budget_tokens=8000)
    assert status.ended == "budget"
    assert status.prompt_tokens + status.completion_tokens == billed(server).total_tokens
    assert 3000 < billed(server).total_tokens <= 8000


def test_a_budget_in_dollars_includes_the_cost_of_a_cache(server: Server) -> None:
    server.set(written_share=1.0)
    status = run(server, "chat/completions", chats(), budget_usd=0.001)
    usage = billed(server)
    cost = price(MODEL, usage._replace(cache_write_tokens=usage.prompt_tokens))
    assert status.ended == "budget"
    assert status.cost_usd == pytest.approx(cost)
    assert 0.0005 < cost <= 0.001


def test_usage_of_embeddings_may_have_total_tokens_only(server: Server) -> None:
    server.set(usage="total_alone")
    bodies = [{"model": "text-embedding-3-small", "input": f"A lamp, number {n}."} for n in range(60)]
    status = run(server, "embeddings", bodies, budget_tokens=200)
    assert status.ended == "budget"
    assert status.prompt_tokens == billed(server).prompt_tokens
    assert 100 < billed(server).prompt_tokens <= 200


SOUND = {"type": "input_audio", "input_audio": {"data": "AAAA" * 100, "format": "wav"}}


@pytest.mark.parametrize(
    ("further", "why"),
    [
        ({"model": "gpt-4o-search-preview"}, r"Line 2 .*which searches by itself"),
        ({"plugins": [{"id": "web"}]}, r"Line 2 .*plugins makes it read more"),
        (
            {"model": "gpt-4o-audio-preview", "modalities": ["text", "audio"]},
            r"Line 2 .*such as sound or searches, is not known",
        ),
        ({"messages": [{"role": "user", "content": [SOUND]}]}, r"Line 2 .*such as sound or searches, is not known"),
        ({"models": ["a-model-without-a-price"]}, r"Line 2 .*'a-model-without-a-price' is not known"),
    ],
    ids=["searches", "plugins", "speaks", "listens", "falls back"],
)
def test_a_model_without_a_known_price_is_refused_before_anything_is_sent(
    server: Server, further: dict[str, Any], why: str
) -> None:
    first, second, *_ = chats()
    with pytest.raises(InvalidInputError, match=why):
        run(server, "chat/completions", [first, {**second, **further}], budget_usd=1)
    assert server.stats(charged=False)["received"] == 0


def test_the_closing_line_names_models_without_a_known_price(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *_ = chats()
    status = run(server, "chat/completions", [first, {**first, "model": "my-own"}], progress=True)
    assert capsys.readouterr().err.count("2 succeeded, 0 failed, cost not known (no price for my-own).") == 1
    assert status.cost_usd > 0
