"""Reasons, few-shot examples and descriptions of labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from pydantic import BaseModel

import parallel_openai as po
from parallel_openai.local.simulator import Server
from tests.frames.conftest import Verb, asked
from tests.frames.labelling import TONES, Topic, frame, says


def test_the_reason_comes_before_the_label(label: Verb, server: Server) -> None:
    says(server, "first", {"reason": "It says so.", "label": "positive"})
    out = label(frame("first"), "text", labels=TONES, explain=True)
    assert out["label_reason"].tolist() == ["It says so."]
    properties = asked(out)[0]["response_format"]["json_schema"]["schema"]["properties"]
    assert list(properties) == ["reason", "label"]


def test_of_several_samples_the_reason_is_one_for_the_rows_label(label: Verb, server: Server) -> None:
    for tone, reason in (("negative", "Bad."), ("positive", "Good."), ("positive", "Good.")):
        says(server, "first", {"reason": reason, "label": tone})
    out = label(frame("first"), "text", labels=TONES, explain=True, samples=3)
    assert out["label_reason"].tolist() == ["Good."]


def test_examples_are_shown_as_questions_and_answers(label: Verb, reviews: pd.DataFrame) -> None:
    examples = pd.DataFrame({"text": ["Fine.", "Broken."], "label": ["positive", "negative"], "other": [1, 2]})
    out = label(reviews, "Review: {text}", labels=TONES, examples=examples)
    assert asked(out)[2]["messages"][1:] == [
        {"role": "user", "content": "Review: Fine."},
        {"role": "assistant", "content": '{"label": "positive"}'},
        {"role": "user", "content": "Review: Broken."},
        {"role": "assistant", "content": '{"label": "negative"}'},
        {"role": "user", "content": "Review: Great value."},
    ]


@pytest.mark.parametrize(
    ("options", "cells_of_label", "shown"),
    [
        ({"labels": ["a", "b"], "multi": True}, [["b", "a"]], '{"labels": ["a", "b"]}'),
        ({"labels": ["a", "b"], "multi": True}, [np.array(["b"], dtype=object)], '{"labels": ["b"]}'),
        ({"scale": (1, 5)}, [np.int64(4)], '{"score": 4}'),
        ({"labels": Topic}, [Topic.REFUND], '{"label": "refund"}'),
        ({"labels": Topic}, ["refund"], '{"label": "refund"}'),
    ],
    ids=["several", "array", "score", "member", "text of a member"],
)
def test_examples_may_have_labels_of_any_type(label: Verb, options: Any, cells_of_label: Any, shown: str) -> None:
    examples = pd.DataFrame({"text": ["Shown."], "label": pd.Series(cells_of_label, dtype=object)})
    out = label(frame("first"), "text", examples=examples, **options)
    assert asked(out)[0]["messages"][2]["content"] == shown


def test_examples_with_reasons_show_them(label: Verb) -> None:
    examples = pd.DataFrame({"text": ["Shown."], "label": ["positive"], "label_reason": ["It says so."]})
    out = label(frame("first"), "text", labels=TONES, examples=examples, explain=True)
    assert asked(out)[0]["messages"][2]["content"] == '{"reason": "It says so.", "label": "positive"}'


def test_examples_of_several_fields_have_their_columns(label: Verb) -> None:
    class Mail(BaseModel):
        tone: Literal["good", "bad"]
        urgent: bool

    examples = pd.DataFrame({"text": ["Shown."], "tone": ["bad"], "urgent": [True]})
    out = label(frame("first"), "text", labels=Mail, examples=examples)
    assert asked(out)[0]["messages"][2]["content"] == '{"tone": "bad", "urgent": true}'


def test_an_answer_with_examples_is_exported_with_them(label: Verb) -> None:
    examples = pd.DataFrame({"text": ["Shown."], "label": ["positive"]})
    out = label(frame("first"), "{text}", labels=TONES, examples=examples)
    with pytest.warns(UserWarning, match="1 training examples"):
        po.to_jsonl(out, "tuning.jsonl", format="fine-tuning")
    roles = [message["role"] for message in json.loads(Path("tuning.jsonl").read_text())["messages"]]
    assert roles == ["system", "user", "assistant", "user", "assistant"]


def test_label_descriptions_follow_the_callers_system_message(label: Verb, reviews: pd.DataFrame) -> None:
    labels = {"positive": "praises {it}", "negative": "complains"}
    told = asked(label(reviews, "{text}", labels=labels))[0]["messages"][0]["content"]
    assert "- positive: praises {it}\n- negative: complains\n" in told
    both = asked(label(reviews, "{text}", labels=labels, system="Stars: {stars}."))[0]["messages"][0]["content"]
    assert both == f"Stars: 5.\n\n{told}"
