"""Frames that came back through a CSV or Parquet file, in which some cells have another type than before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai.errors import InvalidInputError
from tests.frames.conftest import Verb

LABELS = ["good", "bad"]
FORMATS: list[Any] = ["records", "results", "batch", "fine-tuning", "label-studio", "argilla"]

USES: dict[str, Callable[[pd.DataFrame], Any]] = {
    "evaluate": lambda out: po.evaluate(out, gold="gold"),
    "review": lambda out: po.review(out, text="text"),
    "review in the frame's order": lambda out: po.review(out, text="text", sort=False),
    "label-studio": lambda out: po.to_jsonl(out, "tasks.json", format="label-studio", text="text"),
    "argilla": lambda out: po.to_jsonl(out, "tasks.json", format="argilla", text="text"),
}


def from_csv(**columns: Any) -> pd.DataFrame:
    frame = {"text": list("xyz"), "gold": ["good", "bad", "bad"], "label": ["good", "good", "bad"], **columns}
    pd.DataFrame(frame).to_csv("labelled.csv", index=False)
    return pd.read_csv("labelled.csv")


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_word_among_the_confidences_is_named_with_its_row(use: Callable[[pd.DataFrame], Any]) -> None:
    with pytest.raises(InvalidInputError, match=r"The column 'confidence' must hold numbers, and row 1 has 'high'\."):
        use(from_csv(confidence=[0.9, "high", 0.5]))


def test_a_word_among_the_costs_is_named_with_its_row() -> None:
    with pytest.raises(InvalidInputError, match=r"The column 'cost_usd' must hold numbers, and row 2 has '\$1'\."):
        po.evaluate(from_csv(cost_usd=[0.1, None, "$1"]), gold="gold")


def test_numbers_in_a_column_of_text_are_numbers() -> None:
    out = from_csv(confidence=[0.9, 0.10, None], cost_usd=[0.5, 0.25, None]).astype({"confidence": str})
    out["confidence"] = out["confidence"].astype(object).where(out["confidence"] != "nan", None)
    found = po.evaluate(out, gold="gold")
    assert found.cost_usd == 0.75
    assert found.coverage["confidence"].tolist() == [0.9, 0.1]
    review = po.review(out, text="text")
    assert [review.item(each)["confidence"] for each in range(3)] == [None, 0.1, 0.9]


def test_a_status_that_is_missing_has_not_failed() -> None:
    out = from_csv(status=["failed", None, "succeeded"]).convert_dtypes()
    out.loc[0, "label"] = None
    assert po.evaluate(out, gold="gold").failed == 1


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.filterwarnings("ignore:For fine-tuning")
def test_samples_from_a_parquet_file_are_exported_alike(label: Verb, reviews: pd.DataFrame, form: Any) -> None:
    out = label(reviews, "{text}", labels=LABELS, samples=3)
    out.to_parquet("samples.parquet")
    po.to_jsonl(out, "before.jsonl", format=form)
    po.to_jsonl(pd.read_parquet("samples.parquet"), "after.jsonl", format=form)
    assert Path("after.jsonl").read_bytes() == Path("before.jsonl").read_bytes()


def test_samples_from_a_parquet_file_are_explained_alike(label: Verb, reviews: pd.DataFrame) -> None:
    out = label(pd.concat([reviews, reviews], ignore_index=True), "{text}", labels=LABELS, samples=3)
    out.to_parquet("samples.parquet")
    back = pd.read_parquet("samples.parquet")
    for row in (0, 3):
        assert str(po.explain(back, row)) == str(po.explain(out, row))


@pytest.mark.parametrize("form", ["results", "batch", "fine-tuning"])
def test_a_request_key_that_is_a_number_is_in_no_journal(label: Verb, reviews: pd.DataFrame, form: Any) -> None:
    out = label(reviews, "{text}", labels=LABELS)
    out["request_key"] = [7, 8, 9]
    with pytest.raises(InvalidInputError, match="does not hold a row's request"):
        po.to_jsonl(out, "out.jsonl", format=form)
