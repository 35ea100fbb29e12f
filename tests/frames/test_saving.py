"""`load` restores what `save` wrote: types, index, lists and the run's summary, as Parquet and as CSV."""

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
from parallel_openai.errors import InvalidInputError, MissingDependencyError
from tests.frames.conftest import Verb

MOMENTS = ["2026-01-01", None, "2026-01-02 03:04:05.123", "2026-01-02"]
COLUMNS: dict[str, Any] = {
    "texts with gaps": ["a", None, "", 'quote " comma , line\nend'],
    "pandas' texts": pd.array(["1", None, "", "nan"], dtype="string"),
    "whole": [1, 2, 3, -4],
    "whole with gaps": pd.array([1, None, 3, 2**60], dtype="Int64"),
    "real": [0.1, np.nan, 1e300, 3],
    "real with gaps": pd.array([0.5, None, 1, 2], dtype="Float64"),
    "yes and no": [True, False, True, True],
    "yes, no and gaps": pd.array([True, None, False, True], dtype="boolean"),
    "categories": pd.Categorical(["x", None, "", "x"], categories=["x", "", "never"]),
    "numbers as categories": pd.Categorical([1, 2, 1, None], categories=[2, 1], ordered=True),
    "lists": [["a"], [], None, ["b", "c"]],
    "dicts": [{"a": 1.5}, {}, None, {"b": 2}],
    "anything": [1, "a", None, [1, {"x": None}]],
    "moments": pd.to_datetime(MOMENTS, format="ISO8601"),
    "moments in a zone": pd.to_datetime(MOMENTS, format="ISO8601", utc=True),
    "spans": pd.to_timedelta(["1h", None, "2s", "3 days"]),
}
INDEXES: dict[str, Any] = {
    "plain": None,
    "filtered": [3, 1, 7, 0],
    "texts, some twice": pd.Index(["a", "a", "b", ""], name="id"),
    "two levels": pd.MultiIndex.from_tuples([(1, "x"), (1, "y"), (2, "x"), (2, "y")], names=["shop", "shelf"]),
    "days": pd.DatetimeIndex(["2026-03-01", "2026-03-02", "2026-03-05", "2026-03-04"], name="day"),
}
PATHS = ["out.csv", "out.parquet"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_comes_back_with_its_type(name: str, path: str) -> None:
    frame = pd.DataFrame({name: COLUMNS[name]})
    frame.attrs["parallel_openai"] = {"model": "m", "seconds": 0.5, "errors": {}}
    po.save(frame, path)
    back = po.load(path)
    pd.testing.assert_frame_equal(back, frame)
    assert back.attrs == frame.attrs


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", INDEXES)
def test_an_index_comes_back(name: str, path: str) -> None:
    frame = pd.DataFrame({"text": list("abcd"), "n": range(4)}, index=INDEXES[name])
    po.save(frame, path)
    pd.testing.assert_frame_equal(po.load(path), frame)


@pytest.mark.parametrize("path", PATHS)
def test_a_frame_of_answers_comes_back_and_can_be_exported(label: Verb, reviews: pd.DataFrame, path: str) -> None:
    out = label(reviews, "{text}", labels=["positive", "negative"], samples=2, temperature=1)
    po.save(out, path)
    back = po.load(path)
    pd.testing.assert_frame_equal(back, out)
    assert back.attrs == json.loads(json.dumps(out.attrs))
    assert po.to_jsonl(back, "results.jsonl", format="results") == 3
    assert len(po.review(back)) == 3
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600


@pytest.mark.parametrize("path", PATHS)
def test_a_frame_without_rows_comes_back(path: str) -> None:
    frame = pd.DataFrame(COLUMNS).head(0)
    po.save(frame, path)
    assert po.load(path).shape == frame.shape


def test_a_csv_file_can_be_read_by_people() -> None:
    po.save(pd.DataFrame({"text": ["Zoë"], "label": pd.Categorical(["good"]), "votes": [["good", "bad"]]}), "out.csv")
    assert Path("out.csv").read_text("utf-8") == 'text,label,votes\nZoë,good,"[""good"",""bad""]"\n'


@pytest.mark.parametrize("path", PATHS)
def test_members_of_an_enum_become_their_values(path: str) -> None:
    tone = enum.Enum("tone", {"GOOD": "good", "BAD": "bad"})
    po.save(pd.DataFrame({"label": pd.Categorical([tone.GOOD, None, tone.BAD])}), path)  # type: ignore[attr-defined]
    assert po.load(path)["label"].dropna().tolist() == ["good", "bad"]


def test_the_suffix_determines_the_format() -> None:
    with pytest.raises(InvalidInputError, match=r"must end in .parquet or .csv, and is 'out.xlsx'"):
        po.save(pd.DataFrame(), "out.xlsx")


def test_duplicate_column_names_are_reported() -> None:
    with pytest.raises(InvalidInputError, match="same name"):
        po.save(pd.DataFrame([[1, 2]], columns=["a", "a"]), "out.csv")


def test_loading_a_missing_file_is_an_error() -> None:
    with pytest.raises(InvalidInputError, match=r"no file out\.csv"):
        po.load("out.csv")


@pytest.mark.parametrize(
    ("content", "words"),
    [("a,b\n1,2\n", "changed"), ("label\ngood\ngood\n", "changed"), ("label\nodd\n", "'odd' in a column of good")],
    ids=["other columns", "more rows", "another label"],
)
def test_loading_a_changed_csv_file_is_an_error(content: str, words: str) -> None:
    po.save(pd.DataFrame({"label": pd.Categorical(["good"])}), "out.csv")
    Path("out.csv").write_text(content)
    with pytest.raises(InvalidInputError, match=words):
        po.load("out.csv")
    Path("out.csv.about.json").unlink()
    with pytest.raises(InvalidInputError, match=r"no out.csv.about.json"):
        po.load("out.csv")


def test_saving_parquet_without_pyarrow_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match="pip install pyarrow"):
        po.save(pd.DataFrame({"a": [1]}), "out.parquet")


