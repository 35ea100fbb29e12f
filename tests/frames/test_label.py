"""`label_dataframe`: each row gets one label of the set, or an error."""

from __future__ import annotations

import asyncio
import enum
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai.errors import ColumnExistsError, InvalidInputError
from parallel_openai.local.simulator import Server
from tests.frames.conftest import Verb, asked, codes

STEPS = pd.Categorical(["lo", "hi"], ["lo", "hi"], ordered=True)


class Tone(enum.Enum):
    GOOD = "positive"
    BAD = "negative"


class TextTone(str, enum.Enum):
    GOOD = "positive"
    BAD = "negative"


class Grade(enum.IntEnum):
    GOOD = 1
    BAD = 0


def says(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"body": {"model": "m", "choices": [{"message": message, "finish_reason": "stop"}]}}


def test_each_row_gets_its_label(label: Verb, reviews: pd.DataFrame) -> None:
    out = label(reviews, "{text}", labels=["positive", "negative"])
    assert out["label"].tolist() == ["positive", "negative", "positive"]
    assert "response" not in out


def test_the_labels_are_a_categorical_in_the_order_they_were_given(label: Verb, reviews: pd.DataFrame) -> None:
    labels = ["unclear", "positive", "negative"]
    kind = label(reviews, "{text}", labels=labels)["label"].dtype
    assert isinstance(kind, pd.CategoricalDtype)
    assert (kind.categories.tolist(), kind.ordered) == (labels, False)


@pytest.mark.parametrize("of", [Tone, TextTone], ids=["enum", "enum of texts"])
def test_members_of_an_enum_come_back_as_members(label: Verb, reviews: pd.DataFrame, of: Any) -> None:
    out = label(reviews, "{text}", labels=of)
    assert [type(each) for each in out["label"]] == [of] * 3
    assert out["label"].tolist() == [of.GOOD, of.BAD, of.GOOD]


@pytest.mark.parametrize(
    ("labels", "kind"),
    [([1, 2, 3], int), ([0.5, 1.5], float), ([True, False], bool), (Grade, Grade), (np.array([1, 2]), int)],
    ids=["ints", "floats", "bools", "int enum", "array"],
)
def test_labels_come_back_as_they_were_given(label: Verb, reviews: pd.DataFrame, labels: Any, kind: type) -> None:
    out = label(reviews, "{text}", labels=labels)
    assert set(out["label"]) <= set(labels)
    assert {type(each) for each in out["label"].tolist()} == {kind}


@pytest.mark.parametrize(
    "labels",
    [("a", "b"), {"a": "first", "b": None}, pd.Series(["a", "b"]), iter(["a", "b"])],
    ids=["tuple", "dict", "s", "it"],
)
def test_labels_may_be_any_collection(label: Verb, reviews: pd.DataFrame, labels: Any) -> None:
    assert label(reviews, "{text}", labels=labels)["label"].cat.categories.tolist() == ["a", "b"]


def test_a_set_of_labels_has_the_same_order_in_every_process(label: Verb, reviews: pd.DataFrame) -> None:
    assert label(reviews, "{text}", labels=set("dcba"))["label"].cat.categories.tolist() == list("abcd")


@pytest.mark.parametrize(
    ("one", "other", "order"),
    [
        (pd.Series(list("bab")).unique(), pd.Series(list("aab")).unique(), ["a", "b"]),
        (pd.Series([10, 9]).unique(), pd.Series([9, 10]).unique(), [9, 10]),
        (pd.Index(["b", "a"]), pd.Series(["a", "b"]), ["a", "b"]),
        (pd.Series(["b", "a"], dtype="category").unique(), {"a", "b"}, ["a", "b"]),
        (STEPS, STEPS[::-1], ["lo", "hi"]),
    ],
    ids=["texts", "numbers", "index and series", "categorical and set", "ordered"],
)
def test_labels_in_another_order_of_discovery_send_nothing_again(
    label: Verb, reviews: pd.DataFrame, server: Server, one: Any, other: Any, order: list[Any]
) -> None:
    first, again = (label(reviews, "{text}", labels=labels) for labels in (one, other))
    assert server.stats()["received"] == len(reviews)
    assert first["label"].cat.categories.tolist() == again["label"].cat.categories.tolist() == order


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ("positive", "must be a list such as"),
        (5, "must be a list such as"),
        ([], "at least two"),
        (["only"], "at least two"),
        ([("a", "b"), ("c", "d")], "a single value such as 'a, b'"),
        ({("a",): "one", ("b",): "two"}, "a single value"),
        ([frozenset("a"), frozenset("b")], "a single value"),
        (["a", "a"], "'a' occurs twice"),
        ([1, "1"], "'1' occurs twice"),
        (["a", ""], "must not be empty"),
        (["a", None], "must not be missing"),
        (["a", float("nan")], "must not be missing"),
        (["a", pd.NA], "must not be missing"),
        ([1, True], "The label True equals another one"),
        ([0, -0.0], "The label -0.0 equals another one"),
        ([1.0, float("inf")], "must not be missing or infinite"),
        (enum.Enum("Tone", {"GOOD": "good", "NONE": None}), "must not be missing"),
        (str, "labels must be a list such as"),
        (NamedTuple("Pair", [("a", bool), ("b", bool)]), "labels must be a list such as"),
        ([["a"], ["b"]], "a single value"),
    ],
    ids=str,
)
def test_invalid_labels_are_refused_before_anything_is_sent(
    label: Verb, reviews: pd.DataFrame, server: Server, labels: Any, sentence: str
) -> None:
    with pytest.raises(InvalidInputError, match=sentence):
        label(reviews, "{text}", labels=labels)
    assert server.stats()["received"] == 0


