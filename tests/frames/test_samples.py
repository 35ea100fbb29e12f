"""`samples=` and rows with equal requests: what is sent, what is already known, and what the columns add up to."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

import parallel_openai as po
from parallel_openai.local.simulator import Server
from tests.frames.conftest import Verb, journal_of
from tests.frames.test_resume import received

ONE = pd.DataFrame({"text": ["Say hi."]})
BILLED = ["prompt_tokens", "completion_tokens", "cost_usd", "attempts"]


def test_five_samples_are_five_requests(ask: Verb, server: Server) -> None:
    out = ask(ONE, "text", samples=5)
    assert received(server) == 5
    assert len(out["response"][0]) == 5
    assert len(set(out["request_key"][0])) == 5
    assert out["attempts"].tolist() == [5]


def test_samples_of_rows_with_the_same_prompt_are_not_mixed_up(ask: Verb, server: Server) -> None:
    out = ask(pd.concat([ONE, ONE], ignore_index=True), "text", samples=5)
    assert received(server) == 5
    assert out["request_key"][0] == out["request_key"][1]


def test_only_missing_samples_are_sent(ask: Verb, server: Server) -> None:
    out = ask(ONE, "text", samples=5)
    path = journal_of(out)
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:1] + whole[3:]))
    again = ask(ONE, "text", samples=5)
    assert received(server) == 7
    assert again["request_key"][0] == out["request_key"][0]


def test_only_the_failed_sample_is_sent_again(ask: Verb, server: Server) -> None:
    server.script([400])
    first = ask(ONE, "text", samples=5)
    assert first["status"].tolist() == ["failed"]
    assert sum(answer is None for answer in first["response"][0]) == 1
    out = ask(ONE, "text", samples=5)
    assert received(server) == 6
    assert out["status"].tolist() == ["succeeded"]
    assert all(out["response"][0])


def _text_of(row: pd.Series) -> str:
    return str(row.text)


def test_a_later_success_wins_everywhere(ask: Verb, server: Server) -> None:
    server.script([400])
    first = ask(ONE, _text_of)
    assert first["error_code"].notna().all()
    out = ask(ONE, _text_of)
    assert out["status"].tolist() == ["succeeded"]
    assert out[["error_code", "error"]].isna().all(axis=None)
    assert len(journal_of(out).read_bytes().splitlines()) == 2
    for frame, name in ((out, "after.jsonl"), (first, "before.jsonl")):  # the journal is the same for both
        po.to_jsonl(frame, name, format="results")
        [request, response] = json.loads(Path(name).read_text())
        assert request["messages"][0]["content"] == "Say hi."
        assert response["choices"]
    assert po.read_journal(journal_of(out))["status"].tolist() == ["succeeded"]
    for retry_failed in (True, False):
        assert ask(ONE, _text_of, retry_failed=retry_failed)["status"].tolist() == ["succeeded"]
    assert received(server) == 2


def test_an_earlier_success_wins_over_a_failure_written_later(ask: Verb, server: Server) -> None:
    server.script([400])
    ask(ONE, "text")
    path = journal_of(ask(ONE, "text"))
    failed, good = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(good + failed)
    assert ask(ONE, "text", retry_failed=False)["status"].tolist() == ["succeeded"]
    assert received(server) == 2


def test_the_columns_of_rows_that_share_an_answer_add_up_to_what_was_billed(ask: Verb, server: Server) -> None:
    df = pd.DataFrame({"text": ["Say hi.", "Say ho.", "Say hi.", "Say hi."]}, index=list("abcd"))
    server.script([500], matching="Say hi.")
    out = ask(df, "text")
    assert received(server) == 3
    assert out.loc[["c", "d"], BILLED].eq(0).all(axis=None)
    assert out["attempts"].tolist() == [2, 1, 0, 0]
    report = po.last_run()
    assert report is not None
    assert out["prompt_tokens"].sum() == report.prompt_tokens
    assert out["completion_tokens"].sum() == report.completion_tokens
    assert out["cost_usd"].sum() == report.cost_usd
    assert out["response"].notna().all()
    pd.testing.assert_frame_equal(ask(df, "text"), out)


def test_the_cost_of_a_shared_failure_is_counted_once(ask: Verb, server: Server) -> None:
    server.script([400])
    out = ask(pd.concat([ONE, ONE], ignore_index=True), "text")
    assert out["status"].tolist() == ["failed", "failed"]
    assert out["attempts"].tolist() == [1, 0]
    assert out["prompt_tokens"].isna().all()


def test_several_choices_come_back_as_a_list(ask: Verb, server: Server) -> None:
    out = ask(pd.DataFrame({"text": ["Say hi.", None]}), "text", n=3)
    assert received(server) == 1
    assert len(out["response"][0]) == 3
    assert out["status"].tolist() == ["succeeded", "failed"]


def test_an_invalid_choice_fails_the_row_and_keeps_the_others(ask: Verb, server: Server) -> None:
    good = {"message": {"content": "Hi."}, "finish_reason": "stop"}
    server.script([{"body": {"choices": [good, {"message": {"content": ""}, "finish_reason": "stop"}]}}])
    out = ask(ONE, "text", n=2)
    assert out["response"][0] == ["Hi.", None]
    assert out["error_code"].tolist() == ["empty"]
