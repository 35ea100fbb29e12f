"""`repair=`: a bad answer is requested again, a limited number of times, and all costs are counted."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._journal.known_results import KnownResults
from parallel_openai.errors import InvalidInputError
from parallel_openai.local.simulator import Server
from tests.frames.conftest import Verb, codes, journal_of
from tests.frames.test_resume import received

ONE = pd.DataFrame({"text": ["A wonderful lamp."]})
LABELS = ["good", "bad"]


def says(text: str | None, reason: str = "stop", tokens: int = 5) -> dict[str, Any]:
    """A scripted answer."""
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 10, "completion_tokens": tokens}
    choices = [{"message": message, "finish_reason": reason}]
    return {"body": {"model": "gpt-4o-mini", "choices": choices, "usage": usage, "system_fingerprint": "simulated"}}


def lines(out: pd.DataFrame) -> list[Any]:
    return [json.loads(line) for line in journal_of(out).read_bytes().splitlines()]


def test_a_truncated_answer_is_requested_with_twice_the_cap(ask: Verb, server: Server) -> None:
    out = ask(ONE, "text", max_tokens=30, repair=True)
    assert out["status"].tolist() == ["succeeded"]
    assert received(server) == 2
    assert [line[3].get("sent", line[0])["max_tokens"] for line in lines(out)] == [30, 60]


def test_without_repair_an_invalid_answer_is_not_requested_again(ask: Verb, server: Server) -> None:
    assert codes(ask(ONE, "text", max_tokens=30)) == ["truncated"]
    assert received(server) == 1


def test_the_model_is_shown_an_off_label_answer_and_what_is_wrong(label: Verb, server: Server) -> None:
    server.script([says('{"label": "fine"}'), says('{"label": "good"}')])
    out = label(ONE, "text", labels=LABELS, repair=True)
    assert out["label"].tolist() == ["good"]
    first, second = lines(out)
    assert second[0] == first[0]
    said, told = second[3]["sent"]["messages"][-2:]
    assert said == {"role": "assistant", "content": '{"label": "fine"}'}
    assert told["role"] == "user"
    assert "The answer is none of good, bad" in told["content"]


def test_a_repair_of_an_empty_answer_has_no_empty_message(ask: Verb, server: Server) -> None:
    server.script([says("")])
    out = ask(ONE, "text", repair=True)
    assert out["status"].tolist() == ["succeeded"]
    messages = lines(out)[-1][3]["sent"]["messages"]
    assert [message["role"] for message in messages] == ["user", "user"]


def test_the_row_has_the_cost_of_both_answers(label: Verb, server: Server) -> None:
    server.script([says("fine", tokens=7), says('{"label": "bad"}', tokens=9)])
    out = label(ONE, "text", labels=LABELS, repair=True)
    assert out[["prompt_tokens", "completion_tokens", "attempts"]].iloc[0].tolist() == [20, 16, 2]
    assert out["cost_usd"][0] == pytest.approx((20 * 0.15 + 16 * 0.6) / 1e6)
    report = po.last_run()
    assert report is not None
    assert (report.repairs, report.retries, report.requests_sent) == (1, 0, 2)
    assert (report.prompt_tokens, report.completion_tokens) == (20, 16)
    assert report.cost_usd == pytest.approx(out["cost_usd"][0])
    assert "1 bad answer asked for once more" in str(report)
    assert "bad answer asked for once more" in report._repr_html_()


def test_a_repaired_row_is_known_to_the_next_call(label: Verb, server: Server) -> None:
    server.script([says("fine"), says('{"label": "bad"}')])
    first = label(ONE, "text", labels=LABELS, repair=True)
    for repair in (True, False):
        again = label(ONE, "text", labels=LABELS, repair=repair)
        pd.testing.assert_frame_equal(again, first)
    assert received(server) == 2
    assert po.read_journal(journal_of(first))["status"].tolist() == ["succeeded"]


@pytest.mark.parametrize(("repair", "sent"), [(False, 1), (True, 2), (0, 1), (1, 2), (3, 4)])
def test_a_row_is_repaired_at_most_the_given_number_of_times(
    label: Verb, server: Server, repair: Any, sent: int
) -> None:
    server.set(fault_off_schema=1)
    out = label(ONE, "text", labels=LABELS, repair=repair)
    assert received(server) == sent
    assert codes(out) == ["off_label"]
    assert out["attempts"].tolist() == [sent]
    again = label(ONE, "text", labels=LABELS, repair=repair, retry_failed=False)
    pd.testing.assert_frame_equal(again, out)
    assert received(server) == sent


@pytest.mark.parametrize("repair", [-1, 1.5, "yes", None], ids=str)
def test_an_invalid_value_of_repair_is_refused(ask: Verb, repair: Any) -> None:
    with pytest.raises(InvalidInputError, match="repair must be True, False or a number of tries"):
        ask(ONE, "text", repair=repair)


@pytest.mark.parametrize("fault", ["refusal", "content_filter"])
def test_refusals_and_content_filters_are_not_repaired(ask: Verb, server: Server, fault: str) -> None:
    server.script([{"fault": fault}])
    assert ask(ONE, "text", repair=True)["status"].tolist() == ["failed"]
    assert received(server) == 1


@pytest.mark.parametrize("reason", ["length", "MAX_TOKENS"])
def test_an_answer_truncated_without_a_cap_is_not_repaired(ask: Verb, server: Server, reason: str) -> None:
    server.script([says("A lamp", reason)])
    assert codes(ask(ONE, "text", repair=True)) == ["truncated"]
    assert received(server) == 1


def test_a_repair_that_is_refused_leaves_the_row_as_it_was(label: Verb, server: Server) -> None:
    server.script([says("fine", tokens=7), 400])
    out = label(ONE, "text", labels=LABELS, repair=True)
    assert codes(out) == ["off_label"]
    assert out[["completion_tokens", "attempts"]].iloc[0].tolist() == [7, 2]


def test_a_repair_is_retried_like_any_request(label: Verb, server: Server) -> None:
    server.script([says("fine"), 429, says('{"label": "bad"}')])
    out = label(ONE, "text", labels=LABELS, repair=True)
    assert out["label"].tolist() == ["bad"]
    assert out["attempts"].tolist() == [3]


def test_an_invalid_answer_in_the_journal_is_repaired_and_not_requested_from_scratch(
    label: Verb, server: Server
) -> None:
    server.script([says("fine", tokens=7)])
    label(ONE, "text", labels=LABELS)
    server.script([says('{"label": "bad"}', tokens=9)])
    out = label(ONE, "text", labels=LABELS, repair=True)
    assert out[["label", "completion_tokens", "attempts"]].iloc[0].tolist() == ["bad", 16, 2]
    assert received(server) == 2
    report = po.last_run()
    assert report is not None
    assert (report.completion_tokens, report.repairs) == (9, 1)
    assert lines(out)[-1][3]["sent"]["messages"][-2]["content"] == "fine"


def test_each_repair_shows_the_previous_answer(label: Verb, server: Server) -> None:
    server.script([says("one"), says("two"), says('{"label": "bad"}')])
    out = label(ONE, "text", labels=LABELS, repair=2)
    messages = lines(out)[-1][3]["sent"]["messages"]
    assert [message["content"] for message in messages if message["role"] == "assistant"] == ["one", "two"]
    assert out[["label", "attempts"]].iloc[0].tolist() == ["bad", 3]


def test_a_repair_equal_to_another_rows_request_is_kept_separate(ask: Verb, server: Server) -> None:
    """The doubled cap of the first row makes the very body of the second."""
    bodies = [{"messages": [{"role": "user", "content": "Say hi."}], "max_tokens": cap} for cap in (30, 60)]
    out = ask(pd.DataFrame({"body": bodies}), "body", repair=True)
    assert out["status"].tolist() == ["succeeded", "succeeded"]
    assert out["attempts"].tolist() == [2, 1]
    assert received(server) == 3


def test_rows_with_the_same_request_share_a_repaired_answer(label: Verb, server: Server) -> None:
    server.script([says("fine"), says('{"label": "bad"}')])
    out = label(pd.concat([ONE, ONE], ignore_index=True), "text", labels=LABELS, repair=True)
    assert out["label"].tolist() == ["bad", "bad"]
    assert out["attempts"].tolist() == [2, 0]


def test_samples_are_repaired_one_by_one(label: Verb, server: Server) -> None:
    server.script([says("fine"), says('{"label": "bad"}')])
    out = label(ONE, "text", labels=LABELS, samples=3, repair=True)
    assert received(server) == 4
    assert out["status"].tolist() == ["succeeded"]
    assert out["attempts"].tolist() == [4]


def test_a_repair_too_large_for_the_limit_fails_without_being_sent(server: Server) -> None:
    server.script([says("fine " * 300)])
    client = po.Client(server.base_url, max_tokens_per_minute=200)
    out = po.label_dataframe(
        ONE, "text", labels=LABELS, model="gpt-4o-mini", client=client, progress=False, repair=True
    )
    assert codes(out) == ["off_label"]
    assert received(server) == 1


def test_repairs_stay_within_the_budget(ask: Verb, server: Server) -> None:
    out = ask(ONE, "text", max_tokens=30, repair=True, budget_tokens=80)
    assert received(server) == 1
    assert codes(out) == ["truncated"]
    report = po.last_run()
    assert report is not None
    assert report.ended == "budget"
    assert ask(ONE, "text", max_tokens=30, repair=True, budget_tokens=90)["status"].tolist() == ["succeeded"]
    assert received(server) == 2


@pytest.mark.filterwarnings("ignore:For fine-tuning")
def test_exports_hold_the_rows_own_request_and_not_the_repair(label: Verb, server: Server) -> None:
    server.script([says("fine"), says('{"label": "bad"}')])
    out = label(ONE, lambda row: row.text, labels=LABELS, repair=True)
    po.to_jsonl(out, "results.jsonl", format="results")
    po.to_jsonl(out, "tuning.jsonl", format="fine-tuning")
    with open("results.jsonl", "rb") as results, open("tuning.jsonl", "rb") as tuning:
        [request, response] = json.loads(results.read())
        messages = json.loads(tuning.read())["messages"]
    assert [message["role"] for message in request["messages"]] == ["system", "user"]
    assert response["choices"][0]["message"]["content"] == '{"label": "bad"}'
    assert [message["role"] for message in messages] == ["system", "user", "assistant"]


def test_a_damaged_record_of_a_repair_loses_only_the_count_of_attempts(label: Verb, server: Server) -> None:
    server.script([says("fine"), says('{"label": "bad"}')])
    out = label(ONE, "text", labels=LABELS, repair=True)
    path = journal_of(out)
    last = lines(out)[-1]
    for earlier in (None, 5, [5, {"attempts": 3}]):
        last[3]["earlier"] = earlier
        path.write_text(json.dumps(last) + "\n")
        assert label(ONE, "text", labels=LABELS)["label"].tolist() == ["bad"]
    assert received(server) == 2
    known = KnownResults(path, simulated=True)
    assert len(known) == 1
    known.close()


def test_async_functions_repair_too(server: Server) -> None:
    out = asyncio.run(
        po.aprocess_dataframe(
            ONE, "text", model="m", client=po.Client(server.base_url), progress=False, max_tokens=30, repair=True
        )
    )
    assert out["status"].tolist() == ["succeeded"]
