"""A run on files keeps its budget and deadline."""

from __future__ import annotations

import time
from typing import Any

import pytest

import parallel_openai as po
from parallel_openai.errors import (
    InvalidInputError,
)
from parallel_openai.local.simulator import Server
from tests.files.asking import chat, results, run, write


def capped(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [chat(f"Review number {n} of a lamp.", max_tokens=60, **fields) for n in range(count)]


def spent() -> int:
    return sum(response["usage"]["total_tokens"] for _, response, *_ in results())


def test_a_budget_in_tokens_is_kept_and_the_next_call_resumes(server: Server) -> None:
    write(*capped(40))
    calls = 0
    while (status := run(server, budget_tokens=1000)).ended == "budget":
        assert status.num_tasks_succeeded - status.num_tasks_restored > 5
        calls += 1
        assert calls * 1000 - calls * 90 < spent() <= calls * 1000
        assert calls < 10
    assert (status.ended, status.num_tasks_succeeded, calls > 0) == ("finished", 40, True)
    assert server.stats()["received"] == len(results()) == 40


def test_a_budget_in_dollars_is_kept(server: Server) -> None:
    write(*capped(60))
    status = run(server, budget_usd=0.0005)
    assert status.ended == "budget"
    prices = [response["usage"] for _, response in results()]
    dollars = sum(0.15e-6 * each["prompt_tokens"] + 0.6e-6 * each["completion_tokens"] for each in prices)
    assert 0.00042 < dollars <= 0.0005


@pytest.mark.parametrize(
    ("line", "bound", "sentence"),
    [
        (chat("b"), {"budget_usd": 1}, r"Line 2 of in\.jsonl: A budget needs a cap on every answer"),
        (chat("b"), {"budget_tokens": 1000}, r"Line 2 of in\.jsonl: A budget needs a cap on every answer"),
        ({**chat("b", max_tokens=9), "model": "mine"}, {"budget_usd": 1}, r"Line 2 of in\.jsonl: .*price.*'mine'"),
    ],
    ids=["dollars", "tokens", "no price"],
)
def test_a_request_without_a_known_highest_cost_is_named_before_anything_is_sent(
    server: Server, line: Any, bound: Any, sentence: str
) -> None:
    write(chat("a", max_tokens=5), line)
    with pytest.raises(InvalidInputError, match=sentence):
        run(server, **bound)
    assert server.stats()["received"] == 0


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(
    "further",
    [
        {"web_search_options": {}},
        {"previous_response_id": "resp_1"},
        {"tools": [{"type": "web_search"}]},
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}]},
    ],
    ids=["a search", "an earlier response", "a hosted tool", "a kept file"],
)
def test_a_line_that_reads_more_than_it_holds_is_found_among_lines_with_the_same_caps(
    server: Server, further: dict[str, Any], number: int
) -> None:
    lines = capped(2)
    lines.insert(number - 1, {**lines[0], **further})
    write(*lines)
    with pytest.raises(InvalidInputError, match=rf"Line {number} of in\.jsonl: "):
        run(server, budget_usd=1)
    assert server.stats()["received"] == 0


@pytest.mark.parametrize("name", ["budget_usd", "budget_tokens", "deadline"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), True, "5"], ids=str)
def test_an_invalid_budget_or_deadline_is_refused(server: Server, name: str, value: Any) -> None:
    write(chat("a"))
    with pytest.raises(InvalidInputError, match=f"{name} must be a number above 0 or None, not {value!r}"):
        run(server, **{name: value})


def test_a_deadline_is_kept(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    write(*(chat(str(n)) for n in range(20)))
    server.set(latency=0.6)
    client = po.Client(server.base_url, max_concurrent_requests=5)
    began = time.monotonic()
    status = run(server, deadline=0.3, progress=True, client=client)
    assert 0.5 < time.monotonic() - began < 2
    assert (status.ended, status.num_tasks_succeeded, len(results())) == ("deadline", 5, 5)
    assert server.stats()["received"] == 5  # what was on its way is taken in
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("The deadline of 0.3 s came before the answer. The same call resumes from there: 5 suc")
