"""A failed row is data; a failed run is an exception that carries what was finished."""

from __future__ import annotations

import json
import time
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai.errors import (
    AuthenticationError,
    PermissionDeniedError,
    QuotaExceededError,
    RunStoppedError,
    ServerUnreachableError,
)
from parallel_openai.local import simulator
from parallel_openai.local.simulator import Server
from tests.frames.conftest import Verb, codes

BILLED = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
CHAT: dict[str, Any] = {"id": "1", "object": "chat.completion", "model": "m", "usage": BILLED}


def texts(*rows: str) -> pd.DataFrame:
    return pd.DataFrame({"text": list(rows)})


def says(message: Any, **choice: Any) -> dict[str, Any]:
    """A scripted answer with that message."""
    return {"body": {**CHAT, "choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}]}}


def test_a_refused_request_fails_its_row_in_the_servers_words(ask: Verb, server: Server) -> None:
    server.script([{"status": 400, "message": "Too odd.", "code": "odd"}], matching="b")
    out = ask(texts("a", "b", "c"), "text")
    assert out["status"].tolist() == ["succeeded", "failed", "succeeded"]
    assert out.loc[1, ["error_code", "error", "attempts"]].tolist() == ["odd", "HTTP 400: Too odd.", 1]
    assert pd.isna(out["response"][1])


@pytest.mark.parametrize("status", [404, 413, 422])
def test_a_permanent_error_is_not_retried(ask: Verb, server: Server, status: int) -> None:
    server.script([status])
    assert ask(texts("a"), "text")["attempts"].tolist() == [1]


def test_a_server_error_is_retried(ask: Verb, server: Server) -> None:
    server.script([500])
    out = ask(texts("a"), "text")
    assert out.loc[0, ["status", "attempts"]].tolist() == ["succeeded", 2]


def test_a_row_fails_after_max_attempts(server: Server) -> None:
    server.set(fault_500=1)
    client = po.Client(server.base_url, max_attempts=2)
    out = po.process_dataframe(texts("a"), "text", model="gpt-4o-mini", client=client, progress=False)
    assert out.loc[0, ["status", "error_code", "attempts"]].tolist() == ["failed", "server_error", 2]


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("refusal", "refused", "The model refused: (simulated)"),
        ("content_filter", "content_filter", "cut by the content filter"),
        ("empty", "empty", "answered with nothing"),
        ("length", "truncated", "went into reasoning and none was left"),
    ],
)
def test_a_missing_answer_is_reported_and_its_cost_is_counted(
    ask: Verb, server: Server, fault: str, code: str, words: str
) -> None:
    server.set(**{f"fault_{fault}": 1})
    out = ask(texts("a"), "text")
    assert out.loc[0, ["status", "error_code"]].tolist() == ["failed", code]
    assert words in out["error"][0]
    assert out["cost_usd"][0] > 0
    assert out.attrs["parallel_openai"]["errors"] == {code: 1}


def test_an_answer_that_was_cut_off_is_kept_beside_its_error(ask: Verb) -> None:
    out = ask(texts("a long story"), "text", max_completion_tokens=2)
    assert out.loc[0, ["error_code", "response"]].tolist() == ["truncated", "(simulat"]
    assert out["error"][0].startswith("The answer was cut off after 2 tokens. Raise max_completion_tokens")


@pytest.mark.parametrize(
    "answer",
    [
        {"body": {**CHAT, "choices": []}},
        {"body": {**CHAT, "choices": None}},
        {"body": CHAT},
        {"body": {**CHAT, "choices": ["Hi."]}},
        {"body": {**CHAT, "choices": {"0": "Hi."}}},
        says(None),
        says({"content": None}),
        says({"content": {"type": "picture", "picture": "Hi."}}),
        says({"content": ""}, finish_reason={"odd": 1}),
    ],
    ids=json.dumps,
)
def test_a_malformed_answer_counts_as_empty_and_affects_no_other_row(ask: Verb, server: Server, answer: Any) -> None:
    server.script([answer], matching="b")
    out = ask(texts("a", "b"), "text")
    assert codes(out) == [None, "empty"]


@pytest.mark.parametrize(
    "usage",
    [None, [], {}, {"prompt_tokens": None}, {"prompt_tokens": 2**70}, {"prompt_tokens": -1}, {"prompt_tokens": "9"}],
    ids=json.dumps,
)
def test_malformed_usage_affects_no_row(ask: Verb, server: Server, usage: Any) -> None:
    answer = says({"content": "Hi."})
    server.script([{"body": {**answer["body"], "usage": usage}}])
    assert ask(texts("a"), "text")["response"].tolist() == ["Hi."]


@pytest.mark.parametrize("finish_reason", [None, 5, ["stop"], True], ids=str)
def test_an_unknown_finish_reason_affects_no_row(ask: Verb, server: Server, finish_reason: Any) -> None:
    server.script([says({"content": "Hi."}, finish_reason=finish_reason)])
    out = ask(texts("a"), "text")
    assert out["response"].tolist() == ["Hi."]
    assert out["finish_reason"].isna().all()


def test_an_answer_in_content_parts_is_joined(ask: Verb, server: Server) -> None:
    server.script([says({"content": [{"type": "text", "text": "Hi "}, {"type": "text", "text": "you."}]})])
    assert ask(texts("a"), "text")["response"].tolist() == ["Hi you."]


