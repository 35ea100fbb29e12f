"""Read a frame's rows in blocks, which is much faster than pandas row by row, and add columns to it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from itertools import chain, repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from parallel_openai._arguments import a_type
from parallel_openai.errors import ColumnExistsError, ColumnNotFoundError, InvalidInputError

#: Rows read at a time: enough to amortise pandas' cost per call, few enough that the first row is sent at once.
BLOCK = 1024


class Row(dict[str, Any]):
    """The row that a callable prompt gets: `row["text"]`, `row.text`; `row.name` is its index label.

    A column takes precedence over any attribute of its name, including `row.name`, `row.items` and `row.values`.

    >>> Row({"text": "Fine."}, name=7).text, Row({"items": 3}, name=7).items
    ('Fine.', 3)
    """

    __slots__ = ("name",)

    def __init__(self, values: dict[Any, Any], name: Hashable) -> None:
        super().__init__(values)
        self.name = name

    def __getattribute__(self, column: str) -> Any:
        if column in self and not column.startswith("__"):
            return self[column]
        return super().__getattribute__(column)

    def __getattr__(self, column: str) -> Any:
        raise AttributeError(f"No column {column!r}; the row has {list(self)}.")


def check_frame(df: Any) -> None:
    if isinstance(df, pd.DataFrame):
        return
    hint = " Use series.to_frame() to make one of a Series." if isinstance(df, pd.Series) else ""
    raise InvalidInputError(f"df must be a pandas DataFrame, not {a_type(df)}.{hint}")


def find_column(df: pd.DataFrame, name: Hashable, what: str) -> Hashable:
    """Return the name if exactly one column has it."""
    count = Counter[Hashable](df.columns)[_label(df, name)] if has_column(df, name) else 0
    if count == 1:
        return name
    if count:
        raise InvalidInputError(
            f"The frame has {count} columns named {name!r}, and {what} needs one of them. Rename or drop the others."
        )
    raise ColumnNotFoundError(f"{what} names the column {name!r}, but the frame has {_list(df)}.")


def has_column(df: pd.DataFrame, name: Any) -> bool:
    try:
        hash(name)
    except TypeError:
        return False
    # In a set, because a MultiIndex with ("a", "b") also contains "a", and a DatetimeIndex with a day "2026"; and in a
    # list it would be compared with NA, which has no truth value.
    return _label(df, name) in set(df.columns)


def _label(df: pd.DataFrame, name: Any) -> Hashable:
    """The label that `df[name]` takes a name for: with several levels, "label" is ("label", "")."""
    label: Hashable = label_of(df, name) if isinstance(name, str) else name
    return label


def column_text(name: Hashable) -> str:
    """A column's name in templates and exports; the levels of a MultiIndex are joined by spaces.

    >>> column_text("text"), column_text(3), column_text(("review", "text")), column_text(("score", ""))
    ('text', '3', 'review text', 'score')
    """
    if isinstance(name, tuple):
        return " ".join(text for text in map(str, name) if text)  # compared after str(), because NA has no truth value
    return str(name)


def label_of(df: pd.DataFrame, name: str) -> Hashable:
    """The label of a new column; with several levels, a tuple of that length."""
    return name if df.columns.nlevels == 1 else (name, *[""] * (df.columns.nlevels - 1))


def columns_by_text(df: pd.DataFrame) -> dict[str, Hashable]:
    """The columns by `column_text`; of two with the same text, the one whose name is a string.

    >>> columns_by_text(pd.DataFrame(columns=["a", 1, "1"]))
    {'a': 'a', '1': '1'}
    """
    by_text: dict[str, Hashable] = {}
    for name in df.columns:
        if column_text(name) not in by_text or isinstance(name, str):
            by_text[column_text(name)] = name
    return by_text


def _list(df: pd.DataFrame) -> str:
    names = [str(name) for name in df.columns]
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "") if names else "no columns"


def rows_of(df: pd.DataFrame, columns: Sequence[Hashable]) -> Iterator[tuple[Any, ...]]:
    """The columns' values row by row, as Python objects; missing values of any kind are None.

    >>> list(rows_of(pd.DataFrame({"a": [1, None], "b": ["x", pd.NA]}), ["b", "a"]))
    [('x', 1.0), (None, None)]
    """
    if not columns:
        return repeat((), len(df))
    whole = [df[column] for column in columns]
    blocks = (
        zip(*(_values(series.iloc[start : start + BLOCK]) for series in whole), strict=True)
        for start in range(0, len(df), BLOCK)
    )
    return chain.from_iterable(blocks)


def _values(series: Any) -> list[Any]:
    if isinstance(series.dtype, pd.SparseDtype):
        series = series.sparse.to_dense()
    if series.dtype.kind == "f" and series.dtype.itemsize < 8:
        # By their shortest repr: the 64-bit float nearest to a 32-bit 0.1 is 0.10000000149011612.
        short = series.to_numpy(dtype=f"f{series.dtype.itemsize}", na_value=float("nan"))
        values: list[Any] = list(map(float, short.astype(str)))
    else:
        values = series.tolist()
    missing = series.isna().to_numpy()
    if series.dtype.kind == "f":  # Arrow and masked arrays tell NaN from what is missing
        missing = missing | np.isnan(series.to_numpy(dtype="float64", na_value=np.nan))
    if missing.any():
        for position in missing.nonzero()[0]:
            values[position] = None
    return values


def numbers_of(df: pd.DataFrame, column: Hashable) -> npt.NDArray[np.float64]:
    """The column's numbers, NaN if missing. Text that spells a number is one, since CSV files have nothing else.

    >>> numbers_of(pd.DataFrame({"confidence": ["0.5", None, "high"]}), "confidence")
    Traceback (most recent call last):
        ...
    parallel_openai.errors.InvalidInputError: The column 'confidence' must hold numbers, and row 2 has 'high'.
    """
    try:
        return df[column].to_numpy(dtype="float64", na_value=np.nan)
    except (TypeError, ValueError):
        return np.array([_number(cell, column, row) for row, (cell,) in enumerate(rows_of(df, [column]))])


def _number(cell: Any, column: Hashable, row: int) -> float:
    try:
        return math.nan if cell is None else float(cell)
    except (TypeError, ValueError):
        raise InvalidInputError(f"The column {column!r} must hold numbers, and row {row} has {cell!r:.80}.") from None


def keys_of(cell: Any) -> list[Any]:
    """The keys of a row's requests: one, or one per sample, which parquet files return in an array."""
    return list(cell) if isinstance(cell, (list, tuple, np.ndarray)) else [cell]


