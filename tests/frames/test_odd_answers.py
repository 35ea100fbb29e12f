"""Numbers and structures of any kind in answers: each row gets a status, and the frame is completed."""

from __future__ import annotations

import copy
import datetime
import decimal
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pandas as pd
import pytest
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    HttpUrl,
    SecretStr,
    create_model,
    field_serializer,
    field_validator,
    model_validator,
)

import parallel_openai as po
from parallel_openai._frames.columns.field_columns import structured_reader
from parallel_openai._requests.endpoints import CHAT as CHAT_ENDPOINT
from parallel_openai._requests.schemas.structured_outputs import structure_of
from parallel_openai.local.simulator import Server
from tests.frames.conftest import Verb, codes

ODD: list[Any] = [None, True, -1, 2**63, 10**400, float("nan"), "text", [], {}, {"a": [1]}]
NUMBERS = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}
TOP = [{"token": '"a"', "logprob": -0.1, "bytes": None}]
TOKENS = [
    {"token": '{"label": ', "logprob": -0.1, "bytes": [123], "top_logprobs": []},
    {"token": '"a"', "logprob": -0.1, "bytes": None, "top_logprobs": TOP},
]
CHAT: dict[str, Any] = {
    "id": "1",
    "created": 1,
    "model": "gpt-4o-mini",
    "service_tier": "default",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": '{"label": "a"}', "refusal": None},
            "finish_reason": "stop",
            "logprobs": {"content": TOKENS},
        }
    ],
    "usage": NUMBERS,
}
PART = {"type": "output_text", "text": '{"label": "a"}', "logprobs": TOKENS}
RESPONSES: dict[str, Any] = {
    "model": "gpt-4o-mini",
    "status": "completed",
    "incomplete_details": {"reason": "x"},
    "output": [{"type": "message", "content": [PART]}],
    "usage": {"input_tokens": 9, "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 1}},
}
COMPLETION = {"model": "gpt-4o-mini", "choices": [{"text": "Hi.", "finish_reason": "stop"}], "usage": NUMBERS}
EMBEDDING = {"model": "e", "data": [{"index": 0, "embedding": [0.5, 1.0]}], "usage": {"prompt_tokens": 2}}
MODERATION = {"model": "m", "results": [{"flagged": False, "category_scores": {"harm": 0.1}}]}
SCHEMA = {"type": "object", "properties": {"label": {"type": ["integer", "number", "string", "array", "object"]}}}

FACES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "chat": ("process", CHAT, {}),
    "samples": ("process", CHAT, {"samples": 2}),
    "choices": ("process", CHAT, {"n": 2}),
    "fields": ("process", CHAT, {"response_format": SCHEMA}),
    "parsed": ("process", CHAT, {"parse": json.loads}),
    "labels": ("label", CHAT, {"labels": ["a", "b"], "confidence": "logprobs"}),
    "labels of responses": ("label", RESPONSES, {"labels": ["a", "b"], "endpoint": "responses"}),
    "responses": ("process", RESPONSES, {"endpoint": "responses"}),
    "completions": ("process", COMPLETION, {"endpoint": "completions"}),
    "embeddings": ("process", EMBEDDING, {"endpoint": "embeddings"}),
    "moderations": ("process", MODERATION, {"endpoint": "moderations"}),
    "embed": ("embed", EMBEDDING, {"rows_per_request": 1}),
}


