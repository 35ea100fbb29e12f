"""Exports for annotation tools, in the formats that Label Studio and Argilla document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai.errors import InvalidInputError
from tests.frames.conftest import Verb

LABELS = ["positive", "negative"]


def read(path: str) -> Any:
    return json.loads(Path(path).read_bytes())


@pytest.fixture
def judged(label: Verb, reviews: pd.DataFrame) -> pd.DataFrame:
    review = po.review(label(reviews[:2], "{text}", labels=LABELS).assign(confidence=[0.75, 1.0]))
    review.correct(0, "negative")
    return review.frame()


def test_label_studio_gets_tasks_with_predictions_and_annotations(judged: pd.DataFrame) -> None:
    assert po.to_jsonl(judged, "tasks.json", format="label-studio") == 2
    first, second = read("tasks.json")
    region = {"from_name": "label", "to_name": "text", "type": "choices"}
    assert first == {
        "data": {"text": "A wonderful lamp."},
        "predictions": [
            {
                "model_version": judged["model"].iloc[0],
                "score": 0.75,
                "result": [{**region, "value": {"choices": ["positive"]}}],
            }
        ],
        "annotations": [{"result": [{**region, "value": {"choices": ["negative"]}}]}],
        "meta": {"request_key": judged["request_key"].iloc[0]},
    }
    assert "annotations" not in second
    assert "simulated" in first["predictions"][0]["model_version"]


def test_label_studio_gets_scores_as_numbers_and_several_labels_together(label: Verb, reviews: pd.DataFrame) -> None:
    scored = label(reviews[:1], "{text}", scale=(1, 5))
    po.to_jsonl(scored, "tasks.json", format="label-studio")
    [result] = read("tasks.json")[0]["predictions"][0]["result"]
    assert (result["type"], result["value"]) == ("number", {"number": scored["label"].iloc[0]})
    several = label(reviews[:1], "{text}", labels=[*LABELS, "odd"], multi=True)
    po.to_jsonl(several, "tasks.json", format="label-studio")
    [result] = read("tasks.json")[0]["predictions"][0]["result"]
    assert result["value"] == {"choices": several["label"].iloc[0]}


def test_argilla_gets_records_with_suggestions(judged: pd.DataFrame) -> None:
    po.to_jsonl(judged, "records.json", format="argilla")
    first, second = read("records.json")
    assert first == {
        "id": "row-0",
        "fields": {"text": "A wonderful lamp."},
        "metadata": {"request_key": judged["request_key"].iloc[0]},
        "suggestions": {"label": {"value": "negative", "agent": "review", "type": "human"}},
    }
    assert second["suggestions"]["label"] == {
        "value": "negative",
        "score": 1.0,
        "agent": "gpt-4o-mini simulated",  # its server takes no brackets
        "type": "model",
    }


def test_argilla_records_with_several_labels_are_in_its_servers_format(label: Verb, reviews: pd.DataFrame) -> None:
    out = label(reviews[:2], "{text}", labels=[*LABELS, "odd"], multi=True)
    out = out.assign(label=[["positive", "odd"], []], confidence=[0.75, 1.0], model="maker@2/m (new)")
    po.to_jsonl(out, "records.json", format="argilla")
    first, second = read("records.json")
    assert first["suggestions"]["label"] == {
        "value": ["positive", "odd"],
        "score": [0.75, 0.75],
        "agent": "maker 2/m new",
        "type": "model",
    }
    assert second["suggestions"] == {}


@pytest.mark.parametrize("form", ["label-studio", "argilla"])
def test_a_row_without_a_label_is_exported_without_a_prediction(label: Verb, form: Any) -> None:
    out = label(pd.DataFrame({"text": ["A wonderful lamp.", None]}), "{text}", labels=LABELS)
    po.to_jsonl(out, "tasks.jsonl", format=form)
    _, second = map(json.loads, Path("tasks.jsonl").read_bytes().splitlines())
    assert not second.get("predictions")
    assert not second.get("suggestions")


def test_an_empty_list_of_labels_is_exported_as_a_list(label: Verb, reviews: pd.DataFrame) -> None:
    out = label(reviews, "{text}", labels=LABELS)
    assert po.to_jsonl(out.head(0), "tasks.json", format="argilla") == 0
    assert read("tasks.json") == []


def test_exporting_a_frame_without_labels_is_refused(reviews: pd.DataFrame) -> None:
    with pytest.raises(InvalidInputError, match="no column 'label'"):
        po.to_jsonl(reviews, "tasks.json", format="argilla")


def test_the_text_to_show_can_be_chosen(label: Verb, reviews: pd.DataFrame) -> None:
    out = label(reviews.assign(id=["x", "y", "z"]), "{text}", labels=LABELS)
    po.to_jsonl(out, "tasks.json", format="label-studio", text=["id", "text"])
    assert read("tasks.json")[1]["data"] == {"id": "y", "text": "It broke, terrible."}
