"""`peek`, which looks into a running or finished journal, and the `df.openai` accessor."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai.errors import InvalidInputError
from tests.frames.conftest import Verb, journal_of


def test_peek_shows_the_newest_answers_first(ask: Verb) -> None:
    frame = pd.DataFrame({"text": [f"Say {n}." for n in range(300)]})
    out = ask(frame, "text", save_to="answers.jsonl")
    seen = po.peek("answers.jsonl", rows=5)
    lines = po.read_journal("answers.jsonl")
    assert seen["prompt"].tolist() == [each["messages"][-1]["content"] for each in lines["request"][::-1][:5]]
    assert seen["answer"].tolist() == [out.set_index("text")["response"][prompt] for prompt in seen["prompt"]]
    assert seen["at"].is_monotonic_decreasing or seen["at"].notna().all()
    assert seen.attrs["journal"] == "answers.jsonl"


def test_peek_without_a_path_shows_the_journal_written_last(ask: Verb, reviews: pd.DataFrame) -> None:
    first, second = ask(reviews, "First: {text}"), ask(reviews, "Second: {text}")
    os.utime(journal_of(second), (1, 1))
    assert po.peek()["prompt"].str.startswith("First").all()
    assert po.peek().attrs["journal"] == str(journal_of(first))
    Path(".parallel_openai/later.review.jsonl").write_text("{}\n")
    assert po.peek()["prompt"].str.startswith("First").all()


def test_peek_shows_answers_of_a_running_call() -> None:
    frame = pd.DataFrame({"text": [f"Say {n}." for n in range(40)]})
    seen = 0
    with po.local.simulator.serve(latency=0.05) as server, ThreadPoolExecutor(1) as other:
        client = po.Client(server.base_url, max_concurrent_requests=4)
        run = other.submit(po.process_dataframe, frame, "text", model="m", client=client, progress=False)
        while not seen and not run.done():
            seen = len(po.peek(rows=100)) if list(Path(".parallel_openai").glob("*.jsonl")) else 0
    assert 0 < seen < 40


def test_peek_shows_failures_and_skips_torn_lines(
    ask: Verb, reviews: pd.DataFrame, server: po.local.simulator.Server
) -> None:
    server.script([400], matching="terrible")
    ask(reviews, "text", save_to="answers.jsonl")
    with open("answers.jsonl", "ab") as file:
        file.write(b'[{"model": "torn')
    seen = po.peek("answers.jsonl").set_index("prompt")
    assert seen.loc["It broke, terrible.", "status"] == "failed"
    assert seen.loc["It broke, terrible.", "error"]
    assert len(seen) == 3


@pytest.mark.parametrize("at", [1e308, 10**40, "", {}, True])
def test_an_invalid_time_is_shown_as_missing(at: Any) -> None:
    line = [{"messages": [{"content": "Hi."}]}, ["refused"], None, {"attempts": [{"at": at}]}]
    Path("a.jsonl").write_text(json.dumps(line) + "\n")
    assert po.peek("a.jsonl")["at"].isna().all()


def test_long_lines_are_read_whole(ask: Verb) -> None:
    frame = pd.DataFrame({"text": [f"{n} " + "long " * 30_000 for n in range(3)]})
    ask(frame, "text", save_to="answers.jsonl", progress=False)
    assert len(po.peek("answers.jsonl", rows=2)) == 2


@pytest.mark.parametrize(
    ("body", "response", "answer"),
    [
        ({"prompt": "Hi."}, {"choices": [{"text": "Ho.", "finish_reason": "stop"}]}, "Ho."),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi."}]}]},
            {
                "status": "completed",
                "output": [{"type": "message", "content": [{"type": "output_text", "text": "Ho."}]}],
            },
            "Ho.",
        ),
        ({"input": "Hi."}, {"data": [{"index": 0, "embedding": [0.5, 1.0]}]}, "[0.5,1.0]"),
    ],
    ids=["completions", "responses", "embeddings"],
)
def test_peek_shows_answers_of_every_endpoint(body: dict[str, Any], response: dict[str, Any], answer: str) -> None:
    po.append_to_jsonl([body, response], "answers.jsonl")
    [seen] = po.peek("answers.jsonl").itertuples()
    assert (seen.prompt, seen.answer, seen.status) == ("Hi.", answer, "succeeded")


def test_peek_at_a_missing_journal_is_an_error() -> None:
    with pytest.raises(InvalidInputError, match="no journal in"):
        po.peek()
    with pytest.raises(InvalidInputError, match="no journal nowhere"):
        po.peek("nowhere.jsonl")
    with pytest.raises(InvalidInputError, match="rows must be"):
        po.peek(rows=0)


def test_the_functions_are_available_on_df_openai(client: po.Client, reviews: pd.DataFrame) -> None:
    options = {"model": "gpt-4o-mini", "client": client, "progress": False}
    out = reviews.openai.label("{text}", labels=["positive", "negative"], **options)
    assert out["label"].tolist()[:2] == ["positive", "negative"]
    assert asyncio.run(reviews.openai.aprocess("text", **options))["status"].eq("succeeded").all()
    assert len(out.openai.review()) == 3
    assert out.openai.to_jsonl("out.jsonl") == 3


def test_methods_of_df_openai_have_the_functions_docstrings(reviews: pd.DataFrame) -> None:
    bound = inspect.signature(reviews.openai.process)
    assert list(bound.parameters) == list(inspect.signature(po.process_dataframe).parameters)[1:]
    assert inspect.getdoc(reviews.openai.process) == inspect.getdoc(po.process_dataframe)
