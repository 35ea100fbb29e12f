"""A saved frame is loaded exactly as it was, cell for cell."""

from __future__ import annotations

import datetime
import decimal
import enum
import math
import string
import uuid
import zoneinfo
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import parallel_openai as po
from parallel_openai.errors import InvalidInputError

PATHS = ["out.csv", "out.parquet"]


def cells_of(values: list[Any]) -> Any:
    array = np.empty(len(values), dtype=object)
    for position, value in enumerate(values):
        array[position] = value
    return pd.Series(array, dtype=object)


def check_same(back: pd.DataFrame, frame: pd.DataFrame) -> None:
    """The same to pandas, and in objects to Python too, where 1 is neither True nor 1.0, and None no NaN."""
    assert back.shape == frame.shape
    pd.testing.assert_index_equal(back.index, frame.index, exact=True)
    pd.testing.assert_index_equal(back.columns, frame.columns, exact=True)
    for number, dtype in enumerate(frame.dtypes):
        if pd.api.types.is_object_dtype(dtype):  # pandas holds two NaN in lists for unequal
            assert pd.api.types.is_object_dtype(back.dtypes.iloc[number])
        else:
            pd.testing.assert_series_equal(back.iloc[:, number], frame.iloc[:, number], check_exact=True)
        for cell, expected in zip(back.iloc[:, number], frame.iloc[:, number], strict=True):
            check_same_cell(cell, expected)
    assert list(map(repr, back.columns)) == list(map(repr, frame.columns))
    assert repr(back.attrs) == repr(frame.attrs)


def check_same_cell(cell: Any, expected: Any) -> None:
    assert type(cell) is type(expected)
    if isinstance(expected, np.ndarray):
        assert cell.dtype == expected.dtype
        assert cell.shape == expected.shape
        cell, expected = cell.tolist(), expected.tolist()
    if isinstance(expected, (set, frozenset)):  # which stand in another order in each process
        cell, expected = sorted(cell, key=repr), sorted(expected, key=repr)
    assert repr(cell) == repr(expected)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5) | st.sampled_from(
    [
        "",
        " ",
        "nan",
        "None",
        "null",
        "TRUE",
        "a\rb",
        "a\r\nb",
        '"',
        ",",
        "=1+1",
        "'=1",
        "'",
        "-1",
        "\ufeff",
        "\x00",
        "007",
    ]
)
INTEGERS = st.integers(-(2**70), 2**70)
MOMENTS = st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1))
#: Cells of a column of objects, of the kinds that may stand beside each other in one.
ONES = st.none() | st.booleans() | INTEGERS | st.floats() | TEXTS | st.just(pd.NA) | st.just(pd.NaT)
TREES = st.recursive(
    ONES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3) | st.tuples(inner),
    max_leaves=5,
)


def with_gaps(values: st.SearchStrategy[Any], dtype: str) -> Any:
    return values | st.none(), dtype


