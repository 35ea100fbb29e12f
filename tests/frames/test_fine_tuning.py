"""Export of fine-tuning examples, from the model's own labels and from reviewed ones."""

from __future__ import annotations

import enum
import json
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import pandas as pd
import pytest
from pydantic import BaseModel, Field

import parallel_openai as po
from parallel_openai.errors import InvalidInputError
from tests.frames.conftest import Verb, journal_of

small = pytest.mark.filterwarnings("ignore:For fine-tuning")
LABELS = ["positive", "negative"]


class Tone(enum.Enum):
    GOOD = "positive"
    BAD = "negative"


def answers(path: str = "out.jsonl") -> list[Any]:
    return [json.loads(line)["messages"][-1] for line in Path(path).read_bytes().splitlines()]


def contents(path: str = "out.jsonl") -> list[Any]:
    said = answers(path)
    assert {each["role"] for each in said} <= {"assistant"}
    return [json.loads(each["content"]) for each in said]


def many(count: int) -> pd.DataFrame:
    return pd.DataFrame({"text": [f"Lamp {n} is {'wonderful' if n % 2 else 'terrible'}." for n in range(count)]})


@small
@pytest.mark.parametrize(
    "labels", [LABELS, Tone, {"positive": "likes it", "negative": None}], ids=["texts", "enum", "described"]
)
def test_a_label_is_the_json_that_label_dataframe_asks_for(label: Verb, reviews: pd.DataFrame, labels: Any) -> None:
    out = label(reviews[:2], "{text}", labels=labels)
    assert po.to_jsonl(out, "out.jsonl", format="fine-tuning") == 2
    assert contents() == [{"label": "positive"}, {"label": "negative"}]


@small
def test_numbers_scores_several_labels_and_reasons_are_exported_in_order(label: Verb, reviews: pd.DataFrame) -> None:
    po.to_jsonl(label(reviews[:1], "{text}", labels=[1, 2]), "out.jsonl", format="fine-tuning")
    assert contents()[0]["label"] in ("1", "2")
    scored = label(reviews[:1], "{text}", scale=(1, 5))
    po.to_jsonl(scored, "out.jsonl", format="fine-tuning")
    assert contents() == [{"score": int(scored["label"].iloc[0])}]
    several = label(reviews[:1], "{text}", labels=LABELS, multi=True)
    po.to_jsonl(several, "out.jsonl", format="fine-tuning")
    assert contents() == [{"labels": several["label"].iloc[0]}]
    explained = label(reviews[:1], "{text}", labels=LABELS, explain=True)
    po.to_jsonl(explained, "out.jsonl", format="fine-tuning")
    assert [list(each) for each in contents()] == [["reason", "label"]]
    assert contents()[0]["reason"] == explained["label_reason"].iloc[0]


class Mail(BaseModel):
    topic: Literal["order", "other"]
    urgent: bool
    tags: list[Literal["a", "b"]]
    rating: Annotated[int, Field(ge=1, le=5)]
    summary: str


QUESTIONS: dict[str, dict[str, Any]] = {
    "texts": {"labels": LABELS},
    "an Enum": {"labels": Tone},
    "ints": {"labels": [1, 2, 3]},
    "bools": {"labels": [True, False]},
    "floats": {"labels": [0.5, 1.0]},
    "several": {"labels": ["c", "a", "b"], "multi": True},
    "several ints": {"labels": [3, 1, 2], "multi": True},
    "several bools": {"labels": [True, False], "multi": True},
    "a scale": {"scale": (-2, 2)},
    "a class": {"labels": Mail},
}


def schema_of(body: dict[str, Any]) -> Any:
    return (body.get("response_format") or {}).get("json_schema", {}).get("schema") or body["text"]["format"]["schema"]


def sent_schema(out: pd.DataFrame) -> Any:
    return schema_of(json.loads(journal_of(out).read_bytes().splitlines()[0])[0])