def places(value: Any) -> Iterator[tuple[Any, ...]]:
    """Each place in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in inner:
        yield (name,)
        yield from ((name, *rest) for rest in places(each))


def with_odd(body: dict[str, Any], place: tuple[Any, ...], odd: Any) -> bytes:
    made = copy.deepcopy(body)
    at: Any = made
    for name in place[:-1]:
        at = at[name]
    at[place[-1]] = odd
    return json.dumps(made).encode()


@pytest.mark.parametrize("face", FACES)
def test_no_answer_whatever_its_content_loses_the_frame(face: str, server: Server) -> None:
    verb, body, options = FACES[face]
    bodies = [with_odd(body, place, odd) for place in places(body) for odd in ODD]
    server.script([{"body": each} for each in bodies])
    client = po.Client(server.base_url, max_attempts=1, max_concurrent_requests=64)
    df = pd.DataFrame({"text": [f"row {number}" for number in range(len(bodies))]})
    calls = {"process": po.process_dataframe, "label": po.label_dataframe, "embed": po.embed_dataframe}
    options = {"model": "gpt-4o-mini", "client": client, "progress": False, **options}
    out = calls[verb](df, "text", **options)
    assert set(out["status"]) <= {"succeeded", "failed"}
    assert (out["status"] == "succeeded").any()
    again = calls[verb](df, "text", **options)
    kept = out["status"] == "succeeded"
    assert set(again.loc[kept, "status"]) == {"succeeded"}


#: What a field of an answer's JSON may hold, as it is written there.
WRITTEN = [
    *("9223372036854775807", "9223372036854775808", "-9223372036854775809", "89490200001234567891"),
    *("9007199254740993", "1", "1.0", "1.5", "-0", "1e30", "1e400", "NaN", "-Infinity", "true", "null"),
    *('""', '"a"', '"\\ud800"', "[]", "{}", '{"a": [1, 2.5]}', "[" * 900 + "]" * 900, "1" * 5000),
    *('"2026-03-01T12:00:00Z"', '"9999-12-31T23:59:59+14:00"'),
]
KINDS: list[Any] = [
    {"type": "integer"},
    {"type": "number"},
    {"type": ["integer", "null"]},
    {"type": "boolean"},
    {"type": "string", "format": "date-time"},
    {"enum": [1, True, 1.0, "a", None]},
    {"enum": [[], {}]},
    {"type": ["string", "integer", "number"]},
    True,
    int,
    float,
    decimal.Decimal,
    datetime.datetime,
    datetime.timedelta,
    Literal["a", 1],
    Any,
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_any_answer_can_be_stored_in_a_column_without_rounding_integers(kind: Any) -> None:
    if isinstance(kind, (dict, bool)):
        shape = {"type": "object", "properties": {"i": kind}, "required": ["i"]}
    else:
        shape = create_model("Shape", i=(kind, ...))
    structure = structure_of(shape)
    assert structure is not None
    reader = structured_reader(CHAT_ENDPOINT, structure)
    texts = [f'{{"i": {each}}}' for each in WRITTEN]
    readings = [reader.reading({"choices": [{"message": {"content": text}}]}) for text in texts]
    assert {each.error_code for each in readings} <= {None, "schema_mismatch"}
    for one in readings:
        for others in ([], [readings[5]], readings):
            columns = reader.columns([each.value for each in (one, *others)], [None] * (1 + len(others)))
            assert len(columns["i"]) == 1 + len(others)
            cell = columns["i"][0]
            if one.value is not None and isinstance(one.value["i"], int):
                assert int(cell) == one.value["i"]


def says(content: str) -> dict[str, Any]:
    return {"body": {**CHAT, "choices": [{"message": {"content": content}, "finish_reason": "stop"}]}}


@pytest.mark.parametrize(
    "numbers", [[2**63], [1, 2**63, 1], [89490200001234567891, 5], [2**53 + 1, 0.5], [1, 2]], ids=str
)
@pytest.mark.parametrize("kind", ["integer", "number"])
def test_whole_numbers_are_exact_in_a_frame(ask: Verb, server: Server, numbers: list[Any], kind: str) -> None:
    shape = {"type": "object", "properties": {"i": {"type": kind}}, "required": ["i"]}
    df = pd.DataFrame({"text": [f"row {number}" for number in range(len(numbers))]})
    for number, each in enumerate(numbers):
        server.script([says(json.dumps({"i": each}))], matching=f"row {number}")
    for _ in range(2):  # the second time from the journal
        out = ask(df, "text", response_format=shape)
        if kind == "number" or all(isinstance(each, int) for each in numbers):
            assert codes(out) == [None] * len(numbers)
            assert out["i"].tolist() == numbers
    parsed = ask(df, "text", parse=lambda text: json.loads(text)["i"], save_to=out.attrs["parallel_openai"]["journal"])
    assert len(parsed) == len(numbers)


def test_an_exception_in_a_validator_fails_its_row(ask: Verb, reviews: pd.DataFrame) -> None:
    class Strange(BaseModel):
        about: str

        @field_validator("about")
        @classmethod
        def _check(cls, value: str) -> str:
            raise KeyError(value)

    out = ask(reviews, "text", response_format=Strange)
    assert codes(out) == ["parse_error"] * 3
    assert "The class raised KeyError" in out["error"][0]


@pytest.mark.parametrize("verb", ["process", "label"])
@pytest.mark.parametrize("repair", [False, True])
def test_a_bug_in_a_validator_never_causes_another_request(
    server: Server, client: po.Client, reviews: pd.DataFrame, verb: str, repair: bool
) -> None:
    class Mood(BaseModel):
        mood: Literal["good", "bad"]
        has_bug: ClassVar[bool] = True

        @model_validator(mode="after")
        def _check(self) -> Mood:
            if self.has_bug:
                raise RuntimeError("no attribute")
            return self

    options: dict[str, Any] = {"model": "gpt-4o-mini", "repair": repair, "client": client, "progress": False}

    def ask() -> pd.DataFrame:
        if verb == "label":
            return po.label_dataframe(reviews, "text", labels=Mood, **options)
        return po.process_dataframe(reviews, "text", response_format=Mood, **options)

    for _ in range(2):
        out = ask()
        assert codes(out) == ["parse_error"] * 3
        assert out["error"].tolist() == ["The class raised RuntimeError: no attribute"] * 3
    Mood.has_bug = False
    assert ask()["mood"].isin(["good", "bad"]).all()
    assert server.stats()["received"] == 3


def test_values_that_a_class_converts_from_a_choice_are_kept(ask: Verb, reviews: pd.DataFrame) -> None:
    class Loud(BaseModel):
        tone: Literal["loud", "quiet"]

        @field_serializer("tone")
        def _loudly(self, value: str) -> str:
            return value.upper()

    assert set(ask(reviews, "text", response_format=Loud)["tone"]) <= {"LOUD", "QUIET"}


def test_integers_beyond_64_bits_are_exact_in_the_journal_and_in_files(server: Server, client: po.Client) -> None:
    ids = [89490200001234567891, 89490200001234567892, -(2**63) - 1]
    df = pd.DataFrame({"id": pd.Series(ids, dtype=object), "text": ["a", "b", "c"]})
    out = po.process_dataframe(df, "text", model="m", metadata="id", client=client, save_to="j.jsonl", progress=False)
    assert out["id"].tolist() == ids
    assert sorted(each["id"] for each in po.read_journal("j.jsonl")["metadata"]) == sorted(ids)
    lines = [{"model": "m", "messages": [{"role": "user", "content": "Hi."}], "metadata": each} for each in ids]
    pathlib.Path("in.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    for _ in range(2):
        po.process_api_requests_from_file("in.jsonl", "out.jsonl", client=client, progress=False)
        results = [json.loads(line) for line in pathlib.Path("out.jsonl").read_text().splitlines()]
        assert sorted(each[2] for each in results) == sorted(ids)
    assert sorted(po.read_journal("out.jsonl")["metadata"]) == sorted(ids)


def test_token_counts_of_any_size_are_added_up(ask: Verb, server: Server, client: po.Client) -> None:
    most, df = 2**60, pd.DataFrame({"text": ["a"]})
    usage = {"prompt_tokens": 10**30, "completion_tokens": 1}
    server.script([{"body": {**CHAT, "usage": usage}}] * 2)
    shape = {"type": "object", "properties": {"other": {"type": "string"}}, "required": ["other"]}
    out = ask(df, "text", response_format=shape, repair=1)
    assert out["prompt_tokens"].tolist() == [2 * most]
    server.script([{"body": {**EMBEDDING, "usage": {"prompt_tokens": 10**30}}}])
    embedded = po.embed_dataframe(df, "text", model="e", client=client, progress=False)
    assert embedded["prompt_tokens"].tolist() == [most]


def test_an_unforeseen_answer_fails_its_row(label: Verb, reviews: pd.DataFrame, server: Server) -> None:
    server.script([says('{"label": ' + "[" * 900 + "]" * 900 + "}")], matching="terrible")
    out = label(reviews, "text", labels=["a", "b"])
    assert codes(out) == [None, "off_label", None]
    assert out["error"][1].startswith("The answer is not JSON like")


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")


MADE_OF_TEXTS: dict[str, tuple[Any, str, Callable[[Any], bool]]] = {
    "bytes that are no text": (bytes, "_w==", lambda cell: cell == b"\xff"),
    "a secret": (SecretStr, "abc", lambda cell: cell.get_secret_value() == "abc"),
    "a long array": (Annotated[str, AfterValidator(lambda _: np.arange(2000))], "a", lambda cell: len(cell) == 2000),
    "a frame": (Annotated[str, AfterValidator(lambda _: pd.DataFrame({"a": [1]}))], "a", lambda cell: len(cell) == 1),
    "a number": (Annotated[str, AfterValidator(len)], "abc", lambda cell: cell == 3),
    "what has no text": (Annotated[str, AfterValidator(lambda _: Unprintable())], "a", lambda cell: True),
    "a path": (pathlib.Path, "/a", lambda cell: cell == "/a"),
    "an address": (HttpUrl, "http://a.b/", lambda cell: cell == "http://a.b/"),
}


@pytest.mark.parametrize("kind", MADE_OF_TEXTS)
def test_values_that_a_class_converts_from_a_string_are_kept(
    ask: Verb, reviews: pd.DataFrame, server: Server, kind: str
) -> None:
    field, text, is_whole = MADE_OF_TEXTS[kind]
    shape = create_model("Made", x=(field, ...), __config__=ConfigDict(val_json_bytes="base64"))
    server.script([says(json.dumps({"x": text}))] * len(reviews))
    out = ask(reviews, "text", response_format=shape)
    assert set(out["status"]) == {"succeeded"}
    assert all(map(is_whole, out["x"]))


@pytest.mark.parametrize("status", ["failed", "cancelled", "in_progress", "queued"])
def test_a_partial_answer_is_no_answer(ask: Verb, server: Server, status: str) -> None:
    server.script([{"body": {**RESPONSES, "status": status}}])
    out = ask(pd.DataFrame({"text": ["a"]}), "text", endpoint="responses")
    sent_again = status in ("failed", "cancelled")
    assert out["attempts"].tolist() == [2 if sent_again else 1]
    assert codes(out) == [None if sent_again else "unfinished"]


@pytest.mark.parametrize("endpoint", ["chat.completions", "completions"])
def test_choices_are_ordered_by_their_index(ask: Verb, server: Server, endpoint: str) -> None:
    choices = [
        {"index": number, "text": text, "message": {"content": text}, "finish_reason": "stop"}
        for number, text in ((2, "third"), (0, "first"), (1, "second"))
    ]
    server.script([{"body": {**CHAT, "choices": choices}}])
    out = ask(pd.DataFrame({"text": ["a"]}), "text", endpoint=endpoint, n=3, explode=True)
    assert out["response"].tolist() == ["first", "second", "third"]