COLUMNS: dict[str, tuple[st.SearchStrategy[Any], str]] = {
    "default text": (TEXTS, "infer"),
    "object text": with_gaps(TEXTS, "object"),
    "string": with_gaps(TEXTS, "string"),
    "string[python]": with_gaps(TEXTS, "string[python]"),
    "object": (ONES, "object"),
    "trees": (TREES, "object"),
    "big ids": with_gaps(INTEGERS, "object"),
    "ids": with_gaps(st.integers(2**60, 2**63 - 1), "object"),
    # The one NaN, since pandas compares lists by identity or value, and another NaN is neither.
    "lists": with_gaps(st.lists(st.floats(allow_nan=False) | st.sampled_from([math.nan, None]), max_size=3), "object"),
    "bool": (st.booleans(), "bool"),
    "boolean": with_gaps(st.booleans(), "boolean"),
    **{
        f"{u}int{bits}": (st.integers(0, 2 ** (bits - 1) - 1), f"{u}int{bits}")
        for u in ("", "u")
        for bits in (8, 32, 64)
    },
    **{
        f"{u}Int{bits}": with_gaps(st.integers(0, 2 ** (bits - 1) - 1), f"{u}Int{bits}")
        for u in ("", "U")
        for bits in (16, 64)
    },
    "float16": (st.floats(width=16), "float16"),
    "float32": (st.floats(width=32), "float32"),
    "float64": (st.floats(), "float64"),
    "Float64": with_gaps(st.floats(allow_nan=False), "Float64"),
    "complex128": (st.complex_numbers(), "complex128"),
    "datetime64[ns]": with_gaps(MOMENTS, "datetime64[ns]"),
    "datetime64[s]": with_gaps(MOMENTS.map(lambda moment: moment.replace(microsecond=0)), "datetime64[s]"),
    "datetime64[us, UTC]": with_gaps(MOMENTS, "datetime64[us, UTC]"),
    "datetime64[ns, Europe/Berlin]": with_gaps(MOMENTS, "datetime64[ns, UTC]"),
    "timedelta64[ns]": with_gaps(st.timedeltas(datetime.timedelta(-9999), datetime.timedelta(9999)), "timedelta64[ns]"),
    "category": with_gaps(TEXTS, "category"),
    "category of numbers": with_gaps(st.integers(-5, 5), "category"),
    "period": with_gaps(st.sampled_from(["2026-01", "2026-02"]), "period[M]"),
}


@st.composite
def columns(draw: Any) -> tuple[str, Any]:
    name = draw(st.sampled_from(sorted(COLUMNS)))
    values, dtype = COLUMNS[name]
    cells = draw(st.lists(values, min_size=3, max_size=3))
    if dtype == "object":
        return name, cells_of(cells)
    column = pd.Series(cells) if dtype == "infer" else pd.Series(cells, dtype=dtype)  # type: ignore[call-overload]
    return name, column.dt.tz_convert("Europe/Berlin") if "Berlin" in name else column


@pytest.mark.parametrize("path", PATHS)
@given(made=columns(), index=columns(), attrs=st.dictionaries(TEXTS, TREES, max_size=1))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_whatever_is_saved_comes_back_as_it_was(path: str, made: Any, index: Any, attrs: Any) -> None:
    name, column = made
    frame = pd.DataFrame({name: column, "second": ["x", "y", ""]})
    if index[0] not in ("float16", "trees", "lists", "complex128", "object"):
        frame.index = pd.Index(index[1], name=index[0])
    po.save(frame, path)
    check_same(po.load(path), frame)


class Tone(enum.Enum):
    GOOD = "good"


ODD = {
    "int and bool and float": [1, True, 1.0, "1", None],
    "every nothing": [None, float("nan"), pd.NA, pd.NaT],
    "NaN alone": [float("nan"), "x"],
    "NA alone": [pd.NA, 3],
    "user ids": [1790000000000000001, None],
    "beyond 64 bits": [89490200001234567891, -(2**64)],
    "beyond 64 bits, in lists": [[2**64], {"a": 2**70}],
    "infinite": [float("inf"), -0.0],
    "decimals": [decimal.Decimal("1.10"), None],
    "days": [datetime.date(2026, 3, 1), datetime.datetime(2026, 3, 1, 12, 30, 0, 5), datetime.time(1, 2)],
    "spans": [datetime.timedelta(1, 2, 3), pd.Timedelta("1ns")],
    "stamps": [pd.Timestamp("2026-03-01", tz="Europe/Berlin"), pd.Timestamp("2026-03-01 01:02:03.000000004")],
    "periods": [pd.Period("2026-03"), pd.Interval(0, 1, closed="left")],
    "bytes": [b"\xff\x00", None],
    "sets": [{"b", "a"}, frozenset([1])],
    "tuples": [(1, ("a",)), ()],
    "uuids": [uuid.UUID(int=1), Path("a/b")],
    "odd keys": [{1: "a", None: "b", ("x", 2): 3}, {"$type": "float", "value": "nan"}],
    "numbers of NumPy": [np.float32(0.1), np.int64(5), np.bool_(True)],
    "vectors": [np.array([0.1, 2], dtype="float32"), None],
    "vectors with gaps": [np.array([np.nan, np.inf]), np.array([])],
    "arrays of any kind": [np.array([[1, 2], [3, 4]]), np.array(["a", None], dtype=object)],
    "votes with arrays inside": [[np.array([1.5]), "a"], [None, "b"]],
    "empty dicts": [{}, {}],
    "one empty dict": [{}, None],
    "lists of numbers of two kinds": [[1, 2.0], [True]],
    "half of a character, in a list": [["\ud83d"], None],
    "long": ["x" * 200_000, "y\r\nz"],
    "nested deep": [eval("[" * 60 + "]" * 60)],
}


