"""What a budget reserves for a request and counts once the answer has come."""

from __future__ import annotations

import math
from typing import Any

import pytest

from parallel_openai._records import APIRequest, Response, Size
from parallel_openai._run.spending.budget import Budget


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
    "Azure's search": {"data_sources": [{"type": "azure_search", "parameters": {}}]},
    "Cohere's search": {"connectors": [{"id": "web-search"}]},
    "Groq's search": {"model": "groq/compound-mini"},
    "Gemini's cache": {"cached_content": "cachedContents/1"},
    "an item of an earlier response": {"input": [{"type": "item_reference", "id": "msg_1"}]},
    "a film": {"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "https://a/b"}}]}]},
    "a document": {
        "messages": [{"role": "user", "content": [{"type": "document_url", "document_url": "https://a/b"}]}]
    },
    "a file's URL": {
        "messages": [{"role": "user", "content": [{"type": "file", "file": {"file_data": "https://a/b.pdf"}}]}]
    },
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
