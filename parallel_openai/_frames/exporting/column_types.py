"""A column as texts, with what is needed to make it again: every dtype, the same over all versions of pandas."""

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
Told = dict[str, Any]

#: What a missing cell of a column of objects holds, where that is not None.
MISSING: Mapping[str, Any] = {"NaN": np.nan, "NA": pd.NA, "NaT": pd.NaT}
#: What texts are by themselves: objects before pandas 3, `str` since then.
TEXT = "text"


def write_column(values: pd.Series[Any], what: str) -> tuple[Texts, Told]:
    """The cells as texts (None where one is missing), and what `read_column` wants to know.

    Args:
        values: the column.
        what: how to call it in an error.

    Raises:
        InvalidInputError: it could not be made again as it is.
    """
    if values.dtype == object:
        return _write_objects(values, what)
    array = _without_enums(values.array)
    try:
        texts, told = _write_values(array)
        same = pd.Series(read_column(texts, told)).equals(pd.Series(array))
    except (TypeError, ValueError, OverflowError, NotImplementedError):
        same = False
    if not same:
        raise InvalidInputError(
            f"{what} is of the dtype {values.dtype}, and a file could not give it back as it is. Turn it into another "
            "one first, as with .astype(object) or .astype(str)."
        )
    empty = [row for row, text in enumerate(texts) if text == ""]
    return texts, {**told, "empty": empty} if empty else told


def read_column(texts: Sequence[str | None], told: Mapping[str, Any]) -> Any:
    """The column's array.

    Raises:
        KeyError, TypeError, ValueError: a text is none of such a column.
    """
    dtype = told["dtype"]
    if dtype in ("object", TEXT, "str"):
        return _read_objects(texts, told)
    if dtype == "category":
        return _read_categories(texts, told)
    if dtype == "interval":
        sides = zip(*(text[1:-1].split(", ") if text else (None, None) for text in texts), strict=True)
        left, right = (read_column(side, each) for side, each in zip(sides, told["sides"], strict=True))
        return pd.arrays.IntervalArray.from_arrays(left, right, closed=told["closed"])
    if dtype == "arrow":
        return _read_arrow(texts, told["type"])
    if dtype.startswith("period"):
        return pd.array([pd.NaT if text is None else text for text in texts], dtype=dtype)
    if dtype.startswith(("string", "str[")):
        return _read_strings(texts, dtype)
    if dtype.startswith("datetime"):
        return _read_moments(texts, dtype)
    if dtype.startswith("timedelta"):
        return pd.to_timedelta(_series(texts)).astype(dtype).array
    return _read_numbers(texts, dtype)


# Columns of objects: as they are where all are texts, else as JSON.


def _write_objects(values: pd.Series[Any], what: str) -> tuple[Texts, Told]:
    cells, told = describe_objects(values)
    if told["dtype"] != "object" or told.get("as") == TEXT:
        return cells, told
    return [None if cell is None else _json(cell, row, what) for row, cell in enumerate(cells)], told


def describe_objects(values: pd.Series[Any]) -> tuple[list[Any], Told]:
    """The cells, None where one is missing, and what `read_column` wants to know of them."""
    cells = [value.value if isinstance(value, enum.Enum) else value for value in values.tolist()]
    gone = [_missing(cell) for cell in cells]
    kinds = set(gone) - {None}
    kind = kinds.pop() if len(kinds) == 1 else "None"  # others among several are written as JSON
    cells = [None if each == kind else cell for cell, each in zip(cells, gone, strict=True)]
    told: Told = {"dtype": "object"} if kind == "None" else {"dtype": "object", "missing": kind}
    there = [cell for cell in cells if cell is not None]
    if there and all(type(cell) is str for cell in there):
        empty = [row for row, cell in enumerate(cells) if cell == ""]
        told |= {"dtype": TEXT} if _text_dtype() is None else {"as": TEXT}
        return cells, {**told, "empty": empty} if empty else told
    if there and (item := _item_of_arrays(there)) is not None:
        return cells, {**told, "arrays": item}
    return cells, told


