"""Convert a pandas column of any dtype to strings plus a JSON-able spec, and back.

The result does not depend on the version of pandas.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from parallel_openai._frames.columns.answer_columns import object_column
from parallel_openai._frames.exporting.arrow import type_from_text, type_to_text
from parallel_openai._frames.exporting.exact_json import from_exact_json, to_exact_json
from parallel_openai.errors import InvalidInputError

Texts = list[str | None]
ColumnSpec = dict[str, Any]

#: Missing values of an object column other than None, by their name in a spec.
MISSING: Mapping[str, Any] = {"NaN": np.nan, "NA": pd.NA, "NaT": pd.NaT}
#: The spec's dtype for pandas' default string column: object before pandas 3, `str` since then.
TEXT = "text"


def write_column(values: pd.Series[Any], what: str) -> tuple[Texts, ColumnSpec]:
    """Return the cells as strings (None if missing), and the spec that `read_column` needs."""
    texts, spec = _write_objects(values, what) if values.dtype == object else _write_checked(values, what)
    empty = [row for row, text in enumerate(texts) if text == ""]  # a CSV file cannot tell these from missing cells
    return texts, {**spec, "empty": empty} if empty else spec


def _write_checked(values: pd.Series[Any], what: str) -> tuple[Texts, ColumnSpec]:
    array = _without_enums(values.array)
    try:
        texts, spec = _write_values(array)
        same = pd.Series(read_column(texts, spec)).equals(pd.Series(array))
    except (TypeError, ValueError, OverflowError, NotImplementedError):
        same = False
    if not same:
        raise InvalidInputError(
            f"{what} has the dtype {values.dtype}, which cannot be restored from a file. Convert it first, as with "
            ".astype(object) or .astype(str)."
        )
    return texts, spec


def read_column(texts: Sequence[str | None], spec: Mapping[str, Any]) -> Any:
    """Rebuild the column's array.

    Raises:
        KeyError, TypeError, ValueError: a string does not fit the spec.
    """
    dtype = spec["dtype"]
    if dtype in ("object", TEXT, "str"):
        return _read_objects(texts, spec)
    if dtype == "category":
        return _read_categories(texts, spec)
    if dtype == "interval":
        sides = zip(*(text[1:-1].split(", ") if text else (None, None) for text in texts), strict=True)
        left, right = (read_column(side, each) for side, each in zip(sides, spec["sides"], strict=True))
        return pd.arrays.IntervalArray.from_arrays(left, right, closed=spec["closed"])
    if dtype == "arrow":
        return _read_arrow(texts, spec["type"])
    if dtype.startswith("period"):
        return pd.array([pd.NaT if text is None else text for text in texts], dtype=dtype)
    if dtype.startswith(("string", "str[")):
        return _read_strings(texts, dtype)
    if dtype.startswith("datetime"):
        return _read_moments(texts, dtype)
    if dtype.startswith("timedelta"):
        return pd.to_timedelta(_series(texts)).astype(dtype).array
    return _read_numbers(texts, dtype)


# Object columns: unchanged if all cells are strings, otherwise as JSON.


def _write_objects(values: pd.Series[Any], what: str) -> tuple[Texts, ColumnSpec]:
    cells, spec = describe_objects(values)
    if spec["dtype"] != "object" or spec.get("as") == TEXT:
        return cells, spec
    return [None if cell is None else _json(cell, row, what) for row, cell in enumerate(cells)], spec


def describe_objects(values: pd.Series[Any]) -> tuple[list[Any], ColumnSpec]:
    """Return the cells (None if missing), and the spec that `read_column` needs."""
    cells = [value.value if isinstance(value, enum.Enum) else value for value in values.tolist()]
    missing = [_missing_kind(cell) for cell in cells]
    kinds = set(missing) - {None}
    kind = kinds.pop() if len(kinds) == 1 else "None"  # several kinds are distinguished by writing them as JSON
    cells = [None if each == kind else cell for cell, each in zip(cells, missing, strict=True)]
    spec: ColumnSpec = {"dtype": "object"} if kind == "None" else {"dtype": "object", "missing": kind}
    present = [cell for cell in cells if cell is not None]
    if present and all(type(cell) is str for cell in present):
        spec |= {"dtype": TEXT} if _text_dtype() is None else {"as": TEXT}
    elif present and (item := _item_of_arrays(present)) is not None:
        spec["arrays"] = item
    return cells, spec


def _json(cell: Any, row: int, what: str) -> str:
    try:
        return to_exact_json(cell)
    except TypeError as error:
        raise InvalidInputError(
            f"{what} holds {error} in row {row}, which cannot be restored from a file. Convert it to a string or a "
            "number first, or leave the column out."
        ) from None


def _read_objects(texts: Sequence[str | None], spec: Mapping[str, Any]) -> Any:
    dtype, missing = spec["dtype"], MISSING.get(spec.get("missing", "None"))
    if dtype != "object" and _text_dtype() is not None:
        return pd.array(list(texts), dtype=_text_dtype())
    if dtype != "object" or spec.get("as") == TEXT:
        return object_column([missing if text is None else text for text in texts])
    return objects_of([None if text is None else from_exact_json(text) for text in texts], spec)


def objects_of(cells: Sequence[Any], spec: Mapping[str, Any]) -> Any:
    """Rebuild an object column from cells that are None if missing."""
    missing = MISSING.get(spec.get("missing", "None"))
    if "arrays" in spec:
        dtype = np.dtype(spec["arrays"])
        cells = [cell if cell is None else np.array(cell, dtype=dtype) for cell in cells]
    return object_column([missing if cell is None else cell for cell in cells])


def _missing_kind(cell: Any) -> str | None:
    """The name of the missing value in a cell; None if it holds a value."""
    if cell is None:
        return "None"
    if cell is pd.NA or cell is pd.NaT:
        return "NA" if cell is pd.NA else "NaT"
    return "NaN" if type(cell) is float and cell != cell else None


def _item_of_arrays(cells: Sequence[Any]) -> str | None:
    """The items' dtype if all cells are finite numeric vectors of one dtype, as embeddings are."""
    if not all(type(cell) is np.ndarray and cell.ndim == 1 and cell.dtype.kind in "iuf" for cell in cells):
        return None
    [dtype, *others] = {cell.dtype for cell in cells}
    finite = dtype.kind in "iu" or all(np.isfinite(cell).all() for cell in cells)
    return str(dtype) if finite and not others and dtype.itemsize <= 8 else None


