"""Frames as parquet: numbers, moments and lists as Arrow has them, all else as the texts that a CSV file would hold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from parallel_openai._disk.atomic_write import replacing
from parallel_openai._frames.exporting.arrow import need_pyarrow
from parallel_openai._frames.exporting.column_types import (
    Told,
    describe_objects,
    numbers_of,
    objects_of,
    read_column,
    with_gaps,
    write_column,
)
from parallel_openai._frames.exporting.exact_json import to_exact_json
from parallel_openai._json import dumps, loads

#: Where the file's metadata hold what is told of the frame.
_ABOUT = b"parallel_openai"
#: Where pandas itself looks for attrs.
_ATTRS = b"PANDAS_ATTRS"
#: Numbers that Arrow and parquet have too.
_NUMBERS = {"bool", "boolean", "float32", "float64", *(f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64))}
#: Parquet knows no dict without keys, and lists in lists only so deep.
_SIMPLE = re.compile(r"(list<item: ){0,3}(bool|int64|double|string|null)>*(?<!^string)(?<!^null)")


def write_parquet(
    place: Path, headers: Sequence[str], columns: Sequence[Any], about: Mapping[str, Any], attrs: Mapping[Any, Any]
) -> None:
    """Write the columns with what is told of them."""
    pyarrow = need_pyarrow()
    names = [name if name not in headers[:number] else f"{name}.{number}" for number, name in enumerate(headers)]
    fields = [pyarrow.field(name, column.type) for name, column in zip(names, columns, strict=True)]
    schema = pyarrow.schema(fields, metadata={_ABOUT: dumps(about), _ATTRS: dumps(attrs)})
    with replacing(place) as file:
        pyarrow.parquet.write_table(pyarrow.Table.from_arrays(list(columns), schema=schema), file)


def read_parquet(place: Path) -> tuple[dict[str, Any] | None, list[Any]]:
    """What is told of the frame, and the columns; None for a file of an earlier version."""
    pyarrow = need_pyarrow()
    table = pyarrow.parquet.read_table(place)
    about = (table.schema.metadata or {}).get(_ABOUT)
    return None if about is None else loads(about), table.columns


def write_arrow(values: pd.Series[Any], what: str) -> tuple[Any, Told]:
    """A column as Arrow's, and what `read_arrow` wants to know.

    Raises:
        InvalidInputError: it could not be made again as it is.
    """
    pyarrow, dtype = need_pyarrow(), values.dtype
    if values.dtype == object:
        return _write_objects(values, what, pyarrow)
    if isinstance(dtype, pd.DatetimeTZDtype):
        moments = values.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy()
        return pyarrow.array(moments, type=pyarrow.timestamp(dtype.unit, "UTC")), {"dtype": str(dtype)}
    if isinstance(dtype, np.dtype) and dtype.kind in "mM":
        return pyarrow.array(values.to_numpy()), {"dtype": str(dtype)}
    if str(dtype).lower() in _NUMBERS:
        numbers, gone = numbers_of(values.array)
        return pyarrow.array(numbers, mask=gone), {"dtype": str(dtype)}
    texts, told = write_column(values, what)
    return pyarrow.array(texts, type=pyarrow.string()), told


def read_arrow(column: Any, told: Mapping[str, Any]) -> Any:
    """The column's array.

    Raises:
        KeyError, TypeError, ValueError: it is none of such a column.
    """
    dtype = told["dtype"]
    if str(column.type) == "string":
        return read_column(column.to_pylist(), told)
    if dtype == "object" and "arrays" in told:
        vectors = [each.values.to_numpy(zero_copy_only=False) if each.is_valid else None for each in column]
        return objects_of(vectors, told)
    if dtype == "object":
        return objects_of(column.to_pylist(), told)
    if dtype.lower() in _NUMBERS:
        gone = column.is_null().to_numpy()
        numbers = np.array(column.fill_null(False if "bool" in dtype.lower() else 0).to_numpy())
        return with_gaps(numbers, gone, pd.api.types.pandas_dtype(dtype))
    found = pd.Series(np.array(column.to_numpy()))  # a copy, since Arrow's own may not be written to
    return (found.dt.tz_localize("UTC") if "," in dtype else found).astype(dtype).array


def _write_objects(values: pd.Series[Any], what: str, pyarrow: Any) -> tuple[Any, Told]:
    """As lists, dicts or numbers where Arrow gives back the very same."""
    cells, told = describe_objects(values)
    if "arrays" in told:
        return pyarrow.array(cells, type=pyarrow.list_(pyarrow.from_numpy_dtype(told["arrays"]))), told
    texts, told = write_column(values, what)
    try:
        arrow = pyarrow.array(cells)
    except (pyarrow.ArrowException, ValueError, TypeError, OverflowError):
        arrow = None
    if arrow is None or not _SIMPLE.fullmatch(str(arrow.type)) or not _is_same(arrow, texts):
        arrow = pyarrow.array(texts, type=pyarrow.string())
    return arrow, told


def _is_same(arrow: Any, texts: Sequence[str | None]) -> bool:
    pairs = zip(arrow.to_pylist(), texts, strict=True)
    try:
        return all(cell is None if text is None else to_exact_json(cell) == text for cell, text in pairs)
    except TypeError:
        return False