def _json(cell: Any, row: int, what: str) -> str:
    try:
        return to_exact_json(cell)
    except TypeError as error:
        raise InvalidInputError(
            f"Row {row} of {what} holds {error}, which a file could not give back. Turn it into a text or a number "
            "first, or leave the column out."
        ) from None


def _read_objects(texts: Sequence[str | None], told: Mapping[str, Any]) -> Any:
    dtype, missing = told["dtype"], MISSING.get(told.get("missing", "None"))
    if dtype != "object" and _text_dtype() is not None:
        return pd.array(list(texts), dtype=_text_dtype())
    if dtype != "object" or told.get("as") == TEXT:
        return object_column([missing if text is None else text for text in texts])
    return objects_of([None if text is None else from_exact_json(text) for text in texts], told)


def objects_of(cells: Sequence[Any], told: Mapping[str, Any]) -> Any:
    """A column of objects, of its cells with None where one is missing."""
    missing = MISSING.get(told.get("missing", "None"))
    read = np.dtype(told["arrays"]) if "arrays" in told else None
    if read is not None:
        cells = [cell if cell is None else np.array(cell, dtype=read) for cell in cells]
    return object_column([missing if cell is None else cell for cell in cells])


def _missing(cell: Any) -> str | None:
    """The kind of nothing that a cell holds."""
    if cell is None:
        return "None"
    if cell is pd.NA or cell is pd.NaT:
        return "NA" if cell is pd.NA else "NaT"
    return "NaN" if type(cell) is float and cell != cell else None


def _item_of_arrays(cells: Sequence[Any]) -> str | None:
    """The dtype of the numbers, where all cells are vectors of one (as embeddings are)."""
    if not all(type(cell) is np.ndarray and cell.ndim == 1 and cell.dtype.kind in "iuf" for cell in cells):
        return None
    [dtype, *others] = {cell.dtype for cell in cells}
    finite = dtype.kind in "iu" or all(np.isfinite(cell).all() for cell in cells)
    return str(dtype) if finite and not others and dtype.itemsize <= 8 else None


def _text_dtype() -> Any:
    """The dtype that this pandas gives to texts; None where it takes them for objects."""
    dtype = pd.Series(["a"]).dtype
    return dtype if isinstance(dtype, pd.StringDtype) else None


# Columns of one dtype.


def _write_values(array: Any) -> tuple[Texts, Told]:
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
    """The array with the values of Enum members in their place."""
    if isinstance(array.dtype, pd.CategoricalDtype) and any(isinstance(each, enum.Enum) for each in array.categories):
        kinds = [each.value if isinstance(each, enum.Enum) else each for each in array.categories]
        return array.rename_categories(kinds)
    return array


def _write_categories(array: Any) -> tuple[Texts, Told]:
    categories = array.categories
    names, told = write_column(pd.Series(categories.array, dtype=categories.dtype), "A column's list of categories")
    texts = [None if code < 0 else names[code] for code in array.codes.tolist()]
    return texts, {"dtype": "category", "ordered": bool(array.ordered), "categories": {"texts": names, **told}}


def _read_categories(texts: Sequence[str | None], told: Mapping[str, Any]) -> Any:
    kinds = told["categories"]
    names = kinds["texts"]
    code = {name: number for number, name in enumerate(names)}
    strange = next((text for text in texts if text is not None and text not in code), None)
    if strange is not None:
        raise ValueError(f"{strange!r} in a column of {', '.join(names)}")
    index = index_of(read_column(names, kinds))
    codes = [-1 if text is None else code[text] for text in texts]
    return pd.Categorical.from_codes(codes, dtype=pd.CategoricalDtype(index, ordered=told["ordered"]))


