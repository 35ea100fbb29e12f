"""`explain`: the history of one row."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai.errors import InvalidInputError
from parallel_openai.local.simulator import Server
from tests.frames.conftest import Verb, journal_of
from tests.frames.test_repair import ONE, says


def test_every_attempt_is_listed(ask: Verb, server: Server, reviews: pd.DataFrame) -> None:
    server.script([500, {"status": 429, "headers": {"retry-after-ms": "200"}}], matching="terrible")
    out = ask(reviews, "text", max_tokens=60)
    story = po.explain(out, 1)
    statuses = [send[2:4] for send in story.sends]
    assert [status for status, _ in statuses] == ["500", "429", "200"]
    assert statuses[1][1] == "rate_limit_exceeded"
    assert statuses[2][1] == ""
    *_, tokens, request_id = story.sends[-1]
    assert tokens == f"{out['prompt_tokens'][1]} + {out['completion_tokens'][1]}"
    assert request_id == out["request_id"][1]
    assert story.sends[0][5] == ""


def test_an_explanation_prints_as_text(
    ask: Verb, server: Server, reviews: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    server.script([500], matching="terrible")
    text = str(po.explain(ask(reviews, "text"), 1))
    first, head, *sends, last = text.splitlines()
    assert first == "Row 1: succeeded. It was sent 2 times."
    assert head.split("  ")[1] == "sent at"
    assert len(sends) == 2
    assert len({line.index("s  ") for line in sends}) == 1
    assert last.startswith("The answer: (simulated) It broke, terrible.")


def test_an_explanation_renders_as_an_html_table(ask: Verb, server: Server) -> None:
    server.script([says("<b>bold</b>")])
    page = po.explain(ask(ONE, "text"), 0)._repr_html_()
    assert page.count("<tr>") == 2
    assert "&lt;b&gt;bold" in page
    assert repr(po.explain(ask(ONE, "text"), 0)).startswith("Row 0: succeeded.")


def test_a_row_with_an_invalid_prompt_was_never_sent(ask: Verb) -> None:
    out = ask(pd.DataFrame({"text": ["Hi.", None]}), "Say {text}")
    story = po.explain(out, 1)
    assert story.sends == ()
    assert "never sent" in str(story)
    assert "missing_prompt" in str(story)
    assert "<table>" not in story._repr_html_()


def test_an_unsent_row_says_why_the_run_ended(ask: Verb) -> None:
    out = ask(pd.DataFrame({"text": [f"Say {n}." for n in range(9)]}), "text", max_tokens=60, budget_tokens=200)
    assert "never answered: What is left of the budget of 200 tokens is too small" in str(po.explain(out, 8))


def test_a_row_too_large_to_send_was_never_sent(server: Server) -> None:
    client = po.Client(server.base_url, max_tokens_per_minute=10)
    df = pd.DataFrame({"text": ["much to say " * 30]})
    out = po.process_dataframe(df, "text", model="m", client=client, progress=False)
    assert "It was never sent." in str(po.explain(out, 0))
    assert "request_too_large" in str(po.explain(out, 0))


def test_a_failed_row_shows_its_error(ask: Verb, server: Server) -> None:
    server.script([400])
    text = str(po.explain(ask(ONE, "text"), 0))
    assert text.startswith("Row 0: failed. It was sent 1 time.")
    assert "The error: HTTP 400" in text


def test_a_restored_row_says_that_nothing_was_sent(ask: Verb, server: Server) -> None:
    server.script([400])
    ask(ONE, "text")
    assert "earlier run" not in str(po.explain(ask(ONE, "text"), 0))
    story = po.explain(ask(ONE, "text"), 0)
    assert "This was in an earlier run" in str(story)
    assert [send[2] for send in story.sends] == ["400", "200"]


def test_a_row_with_a_shared_answer_names_the_row_that_was_sent(ask: Verb) -> None:
    df = pd.DataFrame({"text": ["Say hi.", "Say ho.", "Say hi."]}, index=["x", "y", "z"])
    out = ask(df, "text")
    assert "the same request as row 'x'" in str(po.explain(out, "z"))
    assert "the same request" not in str(po.explain(out, "x"))
    assert "the same request as another row" in str(po.explain(out.loc[["z"]], "z"))


def test_a_repair_is_shown(ask: Verb, server: Server) -> None:
    out = ask(ONE, "text", max_tokens=15, repair=2)
    story = po.explain(out, 0)
    assert len(story.sends) == 3
    assert "An invalid answer was requested again, 2 times." in str(story)
    assert [send[5].split(" + ")[1] for send in story.sends] == ["15", "30", "50"]


def test_samples_are_shown_together(ask: Verb) -> None:
    story = po.explain(ask(ONE, "text", samples=3), 0)
    assert len(story.sends) == 3
    assert "3 samples were requested." in str(story)


def test_a_row_is_found_by_its_index_label(ask: Verb, reviews: pd.DataFrame) -> None:
    out = ask(reviews.set_axis([2, 1, 0]), "text")
    assert "wonderful" in str(po.explain(out, 2))
    twice = ask(reviews.set_axis(["a", "b", "b"]), "text")
    with pytest.raises(InvalidInputError, match=r"2 rows have the label 'b'.*iloc\[\[1\]\], 'b'"):
        po.explain(twice, "b")
    assert "terrible" in str(po.explain(twice.iloc[[1]], "b"))
    with pytest.raises(InvalidInputError, match=r"No row has the label 7.*out\.iloc"):
        po.explain(out, 7)


@pytest.mark.parametrize("labels", [[float("nan"), 1.0], [None, "a"]], ids=repr)
def test_a_row_whose_label_is_missing_is_found(ask: Verb, labels: list[object]) -> None:
    out = ask(pd.DataFrame({"text": ["Say hi.", "Say ho."]}, index=pd.Index(labels)), "text")
    assert "Say hi." in str(po.explain(out, out.index[0]))


def test_explain_works_with_a_multi_index_and_a_prefix(ask: Verb) -> None:
    index = pd.MultiIndex.from_tuples([("a", 1)])
    out = ask(ONE.set_axis(index), "text", prefix="llm_")
    assert str(po.explain(out, ("a", 1))).startswith("Row ('a', 1): succeeded.")
    levels = pd.DataFrame([["Say hi."]], columns=pd.MultiIndex.from_tuples([("review", "text")]))
    out = ask(levels, ("review", "text"))
    assert str(po.explain(out, 0)).startswith("Row 0: succeeded.")


def test_a_missing_journal_is_reported(ask: Verb) -> None:
    out = ask(ONE, "text", save_to="answers.jsonl")
    Path("answers.jsonl").unlink()
    assert "answers.jsonl no longer exists" in str(po.explain(out, 0))
    journal_of(out).write_text("")
    assert "no longer holds the row" in str(po.explain(out, 0))


def test_a_frame_of_another_origin_is_refused(ask: Verb) -> None:
    with pytest.raises(InvalidInputError, match="does not come from"):
        po.explain(ONE, 0)
    with pytest.raises(InvalidInputError, match="needs the column 'error'"):
        po.explain(ask(ONE, "text").drop(columns="error"), 0)
