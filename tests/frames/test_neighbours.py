"""Requests answered in a journal of another name are not sent again, unless another user or server is involved."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._journal import neighbours, origins
from parallel_openai.local import simulator
from parallel_openai.local.simulator import Server
from tests.frames.conftest import Verb, journal_of
from tests.frames.test_identity import received

ROWS = pd.DataFrame({"text": [f"A lamp, number {n}." for n in range(40)]})
TEMPLATE = "Good? {text}"


def as_function(row: Any) -> str:
    return f"Good? {row['text']}"


def as_messages(row: Any) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Good? {row['text']}"}]


def as_body(row: Any) -> dict[str, Any]:
    return dict(row["body"])


WAYS: list[tuple[Any, Any]] = [
    (TEMPLATE, as_function),
    (as_function, TEMPLATE),
    (TEMPLATE, "whole"),
    ("whole", as_function),
]


@pytest.mark.parametrize(("first", "then"), WAYS, ids=["function", "template", "column", "column first"])
@pytest.mark.parametrize("options", [{}, {"samples": 2}, {"endpoint": "responses"}, {"temperature": 0}], ids=str)
def test_the_same_requests_are_known_however_they_are_made(
    ask: Verb, client: po.Client, server: Server, first: Any, then: Any, options: dict[str, Any]
) -> None:
    df = ROWS.assign(whole="Good? " + ROWS["text"])
    before = ask(df, first, **options)
    sent = received(server)
    seen = po.preview(df, then, model="gpt-4o-mini", client=client, **options)
    assert (seen.requests, seen.known) == (0, sent)
    again = ask(df, then, **options)
    assert received(server) == sent
    assert journal_of(before) != journal_of(again)
    assert list(before["response"]) == list(again["response"])
    assert again["cost_usd"].tolist() == before["cost_usd"].tolist()


def test_equal_chat_messages_are_known(ask: Verb, server: Server) -> None:
    for prompt in (as_messages, TEMPLATE, as_function):
        ask(ROWS, prompt)
    assert received(server) == len(ROWS)


def test_rows_that_bring_their_own_model_are_known_and_the_reverse(ask: Verb, server: Server) -> None:
    whole = ROWS.assign(body=[{"model": "gpt-4o-mini", "messages": as_messages(row)} for _, row in ROWS.iterrows()])
    for df, prompt, model in ((whole, "body", None), (ROWS, TEMPLATE, "gpt-4o-mini"), (whole[:9], as_body, None)):
        ask(df, prompt, model=model)
    assert received(server) == len(ROWS)


def test_answers_from_another_journal_are_copied_to_the_runs_own(ask: Verb, server: Server) -> None:
    ask(ROWS, TEMPLATE)
    taken = ask(ROWS, as_function)
    journal_of(ask(ROWS, TEMPLATE)).unlink()
    ask(ROWS, as_function)
    assert received(server) == len(ROWS)
    assert len(po.read_journal(journal_of(taken))) == len(ROWS)


def test_only_new_rows_of_a_shuffled_and_changed_frame_are_sent(ask: Verb, server: Server) -> None:
    ask(ROWS, TEMPLATE)
    new = pd.DataFrame({"text": [f"A chair, number {n}." for n in range(60)]})
    mixed = pd.concat([new, ROWS.iloc[5:]]).sample(frac=1.0, random_state=1)
    assert ask(mixed, as_function)["status"].eq("succeeded").all()
    assert received(server) == len(ROWS) + len(new)


def test_labels_and_embeddings_in_another_journal_are_known(client: po.Client, server: Server) -> None:
    options: dict[str, Any] = {"client": client, "progress": False}
    for prompt in (TEMPLATE, as_function):
        po.label_dataframe(ROWS, prompt, labels=["good", "bad"], model="gpt-4o-mini", **options)
    assert received(server) == len(ROWS)
    for column in ("text", lambda row: row["text"]):
        po.embed_dataframe(ROWS, column, model="text-embedding-3-small", **options)
    assert server.stats(charged=False)["received"] == len(ROWS) + 1


def test_a_prompt_function_is_called_once_a_row_if_there_is_no_other_journal(ask: Verb) -> None:
    calls = []

    def prompt(row: Any) -> str:
        calls.append(row)
        return f"Good? {row['text']}"

    ask(ROWS, prompt)
    assert len(calls) == len(ROWS)


@pytest.mark.parametrize(
    "other", ["a place", "a writer", "a parameter", "a key", "a text", "a link", "damage", "no place"]
)
def test_answers_of_another_server_or_writer_are_not_used(
    ask: Verb, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, other: str
) -> None:
    journal = journal_of(ask(ROWS, TEMPLATE))
    lines = [json.loads(line) for line in journal.read_bytes().splitlines()]
    for line in lines:
        if other == "a place":
            line[3]["place"] = "http://elsewhere/v1"
        if other == "no place":
            del line[3]["place"]
        if other == "a key":
            line[3]["key"] = line[3]["key"][::-1]
        if other == "a text":
            line[0]["messages"][0]["content"] += " Not?"
        if other == "a parameter":
            line[0]["temperature"] = 0.5
    journal.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    if other == "damage":
        journal.write_bytes(b"\x00" * 5000)
    if other == "a link":
        os.replace(journal, tmp_path / "there.jsonl")
        journal.symlink_to(tmp_path / "there.jsonl")
    if other == "a writer":
        monkeypatch.setattr(origins, "writer", lambda: "somebody on elsewhere")
    assert ask(ROWS, as_function)["status"].eq("succeeded").all()
    assert received(server) == 2 * len(ROWS)


def test_each_servers_answers_are_kept_separate(ask: Verb, server: Server) -> None:
    ask(ROWS, TEMPLATE)
    with simulator.serve(max_requests_per_minute=None) as other, po.Client(other.base_url) as client:
        po.process_dataframe(ROWS, as_function, model="gpt-4o-mini", client=client, progress=False)
        assert received(other) == len(ROWS)


def test_with_save_to_no_other_journal_is_searched(ask: Verb, server: Server, tmp_path: Path) -> None:
    ask(ROWS, TEMPLATE)
    ask(ROWS, as_function, save_to=tmp_path / "mine.jsonl")
    assert received(server) == 2 * len(ROWS)


def test_answers_in_any_part_of_a_large_journal_are_known(ask: Verb, server: Server) -> None:
    journal = journal_of(ask(ROWS, TEMPLATE))
    first, *rest = journal.read_bytes().splitlines(keepends=True)
    others = [first.replace(b"A lamp", b"x" * 3000).replace(b'"key":"', b'"key":"%04x' % n, 1) for n in range(1200)]
    journal.write_bytes(b"".join([first, *others, *rest]))
    ask(ROWS[1:], as_function)
    assert received(server) == len(ROWS)


def test_answers_of_one_model_among_several_are_known_to_a_call_with_that_one(ask: Verb, server: Server) -> None:
    models = ["gpt-4.1-mini"] * 20 + ["gpt-4o-mini"] * 20
    rows = zip(models, ROWS.iterrows(), strict=True)
    bodies = [{"model": model, "messages": as_messages(row)} for model, (_, row) in rows]
    ask(ROWS.assign(body=bodies), "body", model=None)
    ask(ROWS[20:], TEMPLATE)
    assert received(server) == len(ROWS)


def test_a_search_for_few_rows_ends_early_and_starts_with_the_newest_journal(
    ask: Verb, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "_PER_ROW", 0)
    monkeypatch.setattr(neighbours, "_AT_LEAST", neighbours._CHUNK)
    old = journal_of(ask(ROWS[:20], TEMPLATE))
    old.rename(old.with_name("gpt-4.1-mini-000000000000.jsonl"))
    ask(ROWS[20:], TEMPLATE)
    ask(ROWS, as_function)
    assert received(server) == len(ROWS) + 20