@small
@pytest.mark.parametrize("endpoint", ["chat.completions", "responses"])
@pytest.mark.parametrize("explain", [False, True])
@pytest.mark.parametrize("name", QUESTIONS)
def test_an_exported_answer_fits_the_schema_that_was_sent(
    label: Verb, reviews: pd.DataFrame, name: str, explain: bool, endpoint: str
) -> None:
    out = label(reviews, "{text}", **QUESTIONS[name], explain=explain, endpoint=endpoint)
    schema = sent_schema(out)
    assert (out["status"] == "succeeded").all()
    assert po.to_jsonl(out, "out.jsonl", format="fine-tuning") == 3
    for answer in contents():
        jsonschema.validate(answer, schema)
        assert not explain or answer["reason"]


@small
@pytest.mark.parametrize("name", [name for name in QUESTIONS if name != "a class"])
def test_a_reviewed_label_fits_the_schema_that_was_sent(label: Verb, reviews: pd.DataFrame, name: str) -> None:
    review = po.review(label(reviews, "{text}", **QUESTIONS[name], explain=True))
    for row, text in enumerate([review.labels[0], review.labels[-1], review.labels[1]]):
        review.correct(row, [text] if review.multi else text)
    if review.multi:
        review.correct(0, [])
    out = review.frame()
    assert po.to_jsonl(out, "out.jsonl", format="fine-tuning", only_reviewed=True) == 3
    for answer in contents():
        jsonschema.validate(answer, sent_schema(out))


@small
@pytest.mark.parametrize("name", QUESTIONS)
def test_a_saved_and_loaded_frame_gives_the_same_examples(label: Verb, reviews: pd.DataFrame, name: str) -> None:
    out = label(reviews, "{text}", **QUESTIONS[name])
    po.to_jsonl(out, "out.jsonl", format="fine-tuning")
    expected = contents()
    po.save(out, "out.csv")
    po.to_jsonl(po.load("out.csv"), "out.jsonl", format="fine-tuning")
    assert contents() == expected
    back = pd.read_csv("out.csv")
    back.attrs = out.attrs
    po.to_jsonl(back, "out.jsonl", format="fine-tuning")
    assert contents() == expected


@small
def test_the_reason_belongs_to_the_majority_label(label: Verb, reviews: pd.DataFrame) -> None:
    out = label(reviews, "{text}", labels=[1, 2, 3], samples=3, explain=True, temperature=1)
    po.to_jsonl(out, "out.jsonl", format="fine-tuning")
    assert [each["label"] for each in contents()] == [str(each) for each in out["label"]]
    assert all(each["reason"] for each in contents())


def test_a_label_outside_the_schema_is_reported(label: Verb, reviews: pd.DataFrame) -> None:
    out = label(reviews, "{text}", labels=LABELS)
    out["label"] = ["positive", "fine", "positive"]
    with pytest.raises(InvalidInputError, match="Row 1 has 'fine' in the column 'label', which is none of positive"):
        po.to_jsonl(out, "out.jsonl", format="fine-tuning")
    assert not Path("out.jsonl").exists()


@small
def test_structured_answers_fit_their_schema_and_are_never_made_up(ask: Verb, reviews: pd.DataFrame) -> None:
    out = ask(reviews, "{text}", response_format=Mail)
    po.to_jsonl(out, "out.jsonl", format="fine-tuning")
    for answer in contents():
        Mail.model_validate(answer)
        jsonschema.validate(answer, sent_schema(out))
    journal_of(out).unlink()
    with pytest.raises(InvalidInputError, match="does not hold a row's answer"):
        po.to_jsonl(out, "out.jsonl", format="fine-tuning")


@small
def test_the_reviewers_label_takes_precedence(label: Verb, reviews: pd.DataFrame) -> None:
    review = po.review(label(reviews, "{text}", labels=LABELS))
    review.correct(0, "negative")
    review.correct(1, "negative")
    out = review.frame()
    po.to_jsonl(out, "out.jsonl", format="fine-tuning")
    assert [each["label"] for each in contents()] == ["negative", "negative", out["label"].iloc[2]]
    assert po.to_jsonl(out, "judged.jsonl", format="fine-tuning", only_reviewed=True) == 2
    assert [each["label"] for each in contents("judged.jsonl")] == ["negative", "negative"]


