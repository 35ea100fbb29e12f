"""DataFrames of every kind: each row gets its own answer, its cells are unchanged, and nothing is sent twice."""

from __future__ import annotations

import datetime
import decimal
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai.local.simulator import Server

ROWS = 9
DAYS = pd.date_range("2025-01-01", periods=ROWS)

DTYPES: dict[str, Callable[[], Any]] = {
    "int64": lambda: np.arange(ROWS),
    "uint8": lambda: np.arange(ROWS, dtype="uint8"),
    "Int64": lambda: pd.array([*range(ROWS - 1), None], dtype="Int64"),
    "float64": lambda: np.array([*np.linspace(0, 1, ROWS - 1), np.nan]),
    "float32": lambda: np.linspace(0, 1, ROWS, dtype="float32"),
    "Float64": lambda: pd.array([*np.linspace(0, 1, ROWS - 1), None], dtype="Float64"),
    "complex": lambda: np.arange(ROWS) * 1j,
    "bool": lambda: np.arange(ROWS) % 2 == 0,
    "boolean": lambda: pd.array([True, False, None] * (ROWS // 3), dtype="boolean"),
    "object": lambda: pd.Series([None, 1, "a", 2.5, (1, 2), b"x", 2**70, {"a": 1}, [1]], dtype=object),
    "str": lambda: pd.Series(list("abcdefghi")),
    "string": lambda: pd.array([*"abcdefgh", None], dtype="string"),
    "category": lambda: pd.Categorical(list("abcabcabc"), ordered=True),
    "category of ints": lambda: pd.Categorical([3, 1, 2] * (ROWS // 3)),
    "datetime": lambda: DAYS,
    "datetime with zone": lambda: DAYS.tz_localize("Europe/Berlin"),
    "timedelta": lambda: DAYS - DAYS[0],
    "period": lambda: DAYS.to_period("D"),
    "interval": lambda: pd.interval_range(0, ROWS),
    "sparse": lambda: pd.arrays.SparseArray([0, 0, 1] * (ROWS // 3)),
    "decimal": lambda: [decimal.Decimal(each) / 4 for each in range(ROWS)],
    "date": lambda: [datetime.date(2025, 1, 1 + each) for each in range(ROWS)],
    "array": lambda: pd.Series([np.arange(each) for each in range(ROWS)]),
}
INDEXES: dict[str, Callable[[random.Random], Any]] = {
    "range": lambda chance: pd.RangeIndex(ROWS),
    "shuffled": lambda chance: pd.Index(chance.sample(range(100), ROWS)),
    "texts": lambda chance: pd.Index(chance.sample("abcdefghijkl", ROWS), name="name"),
    "duplicates": lambda chance: pd.Index(chance.choices("ab", k=ROWS)),
    "levels": lambda chance: pd.MultiIndex.from_arrays([chance.choices("ab", k=ROWS), range(ROWS)], names=["a", None]),
    "times": lambda chance: DAYS[::-1],
    "missing": lambda chance: pd.Index([1.5, np.nan, *range(ROWS - 2)]),
}
NAMES: dict[str, list[Any]] = {
    "texts": ["value", "other"],
    "ints": [1, 0],
    "tuples": [("a", 1), ("a", 2)],
    "twice": ["other", "other"],
}


@pytest.mark.parametrize("seed", range(70))
def test_each_row_of_any_frame_gets_its_answer_and_all_cells_stay_unchanged(
    server: Server, client: po.Client, seed: int
) -> None:
    chance = random.Random(seed)
    dtype, other = list(DTYPES)[seed % len(DTYPES)], chance.choice(list(DTYPES))
    index, names = INDEXES[list(INDEXES)[seed % len(INDEXES)]](chance), NAMES[list(NAMES)[seed % len(NAMES)]]
    marks = [f"mark-{seed}-{number}" for number in range(ROWS)]
    columns = [pd.Series(marks), *(pd.Series(DTYPES[each]()) for each in (dtype, other))]
    df = pd.concat(columns, axis=1)
    df.columns = pd.Index(["text", *names], dtype=object, tupleize_cols=False)
    df.index = index
    before = df.copy(deep=True)

    def ask(frame: pd.DataFrame) -> pd.DataFrame:
        out = po.process_dataframe(
            frame, "About {text}.", model="m", client=client, progress=False, save_to=f"{seed}.jsonl"
        )
        own = list(dict.fromkeys(frame.columns))
        pd.testing.assert_frame_equal(out[own], frame[own], check_column_type=False)
        wrong = [
            mark for mark, text in zip(frame["text"], out["response"], strict=True) if f"About {mark}." not in text
        ]
        assert wrong == []
        return out

    ask(df)
    sent = server.stats()["received"]
    assert sent == ROWS
    places = [*range(ROWS), chance.randrange(ROWS)]
    chance.shuffle(places)
    ask(df.iloc[places])
    assert server.stats()["received"] == sent
    pd.testing.assert_frame_equal(df, before)


@pytest.mark.parametrize("name", [pd.NA, pd.NaT, None, float("nan")], ids=repr)
def test_a_column_without_a_name_is_allowed(client: po.Client, name: Any) -> None:
    df = pd.DataFrame([["one", 1]]).set_axis(pd.Index(["text", name], dtype=object), axis=1)
    out = po.process_dataframe(df, "About {text}.", model="m", client=client, progress=False)
    assert "About one." in out["response"].iloc[0]
    assert out.iloc[0, 1] == 1
    assert type(out.columns[1]) is type(name)


class Map(pd.DataFrame):
    """As geopandas' frames, with something of its own beside the cells."""

    _metadata = ["crs"]  # noqa: RUF012 - as pandas has it
    crs: Any

    @property
    def _constructor(self) -> type[Map]:
        return Map


VERBS: dict[str, Any] = {
    "process": lambda df, **options: po.process_dataframe(df, "text", model="gpt-4o-mini", **options),
    "explode": lambda df, **options: po.process_dataframe(df, "text", model="m", n=2, explode=True, **options),
    "label": lambda df, **options: po.label_dataframe(df, "text", labels=["a", "b"], model="gpt-4o-mini", **options),
    "embed": lambda df, **options: po.embed_dataframe(df, "text", model="text-embedding-3-small", **options),
}


@pytest.mark.parametrize("verb", VERBS)
def test_flags_and_metadata_of_a_frame_are_kept(client: po.Client, verb: str) -> None:
    df = Map({"text": ["one", "two"]}).set_flags(allows_duplicate_labels=False)
    df.crs, df.attrs["source"] = {"epsg": 4326}, "a survey"
    for _ in range(2):
        out = VERBS[verb](df, client=client, progress=False)
        assert (type(out), out.crs, out.attrs["source"]) == (Map, {"epsg": 4326}, "a survey")
        assert out.flags.allows_duplicate_labels is (verb == "explode")
    assert out["status"].eq("succeeded").all()


class Narrow(pd.DataFrame):
    """Knows its columns, and wants no others."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if len(self.columns) > 1:
            raise ValueError("Only texts.")

    @property
    def _constructor(self) -> type[Narrow]:
        return Narrow


@pytest.mark.parametrize("verb", VERBS)
def test_a_frame_subclass_that_refuses_new_columns_raises_before_anything_is_sent(
    server: Server, client: po.Client, verb: str
) -> None:
    with pytest.raises(ValueError, match="Only texts"):
        VERBS[verb](Narrow({"text": ["one"]}), client=client, progress=False)
    assert server.stats()["received"] == 0
