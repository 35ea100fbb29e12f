"""Labels, the schema that is sent for them, and reading answers back."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict

import pytest
from pydantic import BaseModel, Field, model_validator

from parallel_openai._requests.schemas.label_models import checker, label_fields
from parallel_openai._requests.schemas.label_schema import (
    LabelField,
    check_labels,
    check_scale,
    label_format,
    label_instruction,
    read_answer,
    write_answer,
)
from parallel_openai.errors import InvalidInputError
from parallel_openai.local.simulator.checks import bodies as checks


class Tone(str, enum.Enum):
    GOOD = "positive"
    BAD = "negative"


class Mail(BaseModel):
    tone: Tone
    topics: list[Literal["order", "refund"]] = Field(description="what it is about")
    urgency: Annotated[int, Field(ge=1, le=3)]
    is_spam: bool
    gist: str

    @model_validator(mode="after")
    def spam_is_not_urgent(self) -> Mail:
        if self.is_spam and self.urgency > 1:
            raise ValueError("spam is not urgent")
        return self


@dataclass
class MailData:
    tone: Tone
    urgency: Annotated[int, Field(ge=1, le=3, description="how soon")]


class MailDict(TypedDict):
    tone: Tone
    topics: list[Literal["order", "refund"]]


def field(labels: Any, kind: Any = "one") -> LabelField:
    return LabelField("label", kind, *check_labels(labels))


@pytest.mark.parametrize(
    ("labels", "texts"),
    [
        (["a", "b"], ["a", "b"]),
        ([1, 2.5], ["1", "2.5"]),
        ([True, False], ["True", "False"]),
        (Tone, ["positive", "negative"]),
        ({"b", "a"}, ["a", "b"]),
        ((x for x in "ab"), ["a", "b"]),
        ({"b": "second", "a": None}, ["b", "a"]),
        (['say "hi"', "Ä\n"], ['say "hi"', "Ä\n"]),
    ],
    ids=["texts", "numbers", "bools", "enum", "set", "generator", "described", "odd"],
)
def test_labels_of_any_type_have_strings(labels: Any, texts: list[str]) -> None:
    assert field(labels).texts == texts


@pytest.mark.parametrize(
    "labels", ["ab", b"ab", None, 5, [], ["a"], ["a", "a"], ["a", " "], ["a", None], {"a": 1, "b": 2}], ids=repr
)
def test_invalid_labels_are_refused(labels: Any) -> None:
    with pytest.raises(InvalidInputError):
        check_labels(labels)


@pytest.mark.parametrize("scale", [(1,), (5, 1), (1, 1), (0, 101), (1.0, 5), "15", 5, (True, 5)], ids=repr)
def test_an_invalid_scale_is_refused(scale: Any) -> None:
    with pytest.raises(InvalidInputError, match="such as \\(1, 5\\)"):
        check_scale(scale)


@pytest.mark.parametrize("labels", [["bad", "good"], {0: "bad"}, {"1": "bad"}], ids=repr)
def test_a_scale_describes_only_its_own_scores(labels: Any) -> None:
    with pytest.raises(InvalidInputError, match="may only describe scores"):
        check_scale((1, 5), labels)


ASKED = {
    "one": [field(["a", "b"])],
    "several": [field(["a", "b"], "several")],
    "score": [check_scale((1, 5))],
    "model": label_fields(Mail),
    "dataclass": label_fields(MailData),
    "typed dict": label_fields(MailDict),
}


@pytest.mark.parametrize("explain", [False, True])
@pytest.mark.parametrize("asked", ASKED)
def test_the_schema_of_labels_is_accepted_by_strict_mode(asked: str, explain: bool) -> None:
    told = label_format(ASKED[asked], explain=explain)["json_schema"]
    assert told["strict"] is True
    checks.strict_schema("label", told["schema"])
    assert (next(iter(told["schema"]["properties"])) == "reason") is explain


@pytest.mark.parametrize("labels", [[f"code {n}" for n in range(1_001)], [f"{n:060}" for n in range(251)]])
def test_too_many_labels_for_strict_mode_are_sent_without_it(
    labels: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    for kind in ("one", "several"):
        assert label_format([field(labels, kind)])["json_schema"]["strict"] is False
    assert "without strict mode" in caplog.text
    assert label_format([field(labels[:250])])["json_schema"]["strict"] is True


@pytest.mark.parametrize(
    ("fields", "answer", "values"),
    [
        ([field(Tone)], '{"label": "positive"}', {"label": Tone.GOOD}),
        ([field(["a", "b", "c"], "several")], '{"label": ["c", "a", "c"]}', {"label": ["a", "c"]}),
        ([field(["a", "b"], "several")], '{"label": []}', {"label": []}),
        ([check_scale((0, 10))], '{"score": 10}', {"score": 10}),
        (
            label_fields(Mail),
            '{"tone":"negative","topics":["refund"],"urgency":2,"is_spam":false,"gist":"Money back."}',
            {"tone": Tone.BAD, "topics": ["refund"], "urgency": 2, "is_spam": False, "gist": "Money back."},
        ),
    ],
    ids=["one", "several", "none", "score", "model"],
)
def test_answers_become_labels_of_the_given_types(fields: Any, answer: str, values: Any) -> None:
    assert read_answer(answer, fields)[1] == values
    assert read_answer(write_answer(fields, values), fields)[1] == values


@pytest.mark.parametrize("text", ["", "a", '{"label": "c"}', '{"label": ["a"]}', "[]", "{}", '{"label": "A"}'])
def test_an_off_label_answer_is_an_error_that_quotes_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not JSON|is no JSON object|is none of a, b") as error:
        read_answer(text, [field(["a", "b"])])
    assert repr(text) in str(error.value)


@pytest.mark.parametrize(
    ("fields", "answer", "sentence"),
    [
        ([field(["a", "b"], "several")], '{"label": "a"}', "The answer is no list"),
        ([field(["a", "b"], "several")], '{"label": ["a", "c"]}', "The answer is none of a, b"),
        ([check_scale((1, 5))], '{"score": 6}', "The answer is none of 1, 2, 3, 4, 5"),
        ([check_scale((1, 5))], '{"score": "5"}', "is none of"),
        ([check_scale((0, 1))], '{"score": true}', "is none of"),
        (label_fields(MailDict), '{"tone": "positive"}', "topics in the answer is no list"),
        (label_fields(Mail)[-1:], '{"gist": 5}', "is no text"),
    ],
    ids=["no list", "off list", "off scale", "score as text", "bool as score", "missing field", "no text"],
)
def test_an_answer_without_the_label_field_is_an_error(fields: Any, answer: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_answer(answer, fields)


def test_the_class_itself_checks_the_values() -> None:
    good = {"tone": Tone.BAD, "topics": [], "urgency": 1, "is_spam": True, "gist": ""}
    checker(Mail)(good)
    with pytest.raises(ValueError, match=r"Mail does not take the answer: Value error, spam is not urgent$"):
        checker(Mail)({**good, "urgency": 3})


class Nothing(BaseModel):
    pass


class Free(BaseModel):
    score: float


class Unbounded(BaseModel):
    score: int


class Aliased(BaseModel):
    tone: Tone = Field(alias="Tone")


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (Nothing, "has no fields"),
        (Free, "Free.score is no label"),
        (Unbounded, "Unbounded.score is no label"),
        (Aliased, "alias"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_class_with_fields_that_are_not_labels_is_refused(model: type, sentence: str) -> None:
    with pytest.raises(InvalidInputError, match=sentence):
        label_fields(model)


def test_the_system_message_lists_the_labels_and_their_descriptions() -> None:
    assert label_instruction([field({"a": "the first", "b": None})]) == (
        'Choose the label that fits the text best.\n- a: the first\n- b\nAnswer with JSON, such as {"label": "b"}.'
    )
    assert label_instruction([field(["a", "b"], "several")], explain=True) == (
        "Choose all labels that fit the text, or none if none fits: a, b. Begin with the reason, in one short "
        "sentence. "
        'Answer with JSON, such as {"reason": "...", "label": ["b"]}.'
    )
    assert label_instruction([check_scale((1, 5), {5: "loved it"})]) == (
        'Give the score that fits the text best, from 1 to 5.\n- 5: loved it\nAnswer with JSON, such as {"score": 5}.'
    )
    assert label_instruction(label_fields(Mail)) == (
        "Label the text.\n"
        "- tone: one of positive, negative\n"
        "- topics: a list of any of order, refund (what it is about)\n"
        "- urgency: a score from 1 to 3\n"
        "- is_spam: one of true, false\n"
        "- gist: a short text\n"
        'Answer with JSON, such as {"tone": "negative", "topics": ["refund"], "urgency": 3, "is_spam": false, '
        '"gist": "..."}.'
    )