def _text_dtype() -> Any:
    """The default dtype of strings in this pandas; None if that is object."""
    dtype = pd.Series(["a"]).dtype
    return dtype if isinstance(dtype, pd.StringDtype) else None


# Columns of one dtype.


def _write_values(array: Any) -> tuple[Texts, ColumnSpec]:
    dtype = array.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return _write_categories(array)
    if isinstance(dtype, pd.IntervalDtype):
        (left, one), (right, other) = (_write_values(pd.Series(side).array) for side in (array.left, array.right))
        texts = [None if low is None else f"({low}, {high}]" for low, high in zip(left, right, strict=True)]
        return texts, {"dtype": "interval", "closed": dtype.closed, "sides": [one, other]}
    if isinstance(dtype, pd.ArrowDtype):
        return _write_arrow(array)
    if isinstance(dtype, pd.StringDtype):
        return _write_strings(array)
    if isinstance(dtype, pd.DatetimeTZDtype):
        moments = array.tz_convert("UTC").tz_localize(None).to_numpy()
        return [text and f"{text}Z" for text in _moments(moments)], {"dtype": str(dtype)}
    if dtype.kind == "M":
        return _moments(array.to_numpy()), {"dtype": str(dtype)}
    if dtype.kind == "m" or isinstance(dtype, pd.PeriodDtype):
        return [None if value is pd.NaT else str(value) for value in array], {"dtype": str(dtype)}
    return _write_numbers(array)


def _without_enums(array: Any) -> Any:
    """Replace Enum members among a categorical's categories by their values."""
    if isinstance(array.dtype, pd.CategoricalDtype) and any(isinstance(each, enum.Enum) for each in array.categories):
        return array.rename_categories(
            [each.value if isinstance(each, enum.Enum) else each for each in array.categories]
        )
    return array


def _write_categories(array: Any) -> tuple[Texts, ColumnSpec]:
    categories = array.categories
    names, spec = write_column(pd.Series(categories.array, dtype=categories.dtype), "A column's list of categories")
    texts = [None if code < 0 else names[code] for code in array.codes.tolist()]
    return texts, {"dtype": "category", "ordered": bool(array.ordered), "categories": {"texts": names, **spec}}


def _read_categories(texts: Sequence[str | None], spec: Mapping[str, Any]) -> Any:
    categories = spec["categories"]
    names = categories["texts"]
    code = {name: number for number, name in enumerate(names)}
    unknown = next((text for text in texts if text is not None and text not in code), None)
    if unknown is not None:
        raise ValueError(f"{unknown!r} in a column of {', '.join(names)}")
    index = index_of(read_column(names, categories))
    codes = [-1 if text is None else code[text] for text in texts]
    return pd.Categorical.from_codes(codes, dtype=pd.CategoricalDtype(index, ordered=spec["ordered"]))


def index_of(array: Any, name: Any = None) -> Any:
    """An index of the values that keeps tuples as labels instead of making a MultiIndex of them."""
    if array.dtype == object:
        return pd.Index(array, dtype=object, name=name, tupleize_cols=False)
    return pd.Index(array, name=name)


