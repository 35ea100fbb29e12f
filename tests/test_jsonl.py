"""JSON in and out."""

from __future__ import annotations

import dataclasses
import enum
import json
import os
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_openai._json import dumps, dumps_strictly, loads

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
ANY_TEXT = st.text(st.characters(exclude_categories=()))


@given(JSON)
def test_plain_json_round_trips_unchanged(value: Any) -> None:
    assert loads(dumps(value)) == value


@given(st.dictionaries(ANY_TEXT, ANY_TEXT | st.integers()))
def test_any_text_round_trips_even_with_lone_surrogates(value: Any) -> None:
    assert json.loads(dumps(value)) == value


@given(JSON)
def test_json_never_contains_a_line_break(value: Any) -> None:
    assert b"\n" not in dumps(value)


@given(st.dictionaries(st.text(), st.integers()))
def test_sorted_keys_do_not_depend_on_the_order(value: dict[str, int]) -> None:
    assert dumps(value, sort_keys=True) == dumps(dict(reversed(value.items())), sort_keys=True)


@dataclasses.dataclass
class Point:
    x: int


class Kind(enum.Enum):
    ODD = "odd"


class Oddity:
    def __str__(self) -> str:
        return "odd"

    def __repr__(self) -> str:  # without an address, which would name the test anew in each process
        return "Oddity()"


class Model:
    """What pydantic's models look like from here."""

    def model_dump(self, mode: str) -> dict[str, str]:
        return {"mode": mode}


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Point(1), {"x": 1}),
        (Oddity(), "odd"),
        (Model(), {"mode": "json"}),
        (memoryview(b"ab"), "YWI="),
        (MappingProxyType({"b": 1}), {"b": 1}),
    ],
)
def test_other_objects_become_the_nearest_json(value: Any, written: Any) -> None:
    assert json.loads(dumps({"a": value})) == {"a": written}


def test_a_lone_surrogate_does_not_change_how_other_values_are_written() -> None:
    values = {"a": ["\ud800", Kind.ODD, MappingProxyType({"b": {2}}), float("nan"), (1, True, None)]}
    assert json.loads(dumps(values)) == {"a": ["\ud800", "odd", {"b": [2]}, None, [1, True, None]]}


def test_a_path_is_written_as_a_string() -> None:
    class Place(os.PathLike[str]):
        def __fspath__(self) -> str:
            return "a/b"

    assert dumps(Place()) == b'"a/b"'


@pytest.mark.parametrize("value", [{1}, b"a", 1j, Oddity(), pd.NA, "\ud800", 2**70, [Oddity()]], ids=repr)
def test_strict_dumping_refuses_objects_that_are_not_json(value: Any) -> None:
    with pytest.raises(TypeError):
        dumps_strictly({"a": value})


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (np.array([1, 2]), [1, 2]),
        (np.array([{"a": np.float64(1.5)}], dtype=object), [{"a": 1.5}]),
        (np.array(["a"]), ["a"]),
        (np.float16(0.5), 0.5),
        ((1, 2), [1, 2]),
        ({1: "a"}, {"1": "a"}),
    ],
    ids=repr,
)
def test_strict_dumping_accepts_numpy_values(value: Any, written: Any) -> None:
    assert json.loads(dumps_strictly({"a": value})) == {"a": written}


@pytest.mark.parametrize(
    "text", [b"", b"{", b"{'a': 1}", b"\xff", "[" * 100_000, b'{"a": 1} {'], ids=lambda t: repr(t)[:12]
)
def test_invalid_json_is_an_error(text: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the kind is the contract, the words are the parser's
        loads(text)


def test_nan_and_infinity_as_written_by_json_dumps_can_be_read() -> None:
    values = loads(json.dumps([float("inf"), 2**70, "\ud800"]))
    assert values == [float("inf"), 2**70, "\ud800"]
