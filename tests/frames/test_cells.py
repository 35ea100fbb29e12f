"""A cell's text in a prompt is complete, and the same for every type that can hold the value."""

from __future__ import annotations

import dataclasses
import decimal
import logging
import os
import subprocess
import sys
from collections import OrderedDict, deque, namedtuple
from typing import Any

import numpy as np
import pandas as pd
import pydantic
import pytest

from parallel_openai._frames.columns.cell_text import prompt_value
from parallel_openai._frames.columns.table import Row, rows_of
from parallel_openai._requests.template import BadPromptError, parse_template
from parallel_openai.local.simulator import Server
from tests.frames.conftest import Verb, asked, codes, prompts

Point = namedtuple("Point", "x y")


@dataclasses.dataclass
class Item:
    name: str
    tags: set[str]


class Model(pydantic.BaseModel):
    name: str
    seen: list[int]


class Told:
    def __str__(self) -> str:
        return "a text of its own"


class Untold:
    pass


def test_a_long_array_is_filled_into_the_prompt_completely(ask: Verb) -> None:
    words = [f"word{number}" for number in range(1200)]
    df = pd.DataFrame({"words": pd.Series([np.array(words, dtype=object)], dtype=object)})
    with np.printoptions(threshold=3):
        [text] = prompts(ask(df, "{words}"))
    assert text == '["' + '", "'.join(words) + '"]'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (["a", None, 1, 2.5, 3.0, True, float("nan")], '["a", null, 1, 2.5, 3, true, null]'),
        (np.array([0.1, 2.0], dtype="float32"), "[0.1, 2]"),
        (np.array([[1, 2], [3, 4]]), "[[1, 2], [3, 4]]"),
        (np.array(5), "5"),
        (np.ma.array([1, 2], mask=[False, True]), "[1, null]"),
        (np.array([(1, 0.1)], dtype=[("id", "i4"), ("share", "f4")]), '[{"id": 1, "share": 0.1}]'),
        ({"n": np.int64(1), "s": np.str_("ë"), 3: None}, '{"n": 1, "s": "ë", "3": null}'),
        (OrderedDict(a=(1, [2])), '{"a": [1, [2]]}'),
        ({"b", "a", "c"}, '["a", "b", "c"]'),
        (frozenset({10, 9, 2.5}), "[2.5, 9, 10]"),
        ({frozenset({2, 1}), frozenset({3}), "x"}, '["x", [1, 2], [3]]'),
        (deque([1, 2]), "[1, 2]"),
        (range(3), "[0, 1, 2]"),
        (pd.DataFrame({"a": range(60), "b": "x"}), str([{"a": n, "b": "x"} for n in range(60)]).replace("'", '"')),
        (pd.Series([1.0, None]), "[1, null]"),
        (pd.Series({"k": 1}), '{"k": 1}'),
        (pd.array([1, None], dtype="Int64"), "[1, null]"),
        (pd.Index(["a"]), '["a"]'),
        ([pd.Timestamp("2026-03-01"), decimal.Decimal("1.10")], '["2026-03-01 00:00:00", "1.10"]'),
        (Item("lamp", {"b", "a"}), '{"name": "lamp", "tags": ["a", "b"]}'),
        (Model(name="lamp", seen=[1]), '{"name": "lamp", "seen": [1]}'),
        (Point(1, "a"), '{"x": 1, "y": "a"}'),
        (Told(), "a text of its own"),
        (np.float32(0.1), "0.1"),
        (np.float16(0.1), "0.1"),
        (np.datetime64("2026-03-01"), "2026-03-01 00:00:00"),
        (np.int8(3), "3"),
        ([np.bool_(True)], "[true]"),
        (2020.0, "2020"),
        (1e300, "1e+300"),
        (float("inf"), "inf"),
        (decimal.Decimal("1.10"), "1.10"),
        (b"bytes", "b'bytes'"),
        (True, "True"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_cell_of_any_type_is_filled_in_completely(value: Any, text: str) -> None:
    assert format(prompt_value(value)) == text


NO_TEXT = {
    "an object": Untold(),
    "a class": Untold,
    "in a list": [Untold()],
    "a method": {"a": 1}.items,
    "a function": print,
    "a generator": (letter for letter in "ab"),
    "a view of memory": memoryview(b"a"),
    "deep in a dict": {"deep": [{"er": Untold()}]},
    "in a series": pd.Series([Untold()]),
}


@pytest.mark.parametrize("value", NO_TEXT.values(), ids=NO_TEXT)
def test_a_value_that_has_only_a_memory_address_as_text_is_refused(value: Any) -> None:
    with pytest.raises(BadPromptError, match=r"A value of type \w+ has no text to fill in"):
        prompt_value(value)


def test_a_row_with_an_object_without_text_fails_without_being_sent(ask: Verb, server: Server) -> None:
    out = ask(pd.DataFrame({"x": [Untold(), "fine"]}), "{x}")
    assert codes(out) == ["invalid_prompt", None]
    assert server.stats()["received"] == 1


def test_a_set_has_the_same_text_in_every_process() -> None:
    module = "parallel_openai._frames.columns.cell_text"
    code = f"from {module} import prompt_value; print(prompt_value({{'a', ('x',), frozenset('xy')}}))"
    told = set()
    for seed in "12":
        env = {**os.environ, "PYTHONHASHSEED": seed}
        told.add(subprocess.run([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, check=True).stdout)
    assert len(told) == 1


FLOATS = ["float64", "float32", "float16", "Float64", "Float32", "float[pyarrow]", "double[pyarrow]", "Sparse[float32]"]


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_number_has_one_text_whatever_its_dtype(dtype: str) -> None:
    df = pd.DataFrame({"x": pd.Series([0.1, None, 2.0], dtype="float64").astype(dtype)})
    assert [prompt_value(value) for (value,) in rows_of(df, ["x"])] == [0.1, None, 2]


def test_nan_in_an_array_with_missing_values_is_missing_too() -> None:
    pa = pytest.importorskip("pyarrow")
    arrow = pd.arrays.ArrowExtensionArray(pa.array([0.5, float("nan"), None]))
    masked = pd.arrays.FloatingArray(np.array([0.5, np.nan, 1.0]), np.array([False, False, True]))
    df = pd.DataFrame({"arrow": arrow, "masked": masked})
    assert list(rows_of(df, ["arrow", "masked"])) == [(0.5, 0.5), (None, None), (None, None)]


def test_whole_numbers_beside_a_missing_one_are_shown_as_whole_numbers_with_a_warning(
    ask: Verb, caplog: pytest.LogCaptureFixture
) -> None:
    whole = ask(pd.DataFrame({"year": [2020, 2021]}), "Year {year}?", system="In {year}.")
    with caplog.at_level(logging.WARNING, "parallel_openai"):
        out = ask(pd.DataFrame({"year": [2020, None, 2021]}), "Year {year}?", system="In {year}.")
    assert [body["messages"][1]["content"] for body in asked(whole)] == ["Year 2020?", "Year 2021?"]
    assert out.attrs["parallel_openai"]["restored"] == 2
    assert "'year' holds whole numbers as decimals" in caplog.text
    caplog.clear()
    ask(out.dropna(subset="year")[["year"]], "Year {year}?")
    assert "decimals" not in caplog.text


def test_format_specs_apply_to_cells(ask: Verb) -> None:
    df = pd.DataFrame({"x": [2020.0], "d": [pd.Timestamp("2026-03-02")], "tags": [np.array(["a"], dtype=object)]})
    assert prompts(ask(df, "{x:.1f}|{x:>6}|{x:,}|{d:%Y}|{tags:>8}")) == ['2020.0|  2020|2,020|2026|   ["a"]']


def test_columns_take_precedence_over_a_rows_methods(ask: Verb) -> None:
    df = pd.DataFrame({"name": ["Ann"], "items": ["a lamp"], "values": [3], "get": ["it"], "text": ["Hm"]}, index=[7])
    out = ask(df, lambda row: f"{row.name} {row.items} {row.values} {row.get} {row['text']} {len(row)} {dict(row)}")
    assert prompts(out) == [f"Ann a lamp 3 it Hm 5 {df.iloc[0].to_dict()}"]
    row = Row({"text": "Fine."}, name=7)
    assert (row.name, list(row.items()), row.get("x")) == (7, [("text", "Fine.")], None)
    with pytest.raises(AttributeError, match="No column 'nothing'"):
        row.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("template", "columns"),
    [
        ("{score:2}", ["score:2"]),
        ("{score:3}", ["score"]),
        ("{text:en}{text}", ["text:en", "text"]),
        ("{Really?!}", ["Really?!"]),
        ("{Really?!!r}", ["Really?!"]),
        ("{og:title}", ["og:title"]),
        ("{[og:title]}", ["og:title"]),
        ("{a{b}}", ["a{b}"]),
        ("{[a{b}]:>9}", ["a{b}"]),
        ("{[text]}", ["text"]),
        ("{c[0]}", ["c[0]"]),
        ("{[c[0]]}", ["c[0]"]),
        ("{a!r}", ["a!r"]),
        ("{a!s}", ["a"]),
        ("{{text}}{{{text}}}", ["text"]),
        ("{ }", [" "]),
    ],
)
def test_the_longest_name_that_fits_is_the_column(template: str, columns: list[str]) -> None:
    names = ["text", "score", "score:2", "text:en", "Really?!", "og:title", "a{b}", "c[0]", "a", "a!r", " "]
    assert list(parse_template(template, names).columns) == columns