@small
def test_a_reason_for_another_label_is_left_out(label: Verb, reviews: pd.DataFrame) -> None:
    review = po.review(label(reviews[:2], "{text}", labels=LABELS, explain=True))
    review.correct(0, "negative")
    po.to_jsonl(review.frame(), "out.jsonl", format="fine-tuning")
    corrected, kept = contents()
    assert corrected == {"reason": "", "label": "negative"}
    assert kept["reason"]


@small
def test_a_failed_row_with_a_reviewed_label_is_an_example(label: Verb, reviews: pd.DataFrame) -> None:
    out = label(reviews, "{text}", labels=LABELS)
    out.loc[1, "status"] = "failed"
    out["label"] = out["label"].where(out.index != 1)
    review = po.review(out)
    assert po.to_jsonl(review.frame(), "out.jsonl", format="fine-tuning") == 2
    review.correct(1, "negative")
    assert po.to_jsonl(review.frame(), "out.jsonl", format="fine-tuning") == 3


def test_only_reviewed_without_reviewed_rows_is_an_error(label: Verb, reviews: pd.DataFrame) -> None:
    with pytest.raises(InvalidInputError, match="no row of this frame was reviewed"):
        po.to_jsonl(label(reviews, "{text}", labels=LABELS), "out.jsonl", format="fine-tuning", only_reviewed=True)


def test_the_validation_share_is_the_same_for_the_same_seed(label: Verb) -> None:
    out = label(many(40), "{text}", labels=LABELS)
    assert po.to_jsonl(out, "out.jsonl", format="fine-tuning", validation=0.2) == 40
    training, held_back = (Path(name).read_bytes().splitlines() for name in ("out.jsonl", "out.validation.jsonl"))
    assert (len(training), len(held_back)) == (32, 8)
    assert not set(training) & set(held_back)
    po.to_jsonl(out[::-1], "again.jsonl", format="fine-tuning", validation=0.2)
    assert set(Path("again.validation.jsonl").read_bytes().splitlines()) == set(held_back)
    po.to_jsonl(out, "other.jsonl", format="fine-tuning", validation=0.2, seed=1)
    assert set(Path("other.validation.jsonl").read_bytes().splitlines()) != set(held_back)


def test_rows_with_the_same_request_go_to_the_same_file(label: Verb) -> None:
    out = label(pd.concat([many(20)] * 3, ignore_index=True), "{text}", labels=LABELS)
    po.to_jsonl(out, "out.jsonl", format="fine-tuning", validation=0.25)
    training, held_back = (Path(name).read_bytes().splitlines() for name in ("out.jsonl", "out.validation.jsonl"))
    assert (len(training), len(held_back)) == (45, 15)
    assert not set(training) & set(held_back)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (many(3), "3 training examples, and OpenAI's fine-tuning requires at least 10"),
        (many(24)[1::2], "all examples give the same answer"),
        (
            pd.concat([many(20), pd.DataFrame({"text": ["terrible " + "so " * 66_000]})]),
            "1 examples have more than 65,536",
        ),
    ],
    ids=["few", "one answer", "long"],
)
def test_a_warning_lists_what_fine_tuning_would_refuse(label: Verb, frame: pd.DataFrame, words: str) -> None:
    out = label(frame, "{text}", labels=LABELS)
    with pytest.warns(UserWarning, match=words):
        po.to_jsonl(out, "out.jsonl", format="fine-tuning")


def test_valid_examples_give_no_warning(label: Verb) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        po.to_jsonl(label(many(12), "{text}", labels=LABELS), "out.jsonl", format="fine-tuning")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "records", "validation": 0.1}, "validation= goes with format='fine-tuning', not with 'records'"),
        ({"format": "fine-tuning", "index": True}, "index= goes with format='records'"),
        ({"format": "batch", "text": "text"}, "text= goes with format='label-studio' or 'argilla'"),
        ({"format": "fine-tuning", "validation": 1.0}, "from 0 to below 1, not 1.0"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    label: Verb, reviews: pd.DataFrame, options: Any, words: str
) -> None:
    with pytest.raises(InvalidInputError, match=words):
        po.to_jsonl(label(reviews, "{text}", labels=LABELS), "out.jsonl", **options)
