"""`review`: the order of the rows, what is saved, and what is returned."""

from __future__ import annotations

import enum
import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai.errors import InvalidInputError, JournalError

LABELS = ["bad", "good"]


def labelled(**columns: Any) -> pd.DataFrame:
    """Five rows as a run would give them, the third without a label, the fourth the least confident."""
    return pd.DataFrame(
        {
            "text": ["Fine soup.", "Cold soup.", "Soup?", "It is soup.", "Best soup!"],
            "label": pd.Categorical(["good", "bad", None, "bad", "good"], categories=LABELS),
            "confidence": [0.9, 0.8, np.nan, 0.51, 0.99],
            "request_key": ["a" * 32, "b" * 32, "c" * 32, "d" * 32, "e" * 32],
            **columns,
        },
        index=[10, 20, 30, 40, 50],
    )


def shown(review: po.Review) -> list[str]:
    return [review.item(place)["fields"][0][1] for place in range(len(review))]


def test_rows_without_a_label_come_first_and_then_the_least_confident() -> None:
    assert shown(po.review(labelled())) == ["Soup?", "It is soup.", "Cold soup.", "Fine soup.", "Best soup!"]


def test_with_sort_false_the_order_is_the_frames() -> None:
    assert shown(po.review(labelled(), sort=False)) == labelled()["text"].tolist()


def test_a_correction_is_written_before_the_next_row_is_shown() -> None:
    review = po.review(labelled(), save_to="soup.jsonl")
    review.choose(1, "good", note="lukewarm")
    [line] = Path("soup.jsonl").read_text("utf-8").splitlines()
    written = json.loads(line)
    assert written.pop("at") > 1_700_000_000
    assert written == {"request_key": "d" * 32, "label": "bad", "label_reviewed": "good", "note": "lukewarm"}
    assert stat.S_IMODE(Path("soup.jsonl").stat().st_mode) == 0o600


def test_a_review_resumes_in_another_kernel() -> None:
    po.review(labelled(), save_to="soup.jsonl").choose(0, "good")
    again = po.review(labelled().sample(frac=1, random_state=3), save_to="soup.jsonl")
    assert again.reviewed == 1
    assert again.item(again.first_open())["fields"] == [["text", "It is soup."]]
    assert again.frame().loc[30, "label_reviewed"] == "good"


def test_the_last_correction_of_a_row_counts_and_can_be_undone() -> None:
    review = po.review(labelled(), save_to="soup.jsonl")
    review.correct(10, "bad")
    review.correct(10, "good")
    review.correct(20, "good")
    review.correct(20, None)
    for each in (review, po.review(labelled(), save_to="soup.jsonl")):
        frame = each.frame()
        assert frame["label_reviewed"].dropna().to_dict() == {10: "good"}
        assert each.reviewed == 1


def test_the_frame_keeps_its_own_columns_and_types() -> None:
    before = labelled()
    review = po.review(before, save_to="soup.jsonl")
    review.correct(40, "good", note="?")
    after = review.frame()
    pd.testing.assert_frame_equal(after[list(before.columns)], before)
    assert after["label_reviewed"].dtype == before["label"].dtype
    assert after["review_note"].dropna().to_dict() == {40: "?"}
    assert list(before.columns) == ["text", "label", "confidence", "request_key"]


class Taste(enum.Enum):
    GOOD = "good"
    BAD = "bad"


@pytest.mark.parametrize(
    ("labels", "said", "chosen", "given"),
    [
        (pd.Categorical([1, 2, None, 2, 1]), "2", "1", 1),
        (pd.array([1, 2, None, 4, 5], dtype="Int64"), "4", "5", 5),
        (pd.Categorical([Taste.GOOD, Taste.BAD, None, Taste.BAD, Taste.GOOD]), "bad", "good", Taste.GOOD),
    ],
    ids=["numbers", "scale", "enum"],
)
def test_labels_of_any_type_keep_their_type(labels: Any, said: str, chosen: str, given: Any) -> None:
    review = po.review(labelled(label=labels), save_to="soup.jsonl")
    assert review.item(1)["label"] == said
    review.choose(1, chosen)
    assert review.frame().loc[40, "label_reviewed"] == given