def test_a_tool_call_is_an_answer_without_text(ask: Verb, server: Server) -> None:
    server.script([says({"content": None, "tool_calls": [{"id": "1"}]}, finish_reason="tool_calls")])
    out = ask(texts("a"), "text")
    assert out["status"].tolist() == ["succeeded"]
    assert pd.isna(out["response"][0])


def test_an_answer_with_a_lone_surrogate_keeps_the_rest(ask: Verb, server: Server) -> None:
    body = json.dumps(says({"content": "broken \ud83d"})["body"])
    server.script([{"body": body}], matching="b")
    for _ in range(2):  # from the server, then from the journal
        assert ask(texts("a", "b"), "text")["response"][1] == "broken \ufffd"


def test_a_wrong_key_stops_the_run(server: Server, reviews: pd.DataFrame) -> None:
    server.set(required_api_key="sk-right")
    client = po.Client(server.base_url, "sk-wrong-and-secret")
    with pytest.raises(AuthenticationError, match="Check the API key") as stopped:
        po.process_dataframe(reviews, "text", model="gpt-4o-mini", client=client, progress=False)
    assert stopped.value.partial["status"].tolist() == ["cancelled"] * 3
    assert "sk-wrong-and-secret" not in str(stopped.value)


def test_a_missing_openai_key_is_reported_at_once(reviews: pd.DataFrame) -> None:
    with pytest.raises(AuthenticationError, match=r"There is no API key\. Set OPENAI_API_KEY"):
        po.process_dataframe(reviews, "text", model="gpt-4o-mini", progress=False)


def test_a_forbidden_account_stops_the_run(ask: Verb, reviews: pd.DataFrame, server: Server) -> None:
    server.script([403] * 3)
    with pytest.raises(PermissionDeniedError, match="HTTP 403"):
        ask(reviews, "text")


def test_used_up_credit_stops_the_run_and_keeps_finished_answers(ask: Verb, server: Server) -> None:
    server.set(insufficient_quota_after=7)
    df = texts(*(f"Review {n}" for n in range(30)))
    with pytest.raises(QuotaExceededError, match="Add credit") as stopped:
        ask(df, "text")
    out = stopped.value.partial
    assert out["status"].value_counts().to_dict() == {"succeeded": 7, "failed": 0, "cancelled": 23}
    assert out.attrs["parallel_openai"]["ended"] == "stopped"


def test_after_more_credit_only_the_rest_is_sent(ask: Verb, server: Server) -> None:
    server.set(insufficient_quota_after=7)
    df = texts(*(f"Review {n}" for n in range(30)))
    with pytest.raises(QuotaExceededError):
        ask(df, "text")
    server.set(insufficient_quota_after=None)
    assert ask(df, "text")["status"].eq("succeeded").all()
    stats = server.stats()
    assert (stats["charged_distinct"], stats["charged_more_than_once"]) == (30, 0)


def test_a_run_stopped_at_its_first_rows_still_returns_known_answers_of_the_others(ask: Verb, server: Server) -> None:
    df = texts(*(f"Review {n}" for n in range(300)))
    ask(df[250:], "text")
    server.set(insufficient_quota_after=0)
    with pytest.raises(QuotaExceededError) as stopped:
        ask(df, "text")
    assert stopped.value.partial["status"].eq("succeeded").sum() == 50


def test_an_unreachable_server_is_reported_quickly(reviews: pd.DataFrame) -> None:
    with simulator.serve() as server:
        pass
    began = time.monotonic()
    with pytest.raises(ServerUnreachableError, match=r"127\.0\.0\.1:\d+.*Is base_url right") as stopped:
        po.process_dataframe(reviews, "text", model="m", client=po.Client(server.base_url), progress=False)
    assert time.monotonic() - began < 5
    assert isinstance(stopped.value, RunStoppedError)
    assert stopped.value.partial["status"].tolist() == ["cancelled"] * 3


def test_a_host_name_that_does_not_resolve_is_reported(reviews: pd.DataFrame) -> None:
    client = po.Client("http://nowhere.invalid/v1")
    with pytest.raises(ServerUnreachableError, match=r"nowhere\.invalid"):
        po.process_dataframe(reviews, "text", model="m", client=client, progress=False)


def test_a_stopped_async_run_returns_finished_answers(server: Server) -> None:
    import asyncio

    server.set(insufficient_quota_after=2)
    df = texts(*(f"Review {n}" for n in range(9)))
    with pytest.raises(QuotaExceededError) as stopped:
        asyncio.run(po.aprocess_dataframe(df, "text", model="m", client=po.Client(server.base_url), progress=False))
    assert stopped.value.partial["status"].value_counts()["succeeded"] == 2


def test_a_prompt_larger_than_the_limit_fails_with_the_numbers(server: Server) -> None:
    client = po.Client(server.base_url, max_tokens_per_minute=100)
    df = texts("word " * 300, "Hi.")
    out = po.process_dataframe(df, "text", model="m", client=client, progress=False)
    assert codes(out) == ["request_too_large", None]
    assert "limit is 100 tokens per minute" in out["error"][0]


def test_rows_that_share_a_failed_request_fail_too(ask: Verb, server: Server) -> None:
    server.script([400])
    out = ask(texts("a", "a"), "text")
    assert out["status"].tolist() == ["failed", "failed"]
    assert sum(out.attrs["parallel_openai"]["errors"].values()) == 2
