"""A budget is never exceeded, a deadline is kept, and the next call resumes."""

from __future__ import annotations

import asyncio
import json
import math
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._records import APIRequest, Size
from parallel_openai._run.spending.caps import SpendingCaps
from parallel_openai.errors import InvalidInputError
from parallel_openai.local.simulator import Server
from tests.frames.conftest import Verb, codes
from tests.frames.test_resume import received


@pytest.fixture
def many() -> pd.DataFrame:
    return pd.DataFrame({"text": [f"Review number {n} of a lamp." for n in range(60)]})


def spent(out: pd.DataFrame) -> int:
    return int(out["prompt_tokens"].sum() + out["completion_tokens"].sum())


@pytest.mark.parametrize("latency", [0, 0.02], ids=["one after the other", "many at a time"])
def test_a_token_budget_is_nearly_used_up_and_never_exceeded(
    ask: Verb, many: pd.DataFrame, server: Server, latency: float
) -> None:
    server.set(latency=latency)
    out = ask(many, "text", max_tokens=60, budget_tokens=1000)
    assert 1000 - 80 < spent(out) <= 1000
    assert set(out["status"]) == {"succeeded", "cancelled"}
    assert len(out) == received(server) + (out["status"] == "cancelled").sum()


def test_a_dollar_budget_is_never_exceeded(ask: Verb, many: pd.DataFrame) -> None:
    out = ask(many, "text", max_tokens=60, budget_usd=0.0005)
    assert 0.00045 < out["cost_usd"].sum() <= 0.0005
    assert "cancelled" in set(out["status"])


def test_a_row_costs_the_price_of_the_tier_that_its_answer_names(ask: Verb, server: Server) -> None:
    server.script([{"body": priced_answer(tier)} for tier in ("default", "flex", "priority")])
    out = ask(pd.DataFrame({"text": list("abc")}), "text", client=po.Client(server.base_url, max_concurrent_requests=1))
    assert out["cost_usd"].tolist() == pytest.approx([2.25, 1.125, 4.05])


def test_the_discount_of_a_tier_is_not_counted_on_in_advance(ask: Verb, many: pd.DataFrame, server: Server) -> None:
    """A server need not heed what is asked for; the simulator is one that does not."""
    out = ask(many, "text", max_tokens=60, budget_usd=0.0005, service_tier="flex")
    assert 0.0004 < out["cost_usd"].sum() <= 0.0005


