"""A status of 200 without an answer does not count as one, in frames, files and on every endpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai.errors import RequestRefusedError
from parallel_openai.local.simulator import Server
from tests.files.asking import chat, results, run, write

NOTHING: list[Any] = [
    {},
    "null",
    {"choices": None},
    {"choices": []},
    {"choices": [{}]},
    {"choices": [{"message": None, "finish_reason": "stop"}]},
    {"base_resp": {"status_code": 1000, "status_msg": "unknown error"}},
    "",
    "<html><title>Log in</title></html>",
]
BILLED = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}}
#: A line of a file and an answer without an answer, by the endpoint.
OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "completions": ({"model": "m", "prompt": "a"}, {"choices": [{"finish_reason": "stop"}]}),
    "responses": ({"model": "m", "input": "a"}, {"status": "completed", "output": []}),
    "embeddings": ({"model": "m", "input": "a"}, {"data": [{"index": 0}]}),
    "moderations": ({"model": "m", "input": "a"}, {"results": []}),
}


ROWS = [f"row {number};" for number in range(len(NOTHING))]


def answer_nothing(server: Server) -> None:
    for row, nothing in zip(ROWS, NOTHING, strict=True):
        server.script([{"body": nothing}], matching=row)


def test_a_file_run_writes_an_error_line_for_a_200_without_an_answer_and_the_next_run_retries(server: Server) -> None:
    write(*map(chat, ROWS))
    answer_nothing(server)
    status = run(server, max_attempts=1)
    assert (status.num_tasks_succeeded, status.num_tasks_failed) == (0, len(ROWS))
    assert all(isinstance(line[1], list) for line in results())
    status = run(server)
    assert (status.num_tasks_restored, status.num_tasks_succeeded) == (0, len(ROWS))
    assert all(line[1]["choices"][0]["message"]["content"] for line in results()[len(ROWS) :])


def test_a_frame_retries_a_200_without_an_answer_at_once(server: Server, client: po.Client) -> None:
    answer_nothing(server)
    out = po.process_dataframe(pd.DataFrame({"text": ROWS}), "text", model="m", client=client, progress=False)
    assert out["status"].eq("succeeded").all()
    assert out["attempts"].eq(2).all()


def test_answers_of_a_form_that_nobody_knows_are_not_paid_for_again_and_stop_the_run(
    server: Server, client: po.Client
) -> None:
    wrapped = {"code": 0, "data": {"choices": [{"message": {"content": "Yes."}}]}}
    server.script([{"body": wrapped}] * 60)
    df = pd.DataFrame({"text": [f"Row {number}." for number in range(60)]})
    with pytest.raises(RequestRefusedError, match=r"nothing in .choices.*not what this endpoint answers"):
        po.process_dataframe(df, "text", model="m", client=client, progress=False)
    assert server.stats()["received"] <= 60


@pytest.mark.parametrize("nothing", [{}, "{}\n{}"], ids=str)
def test_a_server_that_never_gives_an_answer_is_not_asked_again_for_every_row(server: Server, nothing: Any) -> None:
    server.script([{"body": nothing}] * 300)
    df = pd.DataFrame({"text": [f"Row {number}." for number in range(60)]})
    few = po.Client(server.base_url, max_attempts=3, max_concurrent_requests=4)
    with few, pytest.raises(RequestRefusedError, match="not what this endpoint answers"):
        po.process_dataframe(df, "text", model="m", client=few, progress=False)
    assert server.stats()["received"] < 2 * len(df)  # all attempts of five rows, and the first ones of others


@pytest.mark.parametrize("path", OTHERS)
def test_each_endpoint_recognises_responses_without_an_answer(server: Server, path: str) -> None:
    line, nothing = OTHERS[path]
    write(line)
    server.script([{"body": nothing}])
    url = f"{server.base_url}/{path}"
    status = po.process_api_requests_from_file("in.jsonl", "out.jsonl", url, api_key="none", progress=False)
    assert (status.num_tasks_succeeded, status.num_api_errors) == (1, 1)
    assert isinstance(results()[0][1], dict)


def test_a_billed_response_without_an_answer_is_not_retried_and_is_an_error_line(server: Server) -> None:
    write(chat("a"))
    server.script([{"body": {**BILLED, "model": "gpt-4o-mini"}}])
    status = run(server)
    assert (status.num_tasks_failed, dict(status.errors), server.stats()["received"]) == (1, {"empty": 1}, 1)
    assert results()[0][1] == ["The server answered HTTP 200 without an answer: there is nothing in 'choices'."]
    assert (status.prompt_tokens, status.completion_tokens) == (9, 2)
    assert status.cost_usd > 0
    assert run(server).num_tasks_succeeded == 1


def test_a_billed_response_without_an_answer_has_its_cost_in_the_frame(server: Server, client: po.Client) -> None:
    server.script([{"body": {**BILLED, "model": "gpt-4o-mini"}}])
    df = pd.DataFrame({"text": ["a"]})
    out = po.process_dataframe(df, "text", model="gpt-4o-mini", client=client, progress=False)
    assert out.loc[0, ["status", "error_code", "attempts", "completion_tokens"]].tolist() == ["failed", "empty", 1, 2]
    assert out.loc[0, "cost_usd"] > 0


def test_a_response_that_a_server_runs_in_the_background_unasked_is_not_started_twice(server: Server) -> None:
    write({"model": "m", "input": "a"})
    queued = {"id": "resp_1", "status": "queued", "output": [], "usage": None}
    server.script([{"body": queued}])
    url = f"{server.base_url}/responses"
    po.process_api_requests_from_file("in.jsonl", "out.jsonl", url, api_key="none", progress=False)
    assert server.stats()["received"] == 1
    assert json.loads(Path("out.jsonl").read_text())[1] == queued
