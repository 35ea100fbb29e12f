"""`explode=True`: one row for each choice of an answer."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pydantic
import pytest

import parallel_openai as po
from parallel_openai.errors import ColumnExistsError, InvalidInputError
from parallel_openai.local.simulator import Server
from tests.frames.conftest import Verb, codes

TWO = pd.DataFrame({"text": ["Say hi.", None, "Say bye."]}, index=["a", "b", "c"])
BILLED = ["prompt_tokens", "completion_tokens", "cost_usd", "attempts"]


def test_each_choice_is_a_row_and_a_row_without_an_answer_stays_one(ask: Verb) -> None:
    whole = ask(TWO, "text", n=3)
    out = ask(TWO, "text", n=3, explode=True)
    assert out.index.tolist() == ["a"] * 3 + ["b"] + ["c"] * 3
    assert out["choice"].tolist() == [0, 1, 2, pd.NA, 0, 1, 2]
    assert out["response"].dtype == "string"
    assert out["response"].tolist()[:3] == whole["response"]["a"]
    assert out["response"].tolist()[4:] == whole["response"]["c"]
    assert codes(out) == [None] * 3 + ["missing_prompt"] + [None] * 3
    assert out.columns.tolist()[:3] == ["text", "choice", "response"]
    assert out.attrs["parallel_openai"]["restored"] == 2


def test_the_sums_of_exploded_rows_equal_what_was_billed(ask: Verb) -> None:
    whole = ask(TWO, "text", n=3)
    out = ask(TWO, "text", n=3, explode=True)
    pd.testing.assert_series_equal(out[BILLED].sum(), whole[BILLED].sum())
    assert out["prompt_tokens"].dtype == whole["prompt_tokens"].dtype
    assert out["attempts"].tolist() == [1, 0, 0, 0, 1, 0, 0]


def test_lists_made_by_parse_are_not_exploded(ask: Verb, server: Server) -> None:
    choice = {"message": {"content": "[1, 2]"}, "finish_reason": "stop"}
    server.script([{"body": {"model": "m", "choices": [choice]}}])  # a server that does not know n
    out = ask(TWO.head(1), "text", n=2, explode=True, parse=json.loads)
    assert out["response"].tolist() == [[1, 2]]
    assert out["choice"].tolist() == [0]


def test_fields_and_tool_calls_are_exploded_too(ask: Verb) -> None:
    class City(pydantic.BaseModel):
        name: str
        size: int

    out = ask(TWO.head(1), "text", n=2, explode=True, response_format=City)
    assert out["size"].dtype == "Int64"
    assert out["choice"].tolist() == [0, 1]
    tools = [{"type": "function", "function": {"name": "weather", "parameters": City.model_json_schema()}}]
    out = ask(TWO.head(1), "text", n=2, explode=True, tools=tools)
    assert [calls[0]["function"]["name"] for calls in out["tool_calls"]] == ["weather"] * 2


def test_exploded_frames_keep_several_column_levels(ask: Verb) -> None:
    frame = pd.DataFrame({("in", "text"): ["Say hi."]})
    out = ask(frame, ("in", "text"), n=2, explode=True, prefix="x_")
    assert out[("x_choice", "")].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({}, InvalidInputError, "needs n= above 1, not n=None"),
        ({"n": 1}, InvalidInputError, "needs n= above 1, not n=1"),
        ({"n": 2, "samples": 2}, InvalidInputError, "leave out samples="),
    ],
)
def test_explode_without_several_choices_is_refused(
    ask: Verb, options: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        ask(TWO, "text", explode=True, **options)


def test_explode_overwrites_no_column(ask: Verb) -> None:
    with pytest.raises(ColumnExistsError, match="'choice'"):
        ask(TWO.assign(choice=1), "text", n=2, explode=True)


def test_an_exploded_frame_can_be_saved_and_exported(ask: Verb) -> None:
    out = ask(TWO, "text", n=2, explode=True)
    assert po.to_jsonl(out, "out.jsonl") == 5
    po.save(out, "out.parquet")
    assert po.load("out.parquet")["choice"].tolist() == out["choice"].tolist()


def test_a_row_without_any_choice_has_no_number(ask: Verb, server: Server) -> None:
    billed = {"prompt_tokens": 3, "completion_tokens": 0, "total_tokens": 3}  # or it would be asked for again
    server.script([{"body": {"model": "m", "choices": [], "usage": billed}}])
    out = ask(TWO[:1], "text", n=3, explode=True)
    assert codes(out) == ["empty"]
    assert out["choice"].isna().tolist() == [True]