def priced_answer(tier: str) -> dict[str, Any]:
    return {
        "model": "gpt-5-mini",
        "choices": [{"message": {"content": "Yes."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1_000_000, "completion_tokens": 1_000_000},
        "service_tier": tier,
    }


def test_unsent_rows_and_the_closing_line_name_the_budget(ask: Verb, many: pd.DataFrame) -> None:
    out = ask(many, "text", max_tokens=60, budget_tokens=500)
    rest = out[out["status"] == "cancelled"]
    assert set(rest["error_code"]) == {"budget"}
    assert set(rest["error"]) == {
        "What is left of the budget of 500 tokens is too small for the next request. "
        "The same call again goes on from here."
    }
    report = po.last_run()
    assert report is not None
    assert report.ended == "budget"
    assert f"{len(rest)} cancelled (the budget is used up); run the same again to go on" in str(report)
    assert report.errors == {}


def test_repeated_calls_with_a_budget_resume_until_all_rows_are_answered(
    ask: Verb, many: pd.DataFrame, server: Server
) -> None:
    calls = 0
    while True:
        out = ask(many, "text", max_tokens=60, budget_tokens=1000)
        calls += 1
        if (out["status"] == "succeeded").all():
            break
        assert calls < 10
    assert received(server) == 60
    assert calls >= spent(out) / 1000


def test_known_and_shared_answers_cost_nothing(ask: Verb, many: pd.DataFrame, server: Server) -> None:
    ask(many[30:], "text", max_tokens=60, save_to="answers.jsonl")
    before = received(server)
    both = pd.concat([many, many[:1]], ignore_index=True)
    out = ask(both, "text", max_tokens=60, budget_tokens=200, save_to="answers.jsonl")
    assert 0 < received(server) - before < 5
    assert out["status"][30:].tolist() == ["succeeded"] * 31
    assert "cancelled" in set(out["status"][:30])


def test_a_budget_too_small_for_one_row_sends_nothing(ask: Verb, many: pd.DataFrame, server: Server) -> None:
    out = ask(many, "text", max_tokens=60, budget_tokens=60)
    assert received(server) == 0
    assert set(out["error_code"]) == {"budget"}


def test_retries_are_paid_from_the_budget(ask: Verb, server: Server) -> None:
    """An answer that got lost on the way may have been billed."""
    server.script([{"fault": "truncated"}] * 3)
    out = ask(pd.DataFrame({"text": ["Say hi."]}), "text", max_tokens=60, budget_tokens=150)
    assert received(server) == 2
    assert codes(out) == ["budget"]


def test_refused_requests_cost_nothing_of_the_budget(ask: Verb, many: pd.DataFrame, server: Server) -> None:
    server.script([429] * 3)
    out = ask(many[:1], "text", max_tokens=60, budget_tokens=80)
    assert out["status"].tolist() == ["succeeded"]


def test_the_cost_of_every_choice_is_reserved(ask: Verb, many: pd.DataFrame, server: Server) -> None:
    out = ask(many, "text", max_tokens=60, n=3, budget_tokens=1000)
    assert received(server) > 3
    assert spent(out) <= 1000


@pytest.mark.parametrize("bound", [{"budget_usd": 1}, {"budget_tokens": 1000}], ids=str)
def test_a_budget_without_a_cap_is_refused_before_anything_is_sent(
    ask: Verb, label: Verb, many: pd.DataFrame, server: Server, bound: dict[str, Any]
) -> None:
    for call in (lambda: ask(many, "text", **bound), lambda: label(many, "text", labels=["a", "b"], **bound)):
        with pytest.raises(InvalidInputError, match=r"needs a cap.*max_completion_tokens=.*max_tokens="):
            call()
    assert received(server) == 0


def test_a_budget_in_dollars_needs_a_price(ask: Verb, many: pd.DataFrame, server: Server) -> None:
    with pytest.raises(InvalidInputError, match=r"price, and that of 'my-own'.*budget_tokens="):
        ask(many, "text", model="my-own", max_tokens=60, budget_usd=1)
    assert received(server) == 0
    assert ask(many[:1], "text", model="my-own", max_tokens=60, budget_tokens=1000)["status"].tolist() == ["succeeded"]


def test_request_bodies_may_bring_their_own_caps(ask: Verb, server: Server) -> None:
    def body(number: int, **more: Any) -> dict[str, Any]:
        return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": f"Say {number}."}], **more}

    good = pd.DataFrame({"body": [body(1, max_tokens=60), body(2, max_completion_tokens=60)]})
    assert set(ask(good, "body", model=None, budget_usd=1)["status"]) == {"succeeded"}
    bad = pd.DataFrame({"body": [body(3, max_tokens=60), body(4)]})
    with pytest.raises(InvalidInputError, match="needs a cap"):
        ask(bad, "body", model=None, budget_usd=1)
    assert received(server) == 2


@pytest.mark.parametrize(
    ("endpoint", "caps", "right"),
    [
        ("responses", {"max_tokens": 20}, "max_output_tokens"),
        ("responses", {"max_completion_tokens": 20}, "max_output_tokens"),
        ("chat.completions", {"max_output_tokens": 20}, "max_completion_tokens"),
    ],
    ids=str,
)
def test_a_cap_of_another_endpoint_is_none(
    ask: Verb, many: pd.DataFrame, server: Server, endpoint: str, caps: dict[str, Any], right: str
) -> None:
    """Many servers leave out what they do not know, and answer at any length."""
    with pytest.raises(InvalidInputError, match=f"A budget needs a cap on every answer.* Set {right}="):
        ask(many, "text", endpoint=endpoint, budget_tokens=1000, extra_body=caps)
    assert received(server) == 0


def test_a_row_that_removes_its_cap_fails_alone(ask: Verb, server: Server) -> None:
    bodies = [{"messages": [{"role": "user", "content": "Say 1."}], "max_tokens": cap} for cap in (60, None)]
    out = ask(pd.DataFrame({"body": bodies}), "body", max_tokens=60, budget_tokens=1000)
    assert codes(out) == [None, "unbounded"]
    assert received(server) == 1


@pytest.mark.parametrize("name", ["budget_usd", "budget_tokens", "deadline"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "5", True], ids=str)
def test_an_invalid_budget_or_deadline_is_refused(ask: Verb, many: pd.DataFrame, name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"{name} must be a number above 0 or None, not {value!r}"):
        ask(many, "text", max_tokens=60, **{name: value})


@pytest.mark.parametrize("name", ["budget_usd", "budget_tokens", "deadline"])
@pytest.mark.parametrize("value", [np.int64(900), np.float32(900.0)], ids=str)
def test_a_bound_that_numpy_computed_is_a_number(ask: Verb, many: pd.DataFrame, name: str, value: Any) -> None:
    out = ask(many[:2], "text", max_tokens=60, **{name: value})
    assert set(out["status"]) == {"succeeded"}
    json.dumps(out.attrs["parallel_openai"])


@pytest.mark.parametrize("number", [np.float16, np.float32, Fraction])
def test_a_bound_is_kept_and_told_whatever_makes_its_number(number: Any) -> None:
    """NumPy compares in the precision of its own number: 0.30002 would not be above 0.3."""
    request = APIRequest({"model": "m", "max_tokens": 10}, path="embeddings")
    request.size = Size(1, 1, None, 1)
    bound = float(number(0.3))
    caps = SpendingCaps(budget_usd=number(0.3), deadline=number(0.5))
    budget = caps.budget(lambda model, usage, tier: bound * (1 + 1e-8))
    assert budget is not None
    assert budget.reserve(request) is None
    assert [caps.why(ended).partition(" ")[0] for ended in ("budget", "deadline")] == ["What", "The"]


def test_nothing_is_sent_after_the_deadline(ask: Verb, many: pd.DataFrame, server: Server) -> None:
    server.script([{}] * 5)
    server.set(latency=0.3)
    began = time.monotonic()
    out = ask(many, "text", deadline=1.0, client=po.Client(server.base_url, max_concurrent_requests=4))
    assert 0.9 < time.monotonic() - began < 2.5
    sent = received(server)
    rest = out[out["status"] == "cancelled"]
    assert set(rest["error_code"]) == {"deadline"}
    assert set(rest["error"]) == {"The deadline of 1 s came before the answer. The same call again goes on from here."}
    assert len(out) - len(rest) == sent
    assert "cancelled (the deadline came)" in str(po.last_run())
    time.sleep(0.5)
    assert received(server) == sent
    server.set(latency=0)
    assert set(ask(many, "text", deadline=60)["status"]) == {"succeeded"}
    assert received(server) == 60


def test_the_deadline_ends_a_run_while_a_retry_waits(ask: Verb, server: Server) -> None:
    server.script([{"status": 503, "headers": {"retry-after": "30"}}] * 3)
    began = time.monotonic()
    out = ask(pd.DataFrame({"text": ["Say hi."]}), "text", deadline=0.5)
    assert time.monotonic() - began < 3
    assert codes(out) == ["deadline"]


def test_a_run_whose_deadline_has_passed_still_returns_answers_of_the_journal(ask: Verb, many: pd.DataFrame) -> None:
    ask(many, "text", save_to="answers.jsonl")
    more = pd.concat([pd.DataFrame({"text": ["New."]}), many], ignore_index=True)
    out = ask(more, "text", deadline=1e-9, save_to="answers.jsonl")
    assert out["status"].tolist() == ["cancelled"] + ["succeeded"] * 60


def test_async_functions_take_a_budget_and_a_deadline_too(server: Server, many: pd.DataFrame) -> None:
    async def both() -> tuple[pd.DataFrame, pd.DataFrame]:
        client = po.Client(server.base_url)
        common: dict[str, Any] = {"model": "gpt-4o-mini", "client": client, "progress": False, "max_tokens": 60}
        asked = await po.aprocess_dataframe(many, "text", budget_tokens=300, **common)
        labelled = await po.alabel_dataframe(many, "text", labels=["a", "b"], budget_tokens=900, **common)
        return asked, labelled

    for out in asyncio.run(both()):
        assert set(out["status"]) == {"succeeded", "cancelled"}


def test_earlier_failures_are_sent_after_new_rows(ask: Verb, many: pd.DataFrame, server: Server) -> None:
    server.script([400] * 3, matching="lamp")
    assert set(ask(many[:3], "text", max_tokens=60, save_to="answers.jsonl")["status"]) == {"failed"}
    out = ask(many, "text", max_tokens=60, budget_tokens=500, save_to="answers.jsonl")
    assert out["status"][:3].tolist() == ["cancelled"] * 3
    assert out["status"][3:6].tolist() == ["succeeded"] * 3
    assert set(ask(many, "text", max_tokens=60, save_to="answers.jsonl")["status"]) == {"succeeded"}


def test_the_budget_is_not_written_to_the_journal(ask: Verb, many: pd.DataFrame) -> None:
    out = ask(many, "text", max_tokens=60, budget_tokens=500, save_to="answers.jsonl")
    answered = (out["status"] == "succeeded").sum()
    assert len(Path("answers.jsonl").read_bytes().splitlines()) == answered
