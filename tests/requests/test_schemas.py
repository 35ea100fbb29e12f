"""Labels and the schema that the API is held to."""

from __future__ import annotations

import enum
from typing import Any

import pytest

from parallel_openai.errors import InvalidInputError
from parallel_openai.requests.schemas import check_labels, label_format, read_label


class Tone(str, enum.Enum):
    GOOD = "positive"
    BAD = "negative"


@pytest.mark.parametrize(
    ("labels", "texts"),
    [
        (["a", "b"], ["a", "b"]),
        ([1, 2.5], ["1", "2.5"]),
        ([True, False], ["True", "False"]),
        (Tone, ["positive", "negative"]),
        ({"b", "a"}, ["a", "b"]),
        ((x for x in "ab"), ["a", "b"]),
    ],
    ids=["texts", "numbers", "bools", "enum", "set", "generator"],
)
def test_labels_have_texts(labels: Any, texts: list[str]) -> None:
    by_text = check_labels(labels)
    assert list(by_text) == texts
    assert {type(text) for text in by_text} == {str}


@pytest.mark.parametrize("labels", ["ab", b"ab", None, 5, [], ["a"], ["a", "a"], ["a", " "], ["a", None]], ids=repr)
def test_labels_that_cannot_work_are_refused(labels: Any) -> None:
    with pytest.raises(InvalidInputError):
        check_labels(labels)


def test_the_schema_is_one_that_strict_mode_takes() -> None:
    told = label_format(["a", "b"])["json_schema"]
    assert told["strict"] is True
    assert told["schema"]["required"] == list(told["schema"]["properties"])
    assert told["schema"]["additionalProperties"] is False


def test_a_label_is_read_back_as_it_was_given() -> None:
    assert read_label('{"label": "positive"}', check_labels(Tone)) is Tone.GOOD


@pytest.mark.parametrize("text", ["", "a", '{"label": "c"}', '{"label": ["a"]}', "[]", "{}", '{"label": "A"}'])
def test_what_is_no_label_is_an_error_with_the_answer(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not JSON|is none of a, b") as error:
        read_label(text, check_labels(["a", "b"]))
    assert repr(text) in str(error.value)