def _write_strings(array: Any) -> tuple[Texts, ColumnSpec]:
    dtype = array.dtype
    texts = [None if missing else text for text, missing in zip(array.tolist(), pd.isna(array), strict=True)]
    if _text_dtype() is not None and dtype == _text_dtype():
        return texts, {"dtype": TEXT}
    kind = "string" if getattr(dtype, "na_value", pd.NA) is pd.NA else "str"
    is_default = kind == "string" and dtype == pd.StringDtype()
    return texts, {"dtype": kind if is_default else f"{kind}[{dtype.storage}]"}


def _read_strings(texts: Sequence[str | None], dtype: str) -> Any:
    kind, _, storage = dtype.rstrip("]").partition("[")
    options = {} if kind == "string" else {"na_value": np.nan}
    try:
        string_dtype = pd.StringDtype(storage or None, **options)  # type: ignore[arg-type]  # pandas checks it
    except (ImportError, TypeError):  # without pyarrow, or before pandas 2.3
        string_dtype = pd.StringDtype()
    return pd.array(list(texts), dtype=string_dtype)


def _write_arrow(array: Any) -> tuple[Texts, ColumnSpec]:
    arrow = array.__arrow_array__()
    texts = [None if cell is None else to_exact_json(cell) for cell in arrow.to_pylist()]
    return texts, {"dtype": "arrow", "type": type_to_text(arrow.type)}


def _read_arrow(texts: Sequence[str | None], kind: str) -> Any:
    dtype: Any = pd.ArrowDtype(type_from_text(kind))
    return pd.array([None if text is None else from_exact_json(text) for text in texts], dtype=dtype)


def _moments(moments: Any) -> Texts:
    """Timestamps without trailing zeros, so that the text does not depend on the column's unit."""
    texts: Texts = []
    for text in np.datetime_as_string(moments).tolist():
        date, _, time = text.partition("T")
        time = time.rstrip("0").rstrip(".") if "." in time else time
        texts.append(None if text == "NaT" else f"{date} {time}".rstrip())
    return texts


def _read_moments(texts: Sequence[str | None], dtype: str) -> Any:
    zoned = "," in dtype
    if zoned and any(text and not text.endswith("Z") for text in texts):  # as earlier versions wrote them
        return pd.to_datetime(_series(texts), utc=True, format="ISO8601").astype(dtype).array
    unit = dtype.partition("[")[2].partition(",")[0].rstrip("]")
    moments = np.array(["NaT" if text is None else text.rstrip("Z") for text in texts], dtype=f"datetime64[{unit}]")
    found: Any = pd.Series(moments)
    return (found.dt.tz_localize("UTC").astype(dtype) if zoned else found).array


def _series(texts: Sequence[str | None]) -> Any:
    return pd.Series(object_column(texts), dtype=object)


def _write_numbers(array: Any) -> tuple[Texts, ColumnSpec]:
    numbers, mask = numbers_of(array)
    texts = [None if missing else repr(each) for each, missing in zip(numbers.tolist(), mask.tolist(), strict=True)]
    return texts, {"dtype": str(array.dtype)}


def numbers_of(array: Any) -> tuple[Any, Any]:
    """The numbers as a NumPy array, and the mask of missing ones.

    Raises:
        TypeError: these two do not describe the dtype fully.
    """
    dtype = array.dtype
    if not hasattr(dtype, "numpy_dtype"):
        raise TypeError(f"{dtype} is not known")
    if dtype.kind == "c":  # one part of a complex number may be NaN alone, which a mask cannot say
        return array.to_numpy(), np.zeros(len(array), dtype=bool)
    return array.to_numpy(dtype=dtype.numpy_dtype, na_value=dtype.type(0)), pd.isna(array)


def _read_numbers(texts: Sequence[str | None], name: str) -> Any:
    dtype: Any = pd.api.types.pandas_dtype(name)
    kind = getattr(dtype, "numpy_dtype", dtype)
    read: Any = {"b": _boolean, "f": float, "c": complex}.get(kind.kind, int)
    missing = [text is None for text in texts]
    if isinstance(dtype, np.dtype) and dtype.kind != "f" and any(missing):
        raise ValueError(f"a cell is empty in a column of {dtype}")
    numbers = np.array([0 if text is None else read(text) for text in texts], dtype=kind)
    return with_missing(numbers, np.array(missing, dtype=bool), dtype)


def with_missing(numbers: Any, mask: Any, dtype: Any) -> Any:
    if not isinstance(dtype, np.dtype):
        return dtype.construct_array_type()(numbers, mask)
    if mask.any():
        numbers[mask] = np.nan
    return numbers


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):  # a spreadsheet writes TRUE
        raise ValueError(f"{text!r} is neither True nor False")
    return text.lower() == "true"
