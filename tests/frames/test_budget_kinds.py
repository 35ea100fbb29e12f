"""A budget holds although later rows, answers or tiers cost many times what the first ones did."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._records import Usage
from parallel_openai._requests.endpoints import usage_of
from parallel_openai._requests.prices import price, tier_of
from tests.servers.recorder import Asked, recorder

ENGLISH = "It is very good and came quickly. " * 20
THAI = "สินค้าดีมากครับ ส่งเร็ว " * 20
PICTURE = {"type": "image_url", "image_url": {"url": "https://example.org/lamp.png"}}


def bill(prompt: int, output: int, model: str = "gpt-4o-mini", **further: Any) -> dict[str, Any]:
    return {"model": model, "usage": {"prompt_tokens": prompt, "completion_tokens": output}, **further}


def billed(rows: list[Any], bill_of: Callable[[str], Mapping[str, Any]], **options: Any) -> tuple[int, float]:
    """Tokens and dollars that a server bills for rows, a hundred at a time; `bill_of` makes an answer's bill of what
    the row asks, as JSON."""
    bills: list[Mapping[str, Any]] = []

    def said(asked: Asked) -> tuple[int, bytes]:
        time.sleep(0.02)
        bills.append(bill_of(json.dumps(asked.body["messages"], ensure_ascii=False)))
        choice = {"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}
        return 200, json.dumps({"choices": [choice], **bills[-1]}).encode()

    with recorder(said) as server, po.Client(f"{server.url}/v1", max_requests_per_minute=600_000) as client:
        out = po.process_dataframe(
            pd.DataFrame({"messages": rows}), "messages", client=client, progress=False, **options
        )
    usages = [usage_of(each) for each in bills]
    tokens = sum(usage.total_tokens for usage in usages if usage is not None)
    usd = sum(price(each["model"], usage, tier_of(each)) for each, usage in zip(bills, usages, strict=True) if usage)
    assert "cancelled" in set(out["status"])
    assert out["prompt_tokens"].sum() + out["completion_tokens"].sum() == tokens
    return tokens, usd


def row(number: int, *more: Any, text: str = "") -> list[Any]:
    return [{"role": "user", "content": [{"type": "text", "text": f"{text} Row {number}."}, *more]}]


@pytest.mark.parametrize("bound", [{"budget_tokens": 200_000}, {"budget_usd": 0.05}], ids=str)
def test_pictures_that_come_after_texts_are_counted_anew(bound: dict[str, Any]) -> None:
    rows = [row(number) for number in range(30)] + [row(number, PICTURE) for number in range(80)]
    tokens, usd = billed(
        rows, lambda asked: bill(25_500 if "lamp.png" in asked else 15, 20), model="gpt-4o-mini", max_tokens=20, **bound
    )
    assert 100_000 < tokens <= bound.get("budget_tokens", 1e9)
    assert usd <= bound.get("budget_usd", 1e9)


def test_another_script_that_comes_after_english_is_counted_anew() -> None:
    rows = [row(number, text=ENGLISH if number < 50 else THAI) for number in range(200)]
    tokens, _ = billed(
        rows, lambda asked: bill(180 if asked.isascii() else 900, 2), model="llama", max_tokens=2, budget_tokens=30_000
    )
    assert 20_000 < tokens <= 30_000


@pytest.mark.parametrize("first", [0, 15], ids=["short rows alone", "long rows first"])
def test_a_system_prompt_that_the_server_adds_is_counted_in_the_shortest_rows_too(first: int) -> None:
    rows = [row(number, text=ENGLISH * 10) for number in range(first)] + [row(number) for number in range(200)]
    tokens, _ = billed(
        rows,
        lambda asked: bill(1800 + 1000 if "good" in asked else 10 + 1000, 5),
        model="llama",
        max_tokens=5,
        budget_tokens=8000 + first * 2805,
    )
    assert 4000 < tokens - first * 2805 <= 8000


def test_a_projects_default_tier_that_is_dearer_is_set_aside_for() -> None:
    answer = bill(15, 500, "gpt-5-mini", service_tier="priority")
    rows = [row(number) for number in range(200)]
    _, usd = billed(rows, lambda asked: answer, model="gpt-5-mini", max_completion_tokens=500, budget_usd=0.1)
    assert 0.07 < usd <= 0.1


def test_an_answer_that_does_not_tell_its_tier_costs_as_much_as_the_one_that_was_asked() -> None:
    rows = [row(number) for number in range(200)]
    options = {"max_completion_tokens": 500, "budget_usd": 0.1, "service_tier": "priority"}
    tokens, _ = billed(rows, lambda asked: bill(15, 500, "gpt-5-mini"), model="gpt-5-mini", **options)
    usd = price("gpt-5-mini", Usage(tokens * 15 // 515, tokens * 500 // 515), "priority")
    assert 0.07 < usd <= 0.1
    assert po.last_run().cost_usd == pytest.approx(usd)  # type: ignore[union-attr]


def test_a_gateway_that_answers_by_a_dearer_model_is_set_aside_for() -> None:
    rows = [row(number) for number in range(200)]
    _, usd = billed(rows, lambda asked: bill(15, 500, "gpt-4o"), model="gpt-4o-mini", max_tokens=500, budget_usd=0.1)
    assert 0.07 < usd <= 0.1


def test_a_model_without_a_price_that_answers_does_not_end_the_run() -> None:
    rows = [row(number) for number in range(200)]
    _, usd = billed(
        rows, lambda asked: bill(15, 60, "house-model"), model="gpt-4o-mini", max_tokens=60, budget_tokens=5000,
        budget_usd=1.0,
    )  # fmt: skip
    assert pd.isna(usd)