def labels_of(df: pd.DataFrame) -> Iterator[Any]:
    for start in range(0, len(df), BLOCK):
        yield from df.index[start : start + BLOCK].tolist()


def check_free(df: pd.DataFrame, names: Sequence[str], prefix: str) -> None:
    """Check that the result columns overwrite none of the frame's own."""
    if not isinstance(prefix, str):
        raise InvalidInputError(f"prefix must be a string such as 'new_', not {prefix!r:.200}.")
    taken = [prefix + name for name in names if prefix + name in df.columns]
    if taken:
        why = (
            " What an earlier call added is replaced only if nothing in it was changed and this call does not read it."
            if "parallel_openai" in df.attrs
            else ""
        )
        raise ColumnExistsError(
            f"The frame already has {', '.join(map(repr, taken))}, where the results would go. Pass prefix='new_' for "
            f"other names, or drop {'them' if len(taken) > 1 else 'it'} first: df.drop(columns={taken}).{why}"
        )
    if type(df) is not pd.DataFrame:  # a subclass may refuse further columns: let it do so now, on one row
        first = df.iloc[:1]
        with_columns(first, {prefix + name: [None] * len(first) for name in names})


def with_columns(df: pd.DataFrame, columns: dict[str, Any]) -> pd.DataFrame:
    """A copy of the frame with arrays as additional columns, joined by position, and with its flags and a subclass's
    `_metadata`, which concat drops."""
    added = pd.DataFrame({name: pd.Series(values, index=df.index) for name, values in columns.items()}, index=df.index)
    if df.columns.nlevels > 1:  # the names must be tuples as long as the frame's own
        added.columns = pd.MultiIndex.from_tuples([label_of(df, name) for name in columns])  # type: ignore[misc]  # of several levels
    added.columns.names = df.columns.names  # or concat would drop them
    out = pd.concat([df, added], axis=1) if len(df.columns) else added
    if df.columns.nlevels == 1 and df.columns.dtype == object and df.columns.hasnans:
        # Of names such as None and NA, concat makes NaN.
        out.columns = pd.Index([*df.columns, *columns], dtype=object, name=df.columns.name, tupleize_cols=False)
    whole: pd.DataFrame = out.__finalize__(df)  # type: ignore[operator]  # which the stubs leave out
    return whole


def is_missing(value: Any) -> bool:
    """Whether a cell is None, NaN, NA or NaT."""
    return value is None or (type(value) is not str and pd.api.types.is_scalar(value) and bool(pd.isna(value)))
