"""An answer in a journal is used only for the request on the same line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._journal.entry import result_line
from parallel_openai._journal.known_results import KnownResults
from parallel_openai._json import dumps
from parallel_openai._records import APIRequest, Result
from parallel_openai.local.simulator import Server
from tests.frames.conftest import Verb, journal_of

SHAPE = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
#: Calls by their verb and options: whatever is asked and however, its answers are known again.
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("process", {}),
    "samples": ("process", {"samples": 3}),
    "choices": ("process", {"n": 2}),
    "flex": ("process", {"lane": "flex"}),
    "a tier of one's own": ("process", {"service_tier": "priority"}),
    "responses": ("process", {"endpoint": "responses"}),
    "completions": ("process", {"endpoint": "completions", "model": "gpt-3.5-turbo-instruct", "max_tokens": 99}),
    "moderations": ("process", {"endpoint": "moderations", "model": "omni-moderation-latest"}),
    "odd parameters": ("process", {"logit_bias": {10: 1, 9: -1, "100": 2}, "temperature": 1e-7, "user": "Zoë\u2028"}),
    "fields": ("process", {"response_format": SHAPE, "repair": 2}),
    "labels": ("label", {"labels": ["a", "b"], "samples": 2}),
    "embed": ("embed", {"model": "text-embedding-3-small"}),
}


def call(df: pd.DataFrame, server: Server, verb: str, **options: Any) -> pd.DataFrame:
    calls = {"process": po.process_dataframe, "label": po.label_dataframe, "embed": po.embed_dataframe}
    with po.Client(server.base_url, max_attempts=1) as client:
        options = {"model": "gpt-4o-mini", "client": client, "progress": False, **options}
        return calls[verb](df, "text", **options)


def received(server: Server) -> int:
    return int(server.stats()["received"])


@pytest.mark.parametrize("name", CALLS)
def test_each_answer_of_a_file_run_is_known(name: str, server: Server, caplog: pytest.LogCaptureFixture) -> None:
    verb, options = CALLS[name]
    df = pd.DataFrame({"text": [f"Row {number} ☃." for number in range(5)]})
    call(df, server, verb, **options)
    sent = received(server)
    out = call(df, server, verb, **{**options, "retry_failed": False})
    assert received(server) == sent
    assert "another request" not in caplog.text
    assert len(out) >= 5


@pytest.mark.parametrize("name", CALLS)
def test_answers_under_swapped_keys_are_not_used(name: str, server: Server, caplog: pytest.LogCaptureFixture) -> None:
    verb, options = CALLS[name]
    df = pd.DataFrame({"text": [f"Row {number}." for number in range(5)]})
    out = call(df, server, verb, **options)
    good = [str(each) for each in out.filter(regex="response|embedding|label$").to_numpy().tolist()]
    path, sent = journal_of(out), received(server)
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    one = next(at for at, line in enumerate(lines) if line[0] != lines[0][0])
    lines[0][3]["key"], lines[one][3]["key"] = lines[one][3]["key"], lines[0][3]["key"]
    path.write_bytes(b"".join(dumps(line) + b"\n" for line in lines))
    out = call(df, server, verb, **options)
    assert received(server) > sent
    assert "line 1 and 1 more hold another request" in caplog.text
    assert [str(each) for each in out.filter(regex="response|embedding|label$").to_numpy().tolist()] == good
    sent = received(server)
    call(df, server, verb, **options)  # what was asked anew is known from then on
    assert received(server) == sent


def test_an_edited_line_is_reported_by_its_number(ask: Verb, server: Server, caplog: pytest.LogCaptureFixture) -> None:
    df = pd.DataFrame({"text": ["one", "two", "three"]})
    path = journal_of(ask(df, "text"))
    lines = path.read_bytes().splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if b'"three"' in line)
    lines[at] = lines[at].replace(b'"three"', b'"four"', 1)
    path.write_bytes(b"".join(lines))
    out = ask(df, "text")
    assert received(server) == 4
    assert f"line {at + 1} holds another request" in caplog.text
    assert out["status"].tolist() == ["succeeded"] * 3


def test_a_sample_of_answers_is_checked_and_all_once_one_is_wrong(tmp_path: Path) -> None:
    def request(number: int, text: str = "Row") -> APIRequest:
        return APIRequest({"model": "m", "messages": [{"role": "user", "content": f"{text} {number}."}]})

    requests, path = [request(number) for number in range(1, 2201)], tmp_path / "a.jsonl"
    with path.open("wb") as file:
        for number, each in enumerate(requests, 1):
            asked = each if number <= 2000 else request(number, "Line")
            asked.key = each.key
            file.write(result_line(Result(asked, "succeeded", {}, raw=b"{}"), record=True) + b"\n")
    known = KnownResults(path)
    assert [known.get(each) is not None for each in requests] == [True] * 2047 + [False] * 153
    known.close()
