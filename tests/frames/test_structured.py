"""Structured answers in a frame: a typed column for each field."""

from __future__ import annotations

import datetime
import enum
import json
from typing import Any, Literal

import pandas as pd
import pytest
from pydantic import BaseModel, Field

import parallel_openai as po
from parallel_openai.errors import ColumnExistsError, InvalidInputError
from parallel_openai.local.simulator import Server
from tests.frames.conftest import Verb, asked, codes


class Mood(enum.Enum):
    GLAD = "glad"
    SAD = "sad"


class Part(BaseModel):
    name: str


class Note(BaseModel):
    who: str
    mood: Mood
    tone: Literal["loud", "quiet"] | None
    score: int = Field(ge=1, le=5)
    weight: float | None
    urgent: bool
    at: datetime.datetime
    parts: list[Part]


CHAT = {"object": "chat.completion", "model": "gpt-4o-mini", "system_fingerprint": "simulated"}
ANSWER = {
    "who": "Ann",
    "mood": "glad",
    "tone": None,
    "score": 4,
    "weight": 2,
    "urgent": False,
    "at": "2026-03-01T12:00:00Z",
    "parts": [{"name": "lamp"}],
}


def says(content: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": content}
    return {"body": {**CHAT, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}}


@pytest.mark.parametrize("endpoint", ["chat.completions", "responses"])
def test_each_field_is_a_column_of_its_own_type(ask: Verb, reviews: pd.DataFrame, endpoint: str) -> None:
    out = ask(reviews, "text", response_format=Note, endpoint=endpoint)
    assert set(out["status"]) == {"succeeded"}
    assert list(out.columns[2:11]) == [*Note.model_fields, "status"]
    kinds = {name: str(out[name].dtype) for name in Note.model_fields}
    assert kinds == {
        "who": "string",
        "mood": "category",
        "tone": "category",
        "score": "Int64",
        "weight": "Float64",
        "urgent": "boolean",
        "at": str(pd.to_datetime(pd.Series([datetime.datetime(2026, 3, 1, tzinfo=datetime.timezone.utc)])).dtype),
        "parts": "object",
    }
    assert list(out["mood"].cat.categories) == list(Mood)
    assert isinstance(out["parts"].iloc[0][0], dict)


def test_the_schema_is_sent_in_strict_mode(ask: Verb, reviews: pd.DataFrame) -> None:
    chat = asked(ask(reviews[:1], "text", response_format=Note))[0]["response_format"]
    assert chat["type"] == "json_schema"
    assert chat["json_schema"]["name"] == "Note"
    assert chat["json_schema"]["strict"] is True
    responses = asked(ask(reviews[:1], "text", response_format=Note, endpoint="responses"))[0]["text"]["format"]
    assert responses == {"type": "json_schema", **chat["json_schema"]}


def test_an_answer_that_does_not_fit_the_schema_fails_and_is_repaired_on_request(
    ask: Verb, reviews: pd.DataFrame, server: Server
) -> None:
    server.script([says(json.dumps({**ANSWER, "score": 9}))], matching="terrible")
    out = ask(reviews, "text", response_format=Note)
    assert codes(out) == [None, "schema_mismatch", None]
    assert "score: Input should be less than or equal to 5" in out["error"].iloc[1]
    assert pd.isna(out["score"].iloc[1])
    server.script([says(json.dumps(ANSWER))], matching="terrible")
    mended = ask(reviews, "text", response_format=Note, repair=True)
    assert codes(mended) == [None, None, None]
    assert mended["score"].iloc[1] == 4


def test_samples_of_structured_answers_give_lists(ask: Verb, reviews: pd.DataFrame) -> None:
    out = ask(reviews, "text", response_format=Note, samples=2)
    assert [len(each) for each in out["who"]] == [2, 2, 2]


def test_known_structured_answers_give_the_same_frame(ask: Verb, reviews: pd.DataFrame, server: Server) -> None:
    first = ask(reviews, "text", response_format=Note)
    again = ask(reviews, "text", response_format=Note)
    assert server.stats()["received"] == 3
    pd.testing.assert_frame_equal(again, first)


def test_clashing_field_names_are_refused_before_anything_is_sent(
    ask: Verb, reviews: pd.DataFrame, server: Server
) -> None:
    class Car(BaseModel):
        model: str

    with pytest.raises(InvalidInputError, match="a field 'model', and each run adds a column of that name"):
        ask(reviews, "text", response_format=Car)
    with pytest.raises(ColumnExistsError, match="'who'"):
        ask(reviews.assign(who="me"), "text", response_format=Note)
    assert "x_who" in ask(reviews.assign(who="me"), "text", response_format=Note, prefix="x_")
    with pytest.raises(InvalidInputError, match="parse= and a response_format="):
        ask(reviews, "text", response_format=Note, parse=str)
    assert server.stats()["received"] == 3


@pytest.mark.filterwarnings("ignore:For fine-tuning")
def test_fine_tuning_exports_structured_answers_as_json(ask: Verb, reviews: pd.DataFrame, server: Server) -> None:
    server.script([says(json.dumps(ANSWER))], matching="wonderful")
    po.to_jsonl(ask(reviews[:1], "text", response_format=Note), "out.jsonl", format="fine-tuning")
    with open("out.jsonl", "rb") as file:
        assert json.loads(json.loads(file.read())["messages"][-1]["content"]) == ANSWER