def test_the_labels_are_in_the_schema_and_in_the_system_message(label: Verb, reviews: pd.DataFrame) -> None:
    body = asked(label(reviews, "{text}", labels=["a {b}", "c"]))[0]
    schema = body["response_format"]["json_schema"]
    assert (schema["strict"], schema["schema"]["properties"]["label"]["enum"]) == (True, ["a {b}", "c"])
    assert body["messages"][0]["content"].startswith("Choose the label that fits the text best: a {b}, c. ")


def test_the_callers_system_message_replaces_the_default_one(label: Verb, reviews: pd.DataFrame) -> None:
    body = asked(label(reviews, "{text}", labels=["a", "b"], system="Stars: {stars}"))[0]
    assert body["messages"][0]["content"] == "Stars: 5"


def test_parameters_go_into_the_body_and_none_is_set_unasked(label: Verb, reviews: pd.DataFrame) -> None:
    body = asked(label(reviews, "{text}", labels=["a", "b"], seed=1))[0]
    assert body.keys() == {"model", "messages", "response_format", "seed"}


@pytest.mark.parametrize(
    "answer",
    ['{"label": "other"}', '{"label": 1}', '{"label": null}', '{"labels": "a"}', '["a"]', '"a"', "positive", "{"],
)
def test_an_answer_that_is_none_of_the_labels_fails_with_a_missing_label(
    label: Verb, server: Server, answer: str
) -> None:
    server.script([says(answer)], matching="second")
    out = label(pd.DataFrame({"text": ["first", "second"]}), "text", labels=["positive", "negative"])
    assert codes(out) == [None, "off_label"]
    assert pd.isna(out["label"][1])
    assert answer in out["error"][1]


@pytest.mark.parametrize(
    ("fault", "code"),
    [("refusal", "refused"), ("empty", "empty"), ("length", "truncated"), ("off_schema", "off_label")],
)
def test_a_response_without_an_answer_gives_no_label(
    label: Verb, reviews: pd.DataFrame, server: Server, fault: str, code: str
) -> None:
    server.set(**{f"fault_{fault}": 1})
    out = label(reviews, "{text}", labels=["a", "b"])
    assert out["label"].isna().all()
    assert out["error_code"].tolist() == [code] * 3


def test_label_dataframe_refuses_response_format(label: Verb, reviews: pd.DataFrame) -> None:
    with pytest.raises(InvalidInputError, match="use process_dataframe"):
        label(reviews, "{text}", labels=["a", "b"], response_format={"type": "text"})


def test_an_existing_label_column_needs_a_prefix(label: Verb, reviews: pd.DataFrame) -> None:
    gold = reviews.assign(label=["positive", "negative", "positive"])
    with pytest.raises(ColumnExistsError, match="'label'"):
        label(gold, "{text}", labels=["positive", "negative"])
    out = label(gold, "{text}", labels=["positive", "negative"], prefix="model_")
    assert out["model_label"].tolist() == out["label"].tolist()


def test_alabel_dataframe_gives_the_same_result(client: po.Client, reviews: pd.DataFrame) -> None:
    options: dict[str, Any] = {"labels": ["a", "b"], "model": "gpt-4o-mini", "client": client, "progress": False}
    awaited = asyncio.run(po.alabel_dataframe(reviews, "text", **options))
    pd.testing.assert_frame_equal(awaited, po.label_dataframe(reviews, "text", **options))


def test_several_choices_of_a_label_are_refused_before_they_are_paid_for(label: Verb, reviews: pd.DataFrame) -> None:
    with pytest.raises(InvalidInputError, match="use samples="):
        label(reviews, "{text}", labels=["a", "b"], n=2)
