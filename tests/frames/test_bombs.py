"""Oversized or deeply nested answers, lines and prompts fail their row; memory and the frame are safe."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._journal.entry import KEPT_WHOLE
from parallel_openai._json import MAX_NESTING, MAX_VALUES, JSONTooLargeError, loads, loads_quickly
from parallel_openai.errors import TemplateError
from parallel_openai.local.simulator import Server
from tests.frames.conftest import Verb, codes, journal_of
from tests.frames.test_odd_answers import CHAT, FACES

BESIDE: dict[str, bytes] = {
    "many values": b"[" + b"0," * MAX_VALUES + b"0]",
    "many objects": b"[" + b"{}," * (MAX_VALUES // 5) + b"0]",
    "700 levels": b"[" * 700 + b"]" * 700,
    "1,023 levels": b'{"a":' * 1022 + b"0" + b"}" * 1022,
    "100,000 levels": b"[" * 100_000 + b"]" * 100_000,
    "levels and NaN": b"[" * 700 + b"NaN" + b"]" * 700,
}


def beside(answer: dict[str, Any], junk: bytes) -> bytes:
    return json.dumps(answer).encode()[:-1] + b',"junk":' + junk + b"}"


def call(verb: str, df: pd.DataFrame, server: Server, **options: Any) -> pd.DataFrame:
    calls = {"process": po.process_dataframe, "label": po.label_dataframe, "embed": po.embed_dataframe}
    with po.Client(server.base_url, max_attempts=1) as client:
        options = {"model": "gpt-4o-mini", "client": client, "progress": False, **options}
        return calls[verb](df, "text", **options)


@pytest.mark.parametrize("bomb", BESIDE)
def test_a_huge_or_deeply_nested_answer_fails_only_its_row(bomb: str, server: Server) -> None:
    df = pd.DataFrame({"text": ["bomb", "two", "three"]})
    server.script([{"body": beside(CHAT, BESIDE[bomb])}], matching="bomb")
    out = call("process", df, server)
    assert codes(out) == ["response_too_large", None, None]
    assert out["error"][0].startswith("The answer was not read: it")
    assert journal_of(out).stat().st_size < 10_000


@pytest.mark.parametrize("face", FACES)
def test_a_deeply_nested_answer_fails_only_its_row_in_every_function(face: str, server: Server) -> None:
    verb, body, options = FACES[face]
    deep = beside(body, BESIDE["700 levels"])
    df = pd.DataFrame({"text": ["deep", "good"]})
    server.script([{"body": deep}] * 2, matching="deep")
    server.script([{"body": json.dumps(body).encode()}] * 2, matching="good")
    out = call(verb, df, server, **options)
    assert set(out.loc[out["text"] == "good", "status"]) == {"succeeded"}
    assert set(codes(out)) == {"response_too_large", None}


def test_a_decompression_bomb_is_not_parsed_into_objects(server: Server) -> None:
    packed = gzip.compress(beside(CHAT, b"[" + b"{}," * 15_000_000 + b"0]"))
    assert len(packed) < 100_000
    server.script([{"body": packed, "headers": {"Content-Encoding": "gzip"}}])
    out = call("process", pd.DataFrame({"text": ["bomb"]}), server)
    assert codes(out) == ["response_too_large"]


def test_unknown_fields_of_a_long_answer_are_not_kept(server: Server) -> None:
    server.script([{"body": beside(CHAT, json.dumps("x" * 2 * KEPT_WHOLE).encode())}])
    df = pd.DataFrame({"text": ["long"]})
    out = call("process", df, server)
    line = json.loads(journal_of(out).read_bytes())
    assert line[1] == {**CHAT, "left_out": ["junk"]}
    assert call("process", df, server)["response"].tolist() == out["response"].tolist()


def test_an_answers_own_fields_are_kept_however_long(server: Server) -> None:
    text = "x" * 2 * KEPT_WHOLE
    answer = {**CHAT, "choices": [{"message": {"content": text}, "finish_reason": "stop"}]}
    server.script([{"body": json.dumps(answer).encode()}])
    out = call("process", pd.DataFrame({"text": ["long"]}), server)
    assert out["response"].tolist() == [text]
    assert json.loads(journal_of(out).read_bytes())[1] == answer


def test_an_error_with_a_huge_body_is_still_an_error(server: Server) -> None:
    server.script([{"status": 400, "body": beside({"error": {"message": "No."}}, BESIDE["many values"])}])
    out = call("process", pd.DataFrame({"text": ["bomb"]}), server)
    assert codes(out) == ["http_400"]


@pytest.mark.parametrize("read", [loads, loads_quickly])
def test_the_deepest_allowed_nesting_is_read_and_a_deeper_one_is_not(read: Any) -> None:
    deep = "[" * MAX_NESTING + "]" * MAX_NESTING
    assert json.dumps(read(deep)) == json.dumps(read(deep.encode())) == deep
    for text in (f"[{deep}]", f'{{"a":{deep}}}', f"[{'9' * 30},{deep}]"):
        with pytest.raises(JSONTooLargeError, match="200 levels"):
            read(text)
    assert read(json.dumps(["[" * 1000, {"a": "{" * 1000}]))  # marks in a text are no levels


def test_an_extremely_nested_line_of_a_journal_counts_as_damaged(ask: Verb, server: Server) -> None:
    df = pd.DataFrame({"text": ["one", "two"]})
    path = journal_of(ask(df, "text"))
    lines = path.read_bytes().splitlines(keepends=True)
    deep = b'"usage":' + BESIDE["700 levels"] + b","
    path.write_bytes(lines[0].replace(b'"choices":', deep + b'"choices":', 1) + lines[1])
    out = ask(df, "text")
    assert out["status"].tolist() == ["succeeded"] * 2


def test_an_extremely_nested_body_is_not_sent(ask: Verb) -> None:
    deep: Any = []
    for _ in range(MAX_NESTING):
        deep = [deep]
    df = pd.DataFrame({"body": [{"model": "m", "messages": [], "tools": deep}, {"messages": []}]}, dtype=object)
    assert codes(ask(df, "body"))[0] == "invalid_prompt"


@pytest.mark.parametrize("spec", [".99999999f", ">99999999", "0100001d", "*^9999999999"])
def test_an_oversized_prompt_is_refused_with_a_message(ask: Verb, server: Server, spec: str) -> None:
    with pytest.raises(TemplateError, match="longer than 100,000 characters"):
        ask(pd.DataFrame({"n": [1]}), f"Say {{n:{spec}}}")
    assert server.stats()["received"] == 0


def test_a_format_width_of_some_hundred_characters_works(ask: Verb, tmp_path: Path) -> None:
    out = ask(pd.DataFrame({"n": [1.5]}), "Say {n:>300.2f}", save_to=tmp_path / "a.jsonl")
    assert "1.50" in json.loads((tmp_path / "a.jsonl").read_text())[0]["messages"][0]["content"]
    assert codes(out) == [None]