def test_several_labels_per_row_keep_their_order() -> None:
    several = pd.Series([["hot"], ["cold", "thin"], [], ["thick"], ["hot", "thick"]], index=[10, 20, 30, 40, 50])
    review = po.review(labelled(label=several), labels=["hot", "cold", "thin", "thick"], save_to="soup.jsonl")
    assert review.multi
    review.correct(40, ["thick", "cold"])
    assert review.frame().loc[40, "label_reviewed"] == ["cold", "thick"]


def test_rows_with_the_same_request_are_reviewed_once() -> None:
    twins = labelled(request_key=["a" * 32, "b" * 32, "c" * 32, "a" * 32, "e" * 32])
    review = po.review(twins, save_to="soup.jsonl")
    assert len(review) == 4
    review.correct(40, "good")
    assert review.frame()["label_reviewed"].dropna().to_dict() == {10: "good", 40: "good"}


def test_the_review_shows_the_columns_of_the_prompt(client: po.Client) -> None:
    df = pd.DataFrame({"id": ["x", "y"], "title": ["Lamp", "Pan"], "text": ["Wonderful.", "Terrible."]})
    out = po.label_dataframe(
        df, "{title}: {text}", labels=["positive", "negative"], model="gpt-4o-mini", client=client, progress=False
    )
    review = po.review(out)
    assert review.item(0)["fields"] == [["title", "Lamp"], ["text", "Wonderful."]]
    assert review.item(0)["simulated"]
    assert str(review.path).endswith(".review.jsonl")
    assert review.path.parent.name == ".parallel_openai"
    assert po.review(out, text="id").item(1)["fields"] == [["id", "y"]]


def test_the_review_of_a_foreign_frame_shows_its_text_columns() -> None:
    frame = pd.DataFrame({"n": [1, 2], "said": ["a", "b"], "label": ["x", "y"]})
    review = po.review(frame)
    assert review.labels == ["x", "y"]
    assert shown(review) == ["a", "b"]
    review.correct(1, "x")
    assert po.review(frame.iloc[::-1]).frame()["label_reviewed"].dropna().to_dict() == {1: "x"}


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({}, {"label": "mark"}, "'mark'"),
        ({}, {"text": "words"}, "'words'"),
        ({"label": [None] * 5}, {}, "labels="),
        ({"text": [1, 2, 3, 4, 5]}, {}, "text="),
    ],
    ids=["no such column of labels", "no such text", "no label at all", "no text at all"],
)
def test_missing_columns_and_labels_are_reported(change: dict[str, Any], options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        po.review(labelled(**change), **options)


def test_an_unknown_label_is_refused_and_nothing_is_written() -> None:
    review = po.review(labelled(), save_to="soup.jsonl")
    with pytest.raises(InvalidInputError, match="no label 'superb'; there are: bad, good"):
        review.correct(10, "superb")
    with pytest.raises(InvalidInputError, match="no row 99"):
        review.correct(99, "good")
    assert not Path("soup.jsonl").exists()


def test_corrections_that_were_joined_without_a_newline_are_all_known() -> None:
    po.review(labelled(), save_to="one.jsonl").correct(10, "bad", note="{no}{yes}")
    po.review(labelled(), save_to="two.jsonl").correct(20, "good")
    one, two = (Path(f"{each}.jsonl").read_bytes() for each in ("one", "two"))
    Path("soup.jsonl").write_bytes(one.strip() + two)
    found = po.review(labelled(), save_to="soup.jsonl").frame()
    assert found["label_reviewed"].dropna().to_dict() == {10: "bad", 20: "good"}
    assert found["review_note"].dropna().to_dict() == {10: "{no}{yes}"}


def test_a_torn_line_in_the_corrections_is_skipped() -> None:
    review = po.review(labelled(), save_to="soup.jsonl")
    review.correct(10, "bad")
    review.correct(20, "good")
    whole = Path("soup.jsonl").read_bytes()
    for cut in range(len(whole)):
        Path("soup.jsonl").write_bytes(whole[:cut])
        again = po.review(labelled(), save_to="soup.jsonl")
        again.correct(50, "bad")
        found = po.review(labelled(), save_to="soup.jsonl").frame()["label_reviewed"].dropna().to_dict()
        assert found[50] == "bad"
        assert found.keys() <= {10, 20, 50}
        assert (10 in found) == (whole[:cut].count(b"\n") > 0 or cut == whole.index(b"\n"))


@pytest.mark.parametrize("change", ["delete", "empty", "cut", "replace"])
def test_a_deleted_file_of_corrections_is_written_again(change: str) -> None:
    review, place = po.review(labelled(), save_to="soup.jsonl"), Path("soup.jsonl")
    review.correct(10, "good")
    review.correct(20, "bad")
    review.correct(10, "bad")
    if change == "replace":
        Path("other").write_bytes(place.read_bytes().splitlines(keepends=True)[0])
        Path("other").replace(place)
    elif change == "delete":
        place.unlink()
    else:
        place.write_bytes(b"" if change == "empty" else place.read_bytes()[:-20])
    review.correct(50, "good")
    found = po.review(labelled(), save_to="soup.jsonl").frame()["label_reviewed"].dropna().to_dict()
    assert found == {10: "bad", 20: "bad", 50: "good"}


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b'[{"model":"m"},{"id":1}]\n', b'[{"a":1}]', b"{}"], ids=repr)
def test_a_file_that_holds_no_corrections_is_refused_and_unchanged(content: bytes) -> None:
    Path("soup.jsonl").write_bytes(content)
    with pytest.raises(JournalError, match="is not a file of corrections"):
        po.review(labelled(), save_to="soup.jsonl")
    assert Path("soup.jsonl").read_bytes() == content


