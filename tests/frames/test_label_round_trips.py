"""Labels survive every round trip: spreadsheets, CSV, Excel, JSONL, Parquet, annotation tools and reviews."""

from __future__ import annotations

import enum
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import parallel_openai as po
from parallel_openai._requests.schemas.label_text import read_label, read_several, text_of, text_of_several
from parallel_openai.errors import InvalidInputError
from tests.frames.conftest import Verb


class Tone(enum.Enum):
    GOOD = "good"
    BAD = "bad"


LABELS = st.one_of(
    st.just([True, False]),
    st.just(list(Tone)),
    st.lists(st.integers(-20, 20), min_size=2, max_size=4, unique=True),
    st.lists(st.sampled_from([0.5, 1.0, 2.0, -3.0]), min_size=2, unique=True),
    st.lists(
        st.text("ab|[]\"'=-, 01.", min_size=1, max_size=4).filter(str.strip)
        | st.sampled_from(["a | b", "True", "true", "TRUE", "2.0", "2", "=1+1", "[]", '["a"]', "Zoë\nx", " a", "nan"]),
        min_size=2,
        max_size=4,
        unique=True,
    ),
)


def written(label: Any) -> list[Any]:
    """What files and sheets make of a label."""
    value = label.value if isinstance(label, enum.Enum) else label
    ways = [label, value, text_of(label)]
    if isinstance(value, bool):
        ways += [np.bool_(value), str(value).upper(), str(value).lower(), int(value), float(value)]
    elif isinstance(value, int):
        ways += [np.int64(value), float(value), f"{value}.0"]
    elif isinstance(value, float):
        ways += [np.float64(value), f"{value:g}"]
    return ways


@given(LABELS)
@example(["True", "true"])
@example(["[]", "a|b", "a", "b"])
@settings(max_examples=100, deadline=None)
def test_a_label_is_recognised_after_any_file_format(labels: list[Any]) -> None:
    for label in labels:
        for given_back in written(label):
            assert read_label(given_back, labels) is label
    for several in (labels, labels[:1], labels[::-1], []):
        assert read_several(text_of_several(several), labels) == several
        assert read_several(json.dumps([text_of(each) for each in several]), labels) == several
        assert read_several(repr([text_of(each) for each in several]), labels) == several


def frame_of(labels: list[Any], kind: str) -> pd.DataFrame:
    cells: Any = [[each] for each in labels] + [labels, []] if kind == "several" else [*labels, None, labels[0]]
    column = cells if kind == "several" else pd.Categorical(cells, categories=labels)
    out = pd.DataFrame({"text": [f"text {n}" for n in range(len(cells))], "label": column})
    out["request_key"] = [f"{n:032}" for n in range(len(cells))]
    asked = {"kind": kind, "labels": [text_of(label) for label in labels]}
    out.attrs["parallel_openai"] = {"labels": {"label": asked}, "answer": "label", "prompt": "text", "prefix": ""}
    return out


def texts_of(cells: Any) -> list[Any]:
    return [
        [text_of(each) for each in cell] if isinstance(cell, (list, np.ndarray)) else text_of(cell) for cell in cells
    ]


