"""Read and write parquet: numbers, timestamps and lists as Arrow types, other columns as the strings of a CSV file."""

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
    ColumnSpec,
    describe_objects,
    numbers_of,
    objects_of,
    read_column,
    with_missing,
    write_column,
)
from parallel_openai._frames.exporting.exact_json import to_exact_json
from parallel_openai._json import dumps, loads

#: Key of the frame's description in the file's metadata.
_ABOUT = b"parallel_openai"
#: Key under which pandas looks for attrs.
_ATTRS = b"PANDAS_ATTRS"
#: Numeric dtypes that Arrow and parquet have too.
_NUMBERS = {"bool", "boolean", "float32", "float64", *(f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64))}
#: Parquet has no dicts without keys, and nests lists to a limited depth.
_SIMPLE = re.compile(r"(list<item: ){0,3}(bool|int64|double|string|null)>*(?<!^string)(?<!^null)")


def write_parquet(
    path: Path, headers: Sequence[str], columns: Sequence[Any], about: Mapping[str, Any], attrs: Mapping[Any, Any]
) -> None:
    pyarrow = need_pyarrow()
    names = [name if name not in headers[:number] else f"{name}.{number}" for number, name in enumerate(headers)]
    fields = [pyarrow.field(name, column.type) for name, column in zip(names, columns, strict=True)]
    schema = pyarrow.schema(fields, metadata={_ABOUT: dumps(about), _ATTRS: dumps(attrs)})
    with replacing(path) as file:
        pyarrow.parquet.write_table(pyarrow.Table.from_arrays(list(columns), schema=schema), file)


def read_parquet(path: Path) -> tuple[dict[str, Any] | None, list[Any]]:
    """Return the frame's description (None in a file of an earlier version) and the columns."""
    pyarrow = need_pyarrow()
    table = pyarrow.parquet.read_table(path)
    about = (table.schema.metadata or {}).get(_ABOUT)
    return None if about is None else loads(about), table.columns


def write_arrow(values: pd.Series[Any], what: str) -> tuple[Any, ColumnSpec]:
    """Return the column as an Arrow array, and the spec that `read_arrow` needs."""
    pyarrow, dtype = need_pyarrow(), values.dtype
    if values.dtype == object:
        return _write_objects(values, what, pyarrow)
    if isinstance(dtype, pd.DatetimeTZDtype):
        moments = values.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy()
        return pyarrow.array(moments, type=pyarrow.timestamp(dtype.unit, "UTC")), {"dtype": str(dtype)}
    if isinstance(dtype, np.dtype) and dtype.kind in "mM":
        return pyarrow.array(values.to_numpy()), {"dtype": str(dtype)}
    if str(dtype).lower() in _NUMBERS:
        numbers, missing = numbers_of(values.array)
        return pyarrow.array(numbers, mask=missing), {"dtype": str(dtype)}
    texts, spec = write_column(values, what)
    return pyarrow.array(texts, type=pyarrow.string()), spec


def read_arrow(column: Any, spec: Mapping[str, Any]) -> Any:
    """Rebuild the column's array.

    Raises:
        KeyError, TypeError, ValueError: the column does not fit the spec.
    """
    dtype = spec["dtype"]
    if str(column.type) == "string":
        return read_column(column.to_pylist(), spec)
    if dtype == "object" and "arrays" in spec:
        vectors = [each.values.to_numpy(zero_copy_only=False) if each.is_valid else None for each in column]
        return objects_of(vectors, spec)
    if dtype == "object":
        return objects_of(column.to_pylist(), spec)
    if dtype.lower() in _NUMBERS:
        missing = column.is_null().to_numpy()
        numbers = np.array(column.fill_null(False if "bool" in dtype.lower() else 0).to_numpy())
        return with_missing(numbers, missing, pd.api.types.pandas_dtype(dtype))
    found = pd.Series(np.array(column.to_numpy()))  # a copy: Arrow's buffer is read-only
    return (found.dt.tz_localize("UTC") if "," in dtype else found).astype(dtype).array


def _write_objects(values: pd.Series[Any], what: str, pyarrow: Any) -> tuple[Any, ColumnSpec]:
    """Use Arrow lists, dicts or numbers if they round-trip exactly, otherwise strings."""
    cells, spec = describe_objects(values)
    if "arrays" in spec:
        return pyarrow.array(cells, type=pyarrow.list_(pyarrow.from_numpy_dtype(spec["arrays"]))), spec
    texts, spec = write_column(values, what)
    try:
        arrow = pyarrow.array(cells)
    except (pyarrow.ArrowException, ValueError, TypeError, OverflowError):
        arrow = None
    if arrow is None or not _SIMPLE.fullmatch(str(arrow.type)) or not _is_same(arrow, texts):
        arrow = pyarrow.array(texts, type=pyarrow.string())
    return arrow, spec


def _is_same(arrow: Any, texts: Sequence[str | None]) -> bool:
    pairs = zip(arrow.to_pylist(), texts, strict=True)
    try:
        return all(cell is None if text is None else to_exact_json(cell) == text for cell, text in pairs)
    except TypeError:
        return False