def test_on_a_full_disk_the_row_stays_unreviewed() -> None:
    Path("folder").write_text("a file stands where the folder should be")
    review = po.review(labelled())
    review._corrections.path = Path("folder/soup.jsonl")
    with pytest.raises(JournalError, match="cannot be written"):
        review.correct(10, "bad")
    assert review.reviewed == 0


def test_a_review_can_be_done_in_a_spreadsheet() -> None:
    review = po.review(labelled(text=["=1+1", 'Cold, "very"', "Zoë\nsaid", "It is soup.", "-"]), save_to="soup.jsonl")
    assert review.to_csv("soup.csv") == 5
    table = pd.read_csv("soup.csv", dtype="string")
    assert table["text"].tolist() == ["Zoë\nsaid", "It is soup.", 'Cold, "very"', "'=1+1", "'-"]
    table.loc[0, "label_reviewed"] = "good"
    table.loc[3, ["label_reviewed", "review_note"]] = ["bad", "no soup"]
    table.to_csv("filled.csv", index=False, sep=";")
    assert review.read_csv("filled.csv") == 2
    assert review.read_csv("filled.csv") == 0
    assert review.frame()["label_reviewed"].dropna().to_dict() == {10: "bad", 30: "good"}
    assert review.frame()["review_note"].dropna().to_dict() == {10: "no soup"}


def test_a_wrong_label_in_the_spreadsheet_is_reported_with_its_line_and_nothing_is_read() -> None:
    review = po.review(labelled(), save_to="soup.jsonl")
    review.to_csv("soup.csv")
    table = pd.read_csv("soup.csv", dtype="string")
    table["label_reviewed"] = ["good", "goood", "", "", ""]
    table.to_csv("soup.csv", index=False)
    with pytest.raises(InvalidInputError, match=r"Line 3 of soup.csv: There is no label 'goood'"):
        review.read_csv("soup.csv")
    assert review.reviewed == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"a,b\n1,2\n", "no column 'request_key'"), (b"\xff\xfe", "not UTF-8"), (None, "cannot be read")],
    ids=["another table", "another encoding", "no file"],
)
def test_a_csv_file_of_another_format_is_refused(content: bytes | None, words: str) -> None:
    if content is not None:
        Path("other.csv").write_bytes(content)
    with pytest.raises(InvalidInputError, match=words):
        po.review(labelled()).read_csv("other.csv")


def test_without_widgets_a_review_renders_as_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "parallel_openai._labels.reviewing.widget", None)
    review = po.review(labelled(text=["<b>Fine</b>", "x", "y", "z", "w"]), save_to="soup.jsonl")
    review.correct(10, "bad")
    bundle = review._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"}
    assert "&lt;b&gt;Fine&lt;/b&gt;" in bundle["text/html"]
    assert "good → bad" in bundle["text/html"]
    assert repr(review).startswith("Review of 5 rows, 1 of them reviewed; corrections in soup.jsonl.")
    with pytest.raises(po.errors.MissingDependencyError, match="needs anywidget"):
        _ = review.widget


def test_an_empty_frame_has_nothing_to_review() -> None:
    review = po.review(labelled().head(0), save_to="soup.jsonl")
    assert len(review) == 0
    assert review.item(0)["total"] == 0
    assert review.frame()["label_reviewed"].tolist() == []