@pytest.mark.parametrize("path", ["out.csv", "out.parquet"])
def test_a_complex_number_keeps_both_its_parts(path: str) -> None:
    nan, inf = float("nan"), float("inf")
    out = pd.DataFrame({"z": [complex(0, nan), complex(nan, -inf), complex(-0.0, 1)]})
    po.save(out, path)
    assert list(map(repr, po.load(path)["z"])) == list(map(repr, out["z"]))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ODD)
def test_odd_cells_come_back_as_they_were(name: str, path: str) -> None:
    frame = pd.DataFrame({name: cells_of(ODD[name])})
    po.save(frame, path)
    check_same(po.load(path), frame)


DAYS = pd.date_range("2026-01-01", periods=4, freq="D")
FRAMES: dict[str, pd.DataFrame] = {
    "cuts": pd.DataFrame({"cut": pd.cut([1, 5, 9, np.nan], 3)}),
    "intervals": pd.DataFrame({"span": pd.array([pd.Interval(0, 1), None], dtype="interval[float64, right]")}),
    "intervals of days": pd.DataFrame({"span": pd.interval_range(DAYS[0], DAYS[-1])}),
    "old days": pd.DataFrame({"day": np.array(["0001-01-01", "9999-12-31", "NaT"], dtype="datetime64[s]")}),
    "tuples as names": pd.DataFrame([[1, 2]], columns=pd.Index([("a", 1), ("b", None)], tupleize_cols=False)),
    "two levels of names": pd.DataFrame(
        [[1, 2]], columns=pd.MultiIndex.from_tuples([("a", "x"), ("b", "")], names=["p", None])
    ),
    "NA as a name": pd.DataFrame({pd.NA: [1], None: [2], float("nan"): [3], 1: [4], "1": [5]}),  # type: ignore[dict-item]
    "days as names": pd.DataFrame([[1] * 4], columns=DAYS),
    "numbers as names": pd.DataFrame(np.zeros((2, 2))),
    "a filtered range": pd.DataFrame({"n": range(9)})[2:9:3],
    "a named range": pd.DataFrame({"n": [1]}, index=pd.RangeIndex(1, name="row")),
    "steps of days": pd.DataFrame({"n": range(4)}, index=DAYS),
    "an index of objects": pd.DataFrame(
        {"n": [1, 2]}, index=pd.Index([("a", 1), 2**70], dtype=object, tupleize_cols=False)
    ),
    "levels of every kind": pd.DataFrame(
        {"n": [1, 2]},
        index=pd.MultiIndex.from_arrays(
            [["x", None], pd.Categorical(["a", "b"]), [0.5, np.nan], DAYS[[0, 2]]], names=["n", "n", None, 1]
        ),
    ),
    "no rows": pd.DataFrame({"a": pd.array([], dtype="Int64"), "b": []}),
    "no columns": pd.DataFrame(index=pd.Index(["a", "b"])),
    "nothing": pd.DataFrame(),
    "gaps only": pd.DataFrame({"a": [None, None]}),
    "a blank line": pd.DataFrame({"a": ["", None, "x"]}),
    "names of our own": pd.DataFrame({"index": [1], "=x,\ny": [2]}, index=["a"]),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", FRAMES)
def test_odd_frames_come_back_as_they_were(name: str, path: str) -> None:
    frame = FRAMES[name].copy()
    frame.attrs = {"when": pd.Timestamp("2026-03-01"), "sizes": (1, 2**70), 5: {"a"}}
    po.save(frame, path)
    check_same(po.load(path), frame)


@pytest.mark.parametrize("dtype", ["int64[pyarrow]", "timestamp[ns, tz=UTC][pyarrow]", "list<item: string>[pyarrow]"])
@pytest.mark.parametrize("path", PATHS)
def test_arrow_dtypes_come_back(dtype: str, path: str) -> None:
    values: dict[str, list[Any]] = {
        "i": [2**62, None],
        "t": [pd.Timestamp("2026-01-01", tz="UTC"), None],
        "l": [["a", None], []],
    }
    import pyarrow

    kind = pyarrow.list_(pyarrow.string()) if dtype.startswith("list") else None
    frame = pd.DataFrame({"x": pd.Series(values[dtype[0]], dtype=dtype if kind is None else pd.ArrowDtype(kind))})
    po.save(frame, path)
    pd.testing.assert_frame_equal(po.load(path), frame)


def test_a_csv_file_saved_by_a_spreadsheet_can_be_loaded() -> None:
    frame = pd.DataFrame(
        {"t": ["a", "b;c"], "yes": [True, False], "maybe": pd.array([None, True], dtype="boolean"), "n": [1, 2]}
    )
    po.save(frame, "out.csv")
    Path("out.csv").write_bytes('\ufefft;yes;maybe;n\r\na;TRUE;;1\r\n"b;c";FALSE;TRUE;2\r\n'.encode())
    check_same(po.load("out.csv"), frame)
    Path("out.csv").write_bytes(b"t,yes,maybe,n\r\na,MAYBE,,1\r\nb,FALSE,,2\r\n")
    with pytest.raises(InvalidInputError, match="'MAYBE' is neither True nor False"):
        po.load("out.csv")


@pytest.mark.parametrize(
    "text", ["=1+1", "@a", "+x", "-x", "\tx", "'=1", "''-", "＝1", "-5", "'-5", "'tis", "", "plain", "\r=1"]
)
def test_formulas_are_escaped_for_spreadsheets_and_restored(text: str) -> None:
    frame = pd.DataFrame({"t": [text], "n": [-1], "l": [[text]], f"={text}": pd.Categorical([text])}, index=[text])
    po.save(frame, "out.csv", spreadsheet=True)
    written = pd.read_csv("out.csv", dtype=str, keep_default_na=False)
    for cell in [*written.iloc[0], *written.columns]:
        assert not cell.startswith(tuple("=+-@\t\r＝")) or cell in ("-1", "-5")
    check_same(po.load("out.csv"), frame)


def test_saving_the_same_frame_again_writes_the_same_bytes() -> None:
    frame = pd.DataFrame({letter: [{"b", "a", letter}] for letter in string.ascii_lowercase})
    contents = []
    for _ in range(2):
        for path in PATHS:
            po.save(frame, path)
        contents.append([Path(path).read_bytes() for path in (*PATHS, "out.csv.about.json")])
    assert contents[0] == contents[1]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_moment_keeps_its_zone_and_its_fold(suffix: str) -> None:
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    cells = [
        datetime.datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=berlin),
        [datetime.datetime(2026, 7, 1, tzinfo=berlin)],
        datetime.time(12, 30, tzinfo=berlin),
        datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=5.5))),
    ]
    po.save(pd.DataFrame({"at": pd.Series(cells, dtype=object)}), f"out.{suffix}")
    assert repr(po.load(f"out.{suffix}")["at"].tolist()) == repr(cells)
