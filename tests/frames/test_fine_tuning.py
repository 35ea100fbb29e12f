"""Labels as examples that a model can be tuned on: the model's own, and those that a person set right."""

from __future__ import annotations

import enum
import json
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai.errors import InvalidInputError
from tests.frames.conftest import Verb

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
def test_numbers_scores_several_labels_and_reasons_keep_their_place(label: Verb, reviews: pd.DataFrame) -> None:
    po.to_jsonl(label(reviews[:1], "{text}", labels=[1, 2]), "out.jsonl", format="fine-tuning")
    assert contents()[0]["label"] in ("1", "2")
    scored = label(reviews[:1], "{text}", scale=(1, 5))
    po.to_jsonl(scored, "out.jsonl", format="fine-tuning")
    assert contents() == [{"score": int(scored["label"].iloc[0])}]
    several = label(reviews[:1], "{text}", labels=LABELS, multi=True)
    po.to_jsonl(several, "out.jsonl", format="fine-tuning")
    assert contents() == [{"label": several["label"].iloc[0]}]
    explained = label(reviews[:1], "{text}", labels=LABELS, explain=True)
    po.to_jsonl(explained, "out.jsonl", format="fine-tuning")
    assert [list(each) for each in contents()] == [["reason", "label"]]
    assert contents()[0]["reason"] == explained["label_reason"].iloc[0]


@small
def test_a_persons_word_goes_before_the_models(label: Verb, reviews: pd.DataFrame) -> None:
    review = po.review(label(reviews, "{text}", labels=LABELS))
    review.correct(0, "negative")
    review.correct(1, "negative")
    out = review.frame()
    po.to_jsonl(out, "out.jsonl", format="fine-tuning")
    assert [each["label"] for each in contents()] == ["negative", "negative", out["label"].iloc[2]]
    assert po.to_jsonl(out, "judged.jsonl", format="fine-tuning", only_reviewed=True) == 2
    assert [each["label"] for each in contents("judged.jsonl")] == ["negative", "negative"]


@small
def test_a_reason_for_another_label_is_not_learnt(label: Verb, reviews: pd.DataFrame) -> None:
    review = po.review(label(reviews[:2], "{text}", labels=LABELS, explain=True))
    review.correct(0, "negative")
    po.to_jsonl(review.frame(), "out.jsonl", format="fine-tuning")
    corrected, kept = contents()
    assert corrected == {"reason": "", "label": "negative"}
    assert kept["reason"]


@small
def test_a_row_that_failed_and_was_judged_is_an_example_too(label: Verb, reviews: pd.DataFrame) -> None:
    out = label(reviews, "{text}", labels=LABELS)
    out.loc[1, "status"] = "failed"
    out["label"] = out["label"].where(out.index != 1)
    review = po.review(out)
    assert po.to_jsonl(review.frame(), "out.jsonl", format="fine-tuning") == 2
    review.correct(1, "negative")
    assert po.to_jsonl(review.frame(), "out.jsonl", format="fine-tuning") == 3


def test_nothing_judged_is_said(label: Verb, reviews: pd.DataFrame) -> None:
    with pytest.raises(InvalidInputError, match="no row of this frame was judged"):
        po.to_jsonl(label(reviews, "{text}", labels=LABELS), "out.jsonl", format="fine-tuning", only_reviewed=True)


def test_a_share_is_held_back_for_validation_the_same_each_time(label: Verb) -> None:
    out = label(many(40), "{text}", labels=LABELS)
    assert po.to_jsonl(out, "out.jsonl", format="fine-tuning", validation=0.2) == 40
    training, held_back = (Path(name).read_bytes().splitlines() for name in ("out.jsonl", "out.validation.jsonl"))
    assert (len(training), len(held_back)) == (32, 8)
    assert not set(training) & set(held_back)
    po.to_jsonl(out[::-1], "again.jsonl", format="fine-tuning", validation=0.2)
    assert set(Path("again.validation.jsonl").read_bytes().splitlines()) == set(held_back)
    po.to_jsonl(out, "other.jsonl", format="fine-tuning", validation=0.2, seed=1)
    assert set(Path("other.validation.jsonl").read_bytes().splitlines()) != set(held_back)


def test_rows_that_ask_the_same_stay_together(label: Verb) -> None:
    out = label(pd.concat([many(20)] * 3, ignore_index=True), "{text}", labels=LABELS)
    po.to_jsonl(out, "out.jsonl", format="fine-tuning", validation=0.25)
    training, held_back = (Path(name).read_bytes().splitlines() for name in ("out.jsonl", "out.validation.jsonl"))
    assert (len(training), len(held_back)) == (45, 15)
    assert not set(training) & set(held_back)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (many(3), "3 examples to train on, and OpenAI's fine-tuning wants at least 10"),
        (many(24)[1::2], "all examples give the same answer"),
        (
            pd.concat([many(20), pd.DataFrame({"text": ["terrible " + "so " * 66_000]})]),
            "1 examples have more than 65,536",
        ),
    ],
    ids=["few", "one answer", "long"],
)
def test_what_fine_tuning_would_refuse_is_warned_of(label: Verb, frame: pd.DataFrame, words: str) -> None:
    out = label(frame, "{text}", labels=LABELS)
    with pytest.warns(UserWarning, match=words):
        po.to_jsonl(out, "out.jsonl", format="fine-tuning")


def test_good_examples_are_not_warned_of(label: Verb) -> None:
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