@pytest.mark.parametrize("path", ["answers.csv", "answers.parquet"])
def test_a_cell_that_cannot_be_saved_is_reported(path: str) -> None:
    out = pd.DataFrame({"response": pd.array(["fine", "\ud83d"], dtype="string[python]")}, index=["a", "b"])
    with pytest.raises(InvalidInputError, match="The row 'b' of the column 'response' holds half of a character"):
        po.save(out, path)


def test_the_bytes_are_the_same_under_every_pandas() -> None:
    out = pd.DataFrame(
        {"text": ["a", None, ""], "n": pd.array([1, None, 2], dtype="Int64"), "votes": [["a"], [], None]}
    )
    po.save(out, "out.csv")
    assert Path("out.csv").read_text("utf-8") == 'text,n,votes\na,1,"[""a""]"\n,,[]\n,2,\n'
    assert json.loads(Path("out.csv.about.json").read_text("utf-8")) == {
        "version": 2,
        "index": {"index_names": "[null]", "range": [0, 3, 1]},
        "names": {
            "index_names": "[null]",
            "levels": [{"dtype": "text"}],
            "texts": [["text", "n", "votes"]],
        },
        "columns": [{"dtype": "text", "empty": [2]}, {"dtype": "Int64"}, {"dtype": "object"}],
        "rows": 3,
        "attrs": "{}",
    }


def test_a_file_of_an_earlier_version_can_be_read() -> None:
    Path("out.csv").write_text('key,text,label,votes\n"x",a,1,"[""a""]"\n"y",,2,\n')
    about = {
        "index_levels": 1,
        "index_names": ["key"],
        "column_names": ["text", "label", "votes"],
        "columns": [
            {"dtype": "str"},
            {"dtype": "str"},
            {"dtype": "category", "categories": [1, 2], "kind": "int64", "ordered": True},
            {"dtype": "object"},
        ],
        "rows": 2,
        "attrs": {"parallel_openai": {"model": "m"}},
    }
    Path("out.csv.about.json").write_text(json.dumps(about))
    expected = pd.DataFrame(
        {"text": ["a", None], "label": pd.Categorical([1, 2], ordered=True), "votes": [["a"], None]},
        index=pd.Index(["x", "y"], name="key"),
    )
    back = po.load("out.csv")
    pd.testing.assert_frame_equal(back, expected)
    assert back.attrs == {"parallel_openai": {"model": "m"}}
