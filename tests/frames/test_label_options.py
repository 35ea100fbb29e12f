"""Options and fields of a labelling that do not go together are refused before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pandas as pd
import pytest
from pydantic import BaseModel

from parallel_openai.errors import ColumnNotFoundError, InvalidInputError, TemplateError
from parallel_openai.local.simulator import Server
from tests.frames.conftest import Verb
from tests.frames.labelling import TONES, Review


def test_an_endpoint_without_text_answers_is_refused_for_labels(label: Verb, reviews: pd.DataFrame) -> None:
    with pytest.raises(InvalidInputError, match="embeddings takes no response_format"):
        label(reviews, "{text}", labels=TONES, endpoint="embeddings")


def row(**cells: Any) -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series([value], dtype=object) for name, value in cells.items()})


REFUSED: Sequence[tuple[dict[str, Any], str]] = [
    ({}, "Pass labels="),
    ({"labels": TONES, "multi": True, "scale": (1, 5)}, "multi=True chooses several"),
    ({"labels": TONES, "scale": (1, 5)}, "may only describe scores"),
    ({"labels": Review, "multi": True}, "make the field a list"),
    ({"labels": TONES, "confidence": "votes"}, "pass samples=5"),
    ({"labels": TONES, "confidence": "entropy"}, "not 'entropy'"),
    ({"labels": TONES, "multi": True, "confidence": "logprobs"}, "not of a list of labels"),
    ({"labels": TONES, "confidence": "logprobs", "top_logprobs": 0}, "top_logprobs above 0"),
    ({"labels": TONES, "confidence": "logprobs", "extra_body": {"logprobs": False}}, "needs logprobs=True"),
    ({"labels": TONES, "abstain_below": 0.5}, "abstain_below needs a confidence"),
    ({"labels": TONES, "samples": 3, "abstain_below": 50}, "up to 1, not 50"),
    ({"labels": TONES, "samples": 3, "temperature": 0}, "paid for 3 times"),
    ({"labels": TONES, "samples": 0}, "samples must be"),
    ({"labels": TONES, "examples": row(text="a")}, "'label'"),
    ({"labels": TONES, "examples": row(label="positive")}, "text"),
    ({"labels": TONES, "examples": []}, "must be a frame of rows"),
    ({"labels": TONES, "examples": row(text="a", label="good")}, "none of positive, negative, neutral"),
    ({"labels": TONES, "examples": row(text="a", label=None)}, "has no label"),
    ({"labels": TONES, "examples": row(text=None, label="positive")}, "cannot be used"),
    ({"labels": TONES, "multi": True, "examples": row(text="a", label="positive")}, "not a list of labels"),
    ({"labels": TONES, "explain": True, "examples": row(text="a", label="positive")}, "'label_reason'"),
    ({"labels": {"a": "x", "b": "y"}, "system": "stars"}, "not a column"),
]


@pytest.mark.parametrize(("options", "sentence"), REFUSED, ids=[sentence for _, sentence in REFUSED])
def test_incompatible_options_are_refused_before_anything_is_sent(
    label: Verb, reviews: pd.DataFrame, server: Server, options: Any, sentence: str
) -> None:
    with pytest.raises((InvalidInputError, ColumnNotFoundError, TemplateError), match=sentence):
        label(reviews, "{text}", **options)
    assert server.stats()["received"] == 0


class Clash(BaseModel):
    status: Literal["a", "b"]


class OwnReason(BaseModel):
    reason: str
    tone: Literal["a", "b"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"labels": Clash}, "'status', which another"),
        ({"labels": OwnReason, "explain": True}, "would both be the reason"),
    ],
    ids=["column", "reason"],
)
def test_a_field_with_the_name_of_another_column_is_refused(
    label: Verb, reviews: pd.DataFrame, options: Any, sentence: str
) -> None:
    with pytest.raises(InvalidInputError, match=sentence):
        label(reviews, "{text}", **options)
