"""What a batch's answers cost that are none is told, and comes out of the budget."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import parallel_openai as po
from tests.batch.conftest import Verb, counts, lane, texts
from tests.batch.scripted import Asked, Scripted

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
def test_the_cost_of_answers_that_broke_off_is_reported_and_within_the_budget(
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


UNSAID: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "half a line": lambda line: json.dumps(line).encode()[:90],
    "no answer in it": lambda line: json.dumps({**line, "response": {"status_code": 200, "body": {}}}).encode(),
    "no body": lambda line: json.dumps({**line, "response": {"status_code": 200, "body": None}}).encode(),
    "no words": lambda line: json.dumps({"custom_id": line["custom_id"]}).encode(),
    "a gateway's timeout": lambda line: json.dumps({**line, "response": {"status_code": 504, "body": {}}}).encode(),
}


@pytest.mark.parametrize("options", [{"rounds": 2}, {"rounds": 1, "then": "online"}], ids=["rounds", "online"])
@pytest.mark.parametrize("budget", [{"budget_tokens": 900}, {"budget_usd": 0.0003}], ids=["tokens", "dollars"])
@pytest.mark.parametrize("kind", UNSAID)
def test_what_may_have_been_billed_for_a_line_that_does_not_say_counts_as_the_worst_case(
    scripted: Scripted, submit: Verb, kind: str, budget: dict[str, Any], options: dict[str, Any]
) -> None:
    online = 0

    def end(batch: dict[str, Any], asked: Asked) -> None:
        lines = [UNSAID[kind](json.loads(scripted.line(each))) + b"\n" for each in asked]
        batch["output_file_id"] = scripted.file(b"".join(lines))
        scripted.end(batch, len(asked), 0)

    def answer_online(method: str, path: str) -> Any:
        nonlocal online
        online += path == "/v1/chat/completions"
        return (200, {**whole(), "usage": None}) if path == "/v1/chat/completions" else None

    scripted.body, scripted.on_end, scripted.on_call = lambda asked: whole(), end, answer_online  # type: ignore[method-assign]
    out = submit(texts(12), lane=lane(max_requests=1, **options), max_tokens=100, **budget)
    assert "cancelled" in counts(out)
    in_batches = scripted.billed.total()
    assert 0 < 105 * (in_batches + online) <= budget.get("budget_tokens", 9_000)
    assert 60.75e-6 * (in_batches / 2 + online) <= budget.get("budget_usd", 1.0)


@pytest.mark.parametrize("body", [[whole()], json.dumps(whole()), json.dumps([whole()])], ids=["list", "text", "both"])
def test_an_answer_in_a_list_or_a_text_is_that_answer(scripted: Scripted, submit: Verb, body: Any) -> None:
    answer_with(scripted, lambda number: body)
    assert submit(texts(2))["response"].tolist() == ["Yes."] * 2


@pytest.mark.parametrize("rows", [2, 1], ids=["collected", "found by a call for other rows"])
def test_an_answer_in_the_place_of_an_unusable_one_is_kept_by_whoever_reads_it(
    scripted: Scripted, submit: Verb, tmp_path: Path, rows: int
) -> None:
    billed = answer_with(scripted, lambda number: whole(finish_reason="length") if number < 2 else whole())
    assert counts(submit(texts(2))) == {"failed": 2}
    held: list[Any] = []
    scripted.on_end = lambda batch, asked: held.extend((batch, asked))
    submit(texts(2), lane=lane(wait=False))
    scripted.on_end = scripted.complete
    scripted.complete(*held)
    if rows == 2:
        with po.Client(scripted.base_url, api_key="sk-none") as client:
            po.collect_batches(tmp_path / "answers.jsonl", client=client, progress=False, lane=lane())
    assert counts(submit(texts(rows))) == {"succeeded": rows}
    assert counts(submit(texts(2))) == {"succeeded": 2}
    assert len(billed) == 4