def index_of(array: Any, name: Any = None) -> Any:
    """An index of the values, tuples among them as they are."""
    if array.dtype == object:
        return pd.Index(array, dtype=object, name=name, tupleize_cols=False)
    return pd.Index(array, name=name)


def _write_strings(array: Any) -> tuple[Texts, Told]:
    dtype = array.dtype
    texts = [None if gone else text for text, gone in zip(array.tolist(), pd.isna(array), strict=True)]
    if _text_dtype() is not None and dtype == _text_dtype():
        return texts, {"dtype": TEXT}
    kind = "string" if getattr(dtype, "na_value", pd.NA) is pd.NA else "str"
    own = kind == "string" and dtype == pd.StringDtype()
    return texts, {"dtype": kind if own else f"{kind}[{dtype.storage}]"}


def _read_strings(texts: Sequence[str | None], dtype: str) -> Any:
    kind, _, storage = dtype.rstrip("]").partition("[")
    options = {} if kind == "string" else {"na_value": np.nan}
    try:
        wanted = pd.StringDtype(storage or None, **options)  # type: ignore[arg-type]  # pandas checks it
    except (ImportError, TypeError):  # without pyarrow, or before pandas 2.3
        wanted = pd.StringDtype()
    return pd.array(list(texts), dtype=wanted)


def _write_arrow(array: Any) -> tuple[Texts, Told]:
    arrow = array.__arrow_array__()
    texts = [None if cell is None else to_exact_json(cell) for cell in arrow.to_pylist()]
    return texts, {"dtype": "arrow", "type": type_to_text(arrow.type)}


def _read_arrow(texts: Sequence[str | None], kind: str) -> Any:
    dtype: Any = pd.ArrowDtype(type_from_text(kind))
    return pd.array([None if text is None else from_exact_json(text) for text in texts], dtype=dtype)


def _moments(moments: Any) -> Texts:
    """As short as they can be, so that they do not tell of the unit they are counted in."""
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


def _write_numbers(array: Any) -> tuple[Texts, Told]:
    numbers, gone = numbers_of(array)
    texts = [None if no else repr(number) for number, no in zip(numbers.tolist(), gone.tolist(), strict=True)]
    return texts, {"dtype": str(array.dtype)}


def numbers_of(array: Any) -> tuple[Any, Any]:
    """The numbers as NumPy's, and where there is none.

    Raises:
        TypeError: they are of no dtype for which that is all there is to know.
    """
    dtype = array.dtype
    if not hasattr(dtype, "numpy_dtype"):
        raise TypeError(f"{dtype} is not known")
    if dtype.kind == "c":  # there is but one NaN, while a complex number may lack one of its parts
        return array.to_numpy(), np.zeros(len(array), dtype=bool)
    return array.to_numpy(dtype=dtype.numpy_dtype, na_value=dtype.type(0)), pd.isna(array)


def _read_numbers(texts: Sequence[str | None], name: str) -> Any:
    dtype: Any = pd.api.types.pandas_dtype(name)
    kind = getattr(dtype, "numpy_dtype", dtype)
    read: Any = {"b": _truth, "f": float, "c": complex}.get(kind.kind, int)
    gone = [text is None for text in texts]
    if isinstance(dtype, np.dtype) and dtype.kind != "f" and any(gone):
        raise ValueError(f"a cell is empty in a column of {dtype}")
    numbers = np.array([0 if text is None else read(text) for text in texts], dtype=kind)
    return with_gaps(numbers, np.array(gone, dtype=bool), dtype)


def with_gaps(numbers: Any, gone: Any, dtype: Any) -> Any:
    """The array of a dtype of these numbers, without those that are gone."""
    if not isinstance(dtype, np.dtype):
        return dtype.construct_array_type()(numbers, gone)
    if gone.any():
        numbers[gone] = np.nan
    return numbers


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):  # a spreadsheet writes TRUE
        raise ValueError(f"{text!r} is neither True nor False")
    return text.lower() == "true"