@given(
    labels=LABELS, kind=st.sampled_from(["one", "several"]), way=st.sampled_from(["sheet", "csv", "parquet", "jsonl"])
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_reviewed_label_survives_every_file_format(labels: list[Any], kind: str, way: str) -> None:
    for left in Path().glob("*.jsonl"):
        left.unlink()
    out = frame_of(labels, kind)
    review = po.review(out, save_to="one.review.jsonl")
    judged = [cell for cell in out["label"][::-1] if not (kind == "one" and pd.isna(cell))]
    for row, label in enumerate(judged):
        review.correct(row, label)
    if way == "sheet":
        assert review.to_csv("sheet.csv") == len(out)
        again = po.review(out, save_to="two.review.jsonl")
        assert again.read_csv("sheet.csv") == len(judged)
        assert again.read_csv("sheet.csv") == 0
        pd.testing.assert_series_equal(again.frame()["label_reviewed"], review.frame()["label_reviewed"])
        return
    frame = review.frame()
    if way == "jsonl":
        po.to_jsonl(frame, "out.jsonl")
        back = pd.DataFrame([json.loads(line) for line in Path("out.jsonl").read_text("utf-8").splitlines()])
        back.attrs = frame.attrs
    else:
        po.save(frame, f"out.{way}")
        back = po.load(f"out.{way}")
    third = po.review(back.drop(columns=["label_reviewed", "review_note"]), save_to="three.review.jsonl")
    for row, label in enumerate(back["label_reviewed"][: len(judged)]):
        third.correct(row, label)
    assert texts_of(third.frame()["label_reviewed"][: len(judged)]) == texts_of(judged)


@pytest.mark.parametrize("form", ["label-studio", "argilla"])
@pytest.mark.parametrize("way", ["frame", "csv", "save"])
@pytest.mark.parametrize(
    ("question", "values"),
    [
        ({"labels": [True, False]}, ["True", "False"]),
        ({"labels": [1, 2]}, ["1", "2"]),
        ({"labels": Tone}, ["good", "bad"]),
        ({"labels": ["a | b", "=c"]}, ["a | b", "=c"]),
        ({"labels": [1, 2], "multi": True}, [["1"], []]),
        ({"labels": [True, False], "multi": True}, [["False"], []]),
        ({"scale": (1, 5)}, [1, 5]),
    ],
    ids=["bools", "ints", "an Enum", "texts", "several ints", "several bools", "scores"],
)
def test_exported_predictions_and_annotations_have_the_same_type(
    label: Verb, reviews: pd.DataFrame, form: Any, way: str, question: Any, values: list[Any]
) -> None:
    review = po.review(label(reviews[:2], "{text}", **question))
    for row, value in enumerate(values):
        review.correct(row, value)
    frame = review.frame()
    frame["label"] = frame["label_reviewed"]  # so that both must be told alike
    if way == "save":
        po.save(frame, "out.csv")
        frame = po.load("out.csv")
    elif way == "csv" and question.get("labels") is not Tone:  # pandas would write Tone.GOOD
        attrs = frame.attrs
        frame = pd.read_csv(io.StringIO(frame.to_csv(index=False)))
        frame.attrs = attrs
    po.to_jsonl(frame, "out.json", format=form)
    for value, row in zip(values, json.loads(Path("out.json").read_bytes()), strict=True):
        if form == "argilla":
            assert row["suggestions"].get("label", {"value": []})["value"] == value  # none of no label
            continue
        [predicted], [judged] = row["predictions"][0]["result"], row["annotations"][0]["result"]
        assert predicted == judged
        shown = {"number": value} if "scale" in question else {"choices": value if isinstance(value, list) else [value]}
        assert (predicted["type"], predicted["value"]) == ("number" if "scale" in question else "choices", shown)


def test_free_text_is_exported_as_text_and_not_as_a_choice(label: Verb, reviews: pd.DataFrame) -> None:
    out = frame_of(["a", "b"], "one")
    out["label"] = ["2", "x", None, "y"]
    out.attrs["parallel_openai"]["labels"] = {"label": {"kind": "text", "labels": []}}
    po.to_jsonl(out, "out.json", format="label-studio")
    [region] = json.loads(Path("out.json").read_bytes())[0]["predictions"][0]["result"]
    assert (region["type"], region["value"]) == ("textarea", {"text": ["2"]})


def test_a_sheet_that_excel_saved_is_read(label: Verb, reviews: pd.DataFrame) -> None:
    out = frame_of([True, False], "one")
    review = po.review(out, save_to="bools.review.jsonl")
    review.to_csv("sheet.csv")
    sheet = pd.read_csv("sheet.csv", dtype=str)
    sheet["label_reviewed"] = ["TRUE", "FALSE", "true", "1"]
    sheet.to_csv("sheet.csv", index=False, sep=";", lineterminator="\r\n")
    assert review.read_csv("sheet.csv") == 4
    assert sorted(review.frame()["label_reviewed"], key=str) == [False, True, True, True]


@pytest.mark.parametrize("given_label", [True, np.bool_(True), "True", "TRUE", "true", 1])
@pytest.mark.parametrize("texts", [["True", "False"], ["true", "false"]])
def test_a_boolean_label_is_reviewed_in_any_spelling(given_label: Any, texts: list[str]) -> None:
    out = frame_of([True, False], "one")
    out.attrs["parallel_openai"]["labels"]["label"]["labels"] = texts
    review = po.review(out, save_to="bools.review.jsonl")
    review.correct(0, given_label)
    assert review.frame()["label_reviewed"].tolist()[0] is True
    assert review.item(0)["label"] is None
    assert review.item(1)["label"] == texts[0]


def test_integer_labels_read_as_floats_from_csv_can_be_reviewed() -> None:
    out = frame_of([1, 2], "one")
    back = pd.read_csv(io.StringIO(out.to_csv(index=False)))
    back.attrs = out.attrs
    assert back["label"].dtype == float
    review = po.review(back, save_to="ints.review.jsonl")
    assert review.labels == ["1", "2"]
    review.correct(0, 2.0)
    review.correct(1, "1")
    assert review.frame()["label_reviewed"].tolist()[:2] == [2, 1]


def test_examples_accept_labels_as_read_from_a_file(label: Verb, reviews: pd.DataFrame) -> None:
    examples = pd.DataFrame({"text": ["a", "b"], "label": ["TRUE", "False"]})
    label(reviews, "{text}", labels=[True, False], examples=examples)
    examples["label"] = [1.0, 2.0]
    out = label(reviews, "{text}", labels=[1, 2], examples=examples, prefix="n_")
    sent = json.loads(Path(out.attrs["parallel_openai"]["journal"]).read_text("utf-8").splitlines()[0])[0]
    assert [each["content"] for each in sent["messages"] if each["role"] == "assistant"] == [
        '{"label": "1"}',
        '{"label": "2"}',
    ]


def test_a_list_is_refused_where_rows_have_one_label() -> None:
    review = po.review(frame_of(["a", "b"], "one"), save_to="one.review.jsonl")
    with pytest.raises(InvalidInputError, match="one label here"):
        review.correct(0, ["a", "b"])


@pytest.mark.parametrize("spreadsheet", [True, False])
def test_formulas_in_the_review_sheet_are_escaped_for_spreadsheets_only(spreadsheet: bool) -> None:
    out = frame_of(["=a", "b"], "one")
    out["text"] = ["=1+1", "'=2", "+x", "fine"]
    review = po.review(out, save_to="one.review.jsonl")
    review.correct(0, "=a", note="@sum")
    review.to_csv("sheet.csv", spreadsheet=spreadsheet)
    cells = pd.read_csv("sheet.csv", dtype=str, keep_default_na=False).to_numpy().ravel()
    assert any(cell.startswith(tuple("=+-@")) for cell in cells) is not spreadsheet
    again = po.review(out, save_to="two.review.jsonl")
    again.read_csv("sheet.csv")
    assert again.frame().loc[0, ["label_reviewed", "review_note"]].tolist() == ["=a", "@sum"]


def test_a_failed_write_of_the_review_sheet_keeps_the_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    review = po.review(frame_of(["a", "b"], "one"), save_to="one.review.jsonl")
    with pytest.raises(InvalidInputError, match="cannot be written"):
        review.to_csv("nowhere/sheet.csv")


def test_a_long_cell_of_a_sheet_is_read() -> None:
    out = frame_of(["a", "b"], "one")
    out["text"] = "x" * 200_000
    review = po.review(out, save_to="one.review.jsonl")
    review.correct(0, "b")
    review.to_csv("sheet.csv")
    assert po.review(out, save_to="two.review.jsonl").read_csv("sheet.csv") == 1


class Mood(str, enum.Enum):
    GLAD = "glad"
    SAD = "sad"


KINDS: list[list[Any]] = [[0.5, 1.0, 2.0], [1, 2, 10], [True, False], list(Tone), list(Mood), ["a", "b | c"]]


@pytest.mark.parametrize("kind", ["one", "several"])
@pytest.mark.parametrize("labels", KINDS, ids=str)
def test_a_confirmed_label_counts_as_right(labels: list[Any], kind: str) -> None:
    out = frame_of(labels, kind)
    review = po.review(out)
    judged = [row for row, cell in enumerate(out["label"]) if kind == "several" or not pd.isna(cell)]
    for row in judged:
        review.correct(row, out["label"][row])
    frame = review.frame()
    assert list(map(repr, frame["label_reviewed"][judged])) == list(map(repr, out["label"][judged]))
    found = po.evaluate(frame, "label_reviewed", label="label", resamples=1)
    assert (found.rows, found.accuracy) == (len(judged), 1.0)
    texts = texts_of(out["label"][judged])
    assert po.evaluate(out.loc[judged].assign(gold=texts), "gold", resamples=1).accuracy == 1.0
