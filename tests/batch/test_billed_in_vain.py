"""What a batch's answers cost that are none is told, and comes out of the budget."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import parallel_openai as po
from tests.batch.conftest import Verb, counts, texts
from tests.batch.scripted import Scripted

USAGE = {"prompt_tokens": 5, "completion_tokens": 100, "total_tokens": 105}


def whole(**more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop", **more}
    return {"model": "gpt-4o-mini", "choices": [choice], "usage": USAGE}


BROKEN = {
    "half an answer": whole(finish_reason="error"),
    "an error": {"error": {"message": "Upstream broke.", "code": "odd"}, "usage": USAGE},
}


def answer_with(scripted: Scripted, body: Callable[[int], Any]) -> list[int]:
    """Have each line hold such a body, by its number from 0; gives the tokens that were billed."""
    billed: list[int] = []

    def answered(asked: dict[str, Any]) -> Any:
        billed.append(USAGE["total_tokens"])
        return body(len(billed) - 1)

    scripted.body = answered  # type: ignore[method-assign]
    return billed


def told() -> tuple[int, float]:
    report = po.last_run()
    assert report is not None
    return report.prompt_tokens + report.completion_tokens, report.cost_usd


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize(
    "budget", [{}, {"budget_tokens": 900}, {"budget_usd": 0.0003}], ids=["none", "tokens", "dollars"]
)
def test_answers_that_broke_off_are_told_and_keep_the_budget(
    scripted: Scripted, submit: Verb, kind: str, budget: dict[str, Any]
) -> None:
    billed = answer_with(scripted, lambda number: BROKEN[kind])
    out = submit(texts(4), max_tokens=100, **budget)
    tokens, dollars = told()
    assert tokens == sum(billed) == out["prompt_tokens"].sum() + out["completion_tokens"].sum()
    assert dollars == pytest.approx(out["cost_usd"].sum())
    assert tokens <= budget.get("budget_tokens", tokens)
    assert 0 < dollars <= budget.get("budget_usd", dollars)
    assert ("cancelled" in counts(out)) == bool(budget)


def test_a_row_that_is_answered_in_the_next_batch_has_the_tokens_of_both(scripted: Scripted, submit: Verb) -> None:
    billed = answer_with(scripted, lambda number: BROKEN["half an answer"] if number < 4 else whole())
    out = submit(texts(4), max_tokens=100, budget_tokens=2000)
    assert counts(out) == {"succeeded": 4}
    assert told()[0] == sum(billed) == out["prompt_tokens"].sum() + out["completion_tokens"].sum() == 840


@pytest.mark.parametrize("body", [[whole()], json.dumps(whole()), json.dumps([whole()])], ids=["list", "text", "both"])
def test_an_answer_in_a_list_or_a_text_is_that_answer(scripted: Scripted, submit: Verb, body: Any) -> None:
    answer_with(scripted, lambda number: body)
    assert submit(texts(2))["response"].tolist() == ["Yes."] * 2
