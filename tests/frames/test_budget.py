"""A budget is never exceeded, a deadline is kept, and the next call resumes."""

from __future__ import annotations

import asyncio
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._records import APIRequest, Response, Size
from parallel_openai._run.spending.budget import Budget
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


def request(prompt_tokens: int = 100, cap: int | None = 10, **options: Any) -> APIRequest:
    made = APIRequest({"model": "m"}, **options)
    made.size = Size(prompt_tokens, prompt_tokens * 4, cap, 1)
    return made


def answer(prompt_tokens: int, completion_tokens: int) -> Response:
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return Response(200, {}, b"", {"model": "m", "usage": usage}, 0.1)


def test_more_is_reserved_for_concurrent_requests_until_the_servers_token_count_is_known() -> None:
    budget = Budget(tokens=330)
    assert budget.reserve(request()) is not None
    assert budget.reserve(request()) is None  # twice 100 for each


def test_reservations_grow_for_a_server_that_counts_more_tokens() -> None:
    budget = Budget(tokens=10_000)
    first, second = budget.reserve(request()), budget.reserve(request())
    assert first is not None
    assert second is not None
    budget.settle(first, answer(300, 5))
    assert (budget.spent_tokens, second.tokens) == (305, 340)


def test_no_margin_is_reserved_for_a_server_that_counts_tokens_as_we_do() -> None:
    budget = Budget(tokens=10_000)
    first = budget.reserve(request())
    assert first is not None
    budget.settle(first, answer(100, 5))
    second = budget.reserve(request())
    assert second is not None
    assert second.tokens == 110


def test_the_cap_is_trusted_only_after_ten_answers_within_it() -> None:
    """Where a model thinks beyond its cap it does not for every row."""
    budget, at_once = Budget(tokens=10_000), []
    for _ in range(10):
        reserves = []
        while (reserve := budget.reserve(request())) is not None:
            reserves.append(reserve)
        at_once.append(len(reserves))
        budget.settle(reserves[0], answer(100, 5))
        for each in reserves[1:]:
            budget.settle(each, Response(400, {}, b"", None, 0.1))
    assert at_once[:3] == [2, 8, 27]
    assert sum(at_once[:2]) * 500 <= 10_000
    assert at_once[-1] > 70


@pytest.mark.parametrize(
    ("response", "tokens"),
    [
        (Response(500, {}, b"", None, 0.1), 0),
        (Response(0, {}, b"", None, 0.1, "connection_refused"), 0),
        (Response(0, {}, b"", None, 0.1, "timeout"), 210),
        (Response(400, {}, b'{"error": {"code": "json_validate_failed"}}', None, 0.1), 210),
        (Response(400, {}, b'{"error": {"message": "Could not finish the message because ..."}}', None, 0.1), 210),
        (Response(200, {}, b"", {"choices": []}, 0.1), 210),
    ],
    ids=["refused", "not sent", "timeout", "no JSON", "cut off", "without usage"],
)
def test_an_unknown_cost_counts_as_the_worst_case(response: Response, tokens: int) -> None:
    """The cap, and twice our count of the prompt, as long as the server has not shown its own."""
    budget = Budget(tokens=1000)
    reserve = budget.reserve(request())
    assert reserve is not None
    budget.settle(reserve, response)
    assert budget.spent_tokens == tokens


def test_an_embedding_needs_no_cap() -> None:
    budget = Budget(tokens=1000)
    assert budget.objection(request(cap=None, path="embeddings")) is None
    reserve = budget.reserve(request(cap=None, path="embeddings"))
    assert reserve is not None
    assert reserve.tokens == 500  # how the server counts is not known yet
    assert Budget(tokens=110).reserve(request(cap=None, path="embeddings")) is not None  # where it is all that is left
    assert Budget(tokens=1000).reserve(request(cap=None)) is None


def test_an_answer_from_a_model_without_a_price_costs_as_much_as_the_requested_model() -> None:
    prices = {"m": 1.0}
    budget = Budget(usd=1000.0, price=lambda model, usage, tier: prices.get(model, math.nan) * usage.total_tokens)
    reserve = budget.reserve(request())
    assert reserve is not None
    response = answer(100, 5)
    response.data["model"] = "m-2026"
    budget.settle(reserve, response)
    assert budget.spent_usd == 105
    assert budget.objection(request()) is None


@pytest.mark.parametrize(
    ("status", "spent"), [(500, 0), (429, 0), (400, 0), (408, 110), (502, 110), (504, 110), (524, 110)]
)
def test_a_gateway_timeout_is_counted_at_its_highest_possible_cost(status: int, spent: int) -> None:
    budget, request = Budget(tokens=100), APIRequest({"model": "m", "max_tokens": 10})
    request.size = Size(50, 200, 10, 1)
    reserve = budget.reserve(request)
    assert reserve is not None
    budget.settle(reserve, Response(status, {}, b"", None, 0.1))
    assert budget.spent_tokens == spent


MORE_TO_READ: dict[str, dict[str, Any]] = {
    "an earlier response": {"previous_response_id": "resp_1"},
    "a conversation": {"conversation": "conv_1"},
    "a search": {"tools": [{"type": "web_search"}]},
    "a search in chat": {"web_search_options": {}},
    "a kept prompt": {"prompt": {"id": "pmpt_1"}},
    "a kept file": {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]},
    "a kept file in chat": {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]},
}


@pytest.mark.parametrize("further", MORE_TO_READ.values(), ids=MORE_TO_READ)
def test_a_request_that_refers_to_content_elsewhere_has_no_highest_cost(further: dict[str, Any]) -> None:
    request = APIRequest({"model": "m", "max_tokens": 10, **further})
    request.size = Size(50, 200, 10, 1)
    assert "makes it read more. Run such rows without a budget." in str(Budget(tokens=1e9).objection(request))


def test_the_first_image_is_answered_before_many_are_sent() -> None:
    picture = {"type": "image_url", "image_url": {"url": "https://example.org/lamp.png"}}
    request = APIRequest({"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": [picture]}]})
    request.size = Size(800, 20, 10, 1)
    budget = Budget(tokens=1e6)
    first = budget.reserve(request)
    assert first is not None
    assert budget.reserve(request) is None
    usage = {"prompt_tokens": 5000, "completion_tokens": 10, "total_tokens": 5010}
    budget.settle(first, Response(200, {}, b"", {"usage": usage}, 0.1))
    later = [budget.reserve(request) for _ in range(2)]
    assert all(each is not None and each.tokens >= 5010 for each in later)
