"""`save` and `load`: a frame of answers in a file and back, with its types and what its run was."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from parallel_openai.arguments import path_of
from parallel_openai.errors import InvalidInputError, MissingDependencyError
from parallel_openai.frames.answers import object_column
from parallel_openai.frames.table import check_frame, column_text, is_missing
from parallel_openai.jsonl import dumps, loads

#: Beside a CSV file, which has no place for types and attrs.
ENDING = ".about.json"
#: Among the attrs of a parquet file: what pyarrow would not give back, by column.
MENDED = "mended_columns"


def save(out: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Keep a frame of answers in a file that `load` gives back as it was, the run's summary in `attrs` included.

    Args:
        out: the frame.
        path: `.parquet` (needs pyarrow), or `.csv`; what a CSV file has no place for stands in `<path>.about.json`.

    Raises:
        InvalidInputError: the ending is another one, two columns have one name, or a cell cannot be written.
        MissingDependencyError: pyarrow is not installed.

    Members of an Enum become their values, and what JSON does not know becomes its text.

    >>> out = pd.DataFrame({"text": ["Fine."], "votes": [["good", "bad"]]})
    >>> out.attrs["parallel_openai"] = {"model": "gpt-5-mini"}
    >>> save(out, "answers.csv")
    >>> load("answers.csv").loc[0, "votes"], load("answers.csv").attrs
    (['good', 'bad'], {'parallel_openai': {'model': 'gpt-5-mini'}})
    """
    check_frame(out)
    place, kind = _kind(path)
    if not out.columns.is_unique:
        raise InvalidInputError(f"The frame has columns of the same name, which a file cannot keep apart: {list(out)}.")
    try:
        if kind == ".csv":
            _save_csv(out, place)
        else:
            _save_parquet(out, place)
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"{_unwritable(out)} holds half of a character ({error.object[error.start]!r}), which no file of text can "
            "hold. Replace it, as with .str.encode('utf-8', 'replace').str.decode(); to_jsonl writes it as it is."
        ) from None


def _unwritable(out: pd.DataFrame) -> str:
    """Where the first cell is that cannot be written."""
    for name in out.columns:
        for label, value in out[name].items():
            try:
                str(value).encode()
            except UnicodeEncodeError:
                return f"The row {label!r} of the column {name!r}"
    return "The frame"


def load(path: str | os.PathLike[str]) -> pd.DataFrame:
    """The frame that `save` kept.

    Raises:
        InvalidInputError: there is no such file, or what stands beside a CSV file is gone or does not go with it.
        MissingDependencyError: pyarrow is not installed.
    """
    place, kind = _kind(path)
    if not place.is_file():
        raise InvalidInputError(f"There is no file {place} (in {Path.cwd()}).")
    return _load_csv(place) if kind == ".csv" else _load_parquet(place)


def _kind(path: str | os.PathLike[str]) -> tuple[Path, str]:
    place = path_of(path, "path")
    if place.suffix not in (".csv", ".parquet"):
        raise InvalidInputError(f"The file's name must end in .parquet or .csv, and is {str(path)!r}.")
    return place, place.suffix


def _private(path: Path) -> BinaryIO:
    """Open for writing; answers are people's data, so nobody else on the machine may read them."""
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


# Parquet keeps types, index and attrs by itself; only cells of objects need care.


def _save_parquet(out: pd.DataFrame, place: Path) -> None:
    pyarrow = _pyarrow()
    simple = out.copy(deep=False)
    simple.attrs = dict(out.attrs)
    mended: dict[str, Any] = {}
    for name in out.columns:
        values = _without_enums(out[name])
        if values.dtype == object and not _arrow_gives_it_back(values, pyarrow):
            values = pd.Series([_json(value) for value in values], index=out.index, dtype="string")
            mended[column_text(name)] = "json"
        elif isinstance(values.dtype, pd.CategoricalDtype) and values.cat.categories.dtype.kind in "iufb":
            mended[column_text(name)] = _categories(values)
            values = values.astype(object)
        simple[name] = values
    if mended:
        simple.attrs[MENDED] = mended
    with _private(place) as file:
        simple.to_parquet(file)


def _load_parquet(place: Path) -> pd.DataFrame:
    _pyarrow()
    out = pd.read_parquet(place)
    mended = out.attrs.pop(MENDED, {})
    for name in out.columns:
        told = mended.get(column_text(name))
        if told == "json":
            out[name] = pd.Series(object_column([_from_json(text) for text in out[name]]), index=out.index)
        elif told is not None:
            out[name] = pd.Categorical(out[name], dtype=_category_type(told))
        elif out[name].dtype == object:
            out[name] = pd.Series(object_column([_list_of(value) for value in out[name]]), index=out.index)
    return out


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise MissingDependencyError(
            "Parquet files need pyarrow: pip install pyarrow. A .csv file needs nothing."
        ) from None
    return pyarrow


def _arrow_gives_it_back(values: pd.Series[Any], pyarrow: Any) -> bool:
    plain = [None if is_missing(value) else _list_of(value) for value in values]
    try:
        back = pyarrow.array(plain).to_pylist()
    except (pyarrow.ArrowException, ValueError, TypeError, OverflowError):
        return False
    return bool(back == plain)


def _list_of(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


# A CSV file has texts only: the index stands in front as columns, and the types stand beside it.


def _save_csv(out: pd.DataFrame, place: Path) -> None:
    plain_index = isinstance(out.index, pd.RangeIndex) and out.index.equals(pd.RangeIndex(len(out)))
    levels = [] if plain_index else [out.index.get_level_values(n).to_series() for n in range(out.index.nlevels)]
    columns = [*levels, *(out[name] for name in out.columns)]
    cells, told = zip(*map(_as_text, columns), strict=True) if columns else ((), ())
    about = {
        "index_levels": len(levels),
        "index_names": [_plain_name(name) for name in out.index.names],
        "column_names": [_plain_name(name) for name in out.columns],
        "columns": list(told),
        "rows": len(out),
        "attrs": out.attrs,
    }
    table = pd.DataFrame(dict(enumerate(cells)), index=range(len(out)))
    header = [str(level.name or f"index{n or ''}") for n, level in enumerate(levels)] + list(map(column_text, out))
    with _private(place) as file:
        table.to_csv(file, index=False, header=header)
    with _private(Path(f"{place}{ENDING}")) as file:
        file.write(dumps(about) + b"\n")


def _load_csv(place: Path) -> pd.DataFrame:
    beside = Path(f"{place}{ENDING}")
    if not beside.is_file():
        raise InvalidInputError(f"Beside {place} lies no {beside.name} with its types; read it with pandas.read_csv.")
    about = loads(beside.read_bytes())
    told = about["columns"]
    table = pd.read_csv(place, dtype="string", keep_default_na=False, na_values=[""]) if told else pd.DataFrame()
    if len(table.columns) != len(told) or (told and len(table) != about["rows"]):
        raise InvalidInputError(f"{place} does not go with {beside.name}: it was changed since. Read it with pandas.")
    columns = [_from_text(table.iloc[:, number].tolist(), each) for number, each in enumerate(told)]
    levels = about["index_levels"]
    names = [_name(name) for name in about["index_names"]]
    out = pd.DataFrame(dict(enumerate(columns[levels:])), index=pd.RangeIndex(about["rows"]))
    out.columns = pd.Index([_name(name) for name in about["column_names"]])
    if levels == 1:
        out.index = pd.Index(columns[0], name=names[0])
    elif levels:
        out.index = pd.MultiIndex.from_arrays(columns[:levels], names=names)
    out.attrs = about["attrs"]
    return out


def _as_text(column: pd.Series[Any]) -> tuple[list[str | None], dict[str, Any]]:
    """A column's cells as texts, and what is needed to read them again."""
    values = _without_enums(column)
    told: dict[str, Any] = {"dtype": str(values.dtype)}
    if isinstance(values.dtype, pd.CategoricalDtype):
        told |= {"dtype": "category", **_categories(values)}
    elif values.dtype == object:
        return [None if value is None else _json(value) for value in values], told
    whole = [None if is_missing(value) else value for value in values.tolist()]
    texts = [None if value is None else _shortest(value) for value in whole]
    empty = [row for row, text in enumerate(texts) if text == ""]  # a CSV file cannot tell them from missing ones
    return texts, {**told, "empty": empty} if empty else told


def _categories(values: pd.Series[Any]) -> dict[str, Any]:
    kinds = values.cat.categories
    return {"categories": kinds.tolist(), "kind": str(kinds.dtype), "ordered": bool(values.cat.ordered)}


def _category_type(told: Mapping[str, Any]) -> pd.CategoricalDtype:
    return pd.CategoricalDtype(pd.Index(told["categories"], dtype=told["kind"]), ordered=told["ordered"])


def _shortest(value: Any) -> str:
    """A value's shortest text that gives it back."""
    return repr(value) if isinstance(value, (int, float)) else str(value)


def _from_text(texts: list[Any], told: Mapping[str, Any]) -> Any:
    cells: list[Any] = [None if is_missing(text) else text for text in texts]
    dtype = told["dtype"]
    if dtype == "object":
        return object_column([_from_json(cell) for cell in cells])
    for row in told.get("empty", ()):
        cells[row] = ""
    if dtype == "category":
        by_text = {_shortest(category): category for category in told["categories"]}
        strange = next((cell for cell in cells if cell is not None and cell not in by_text), None)
        if strange is not None:
            raise InvalidInputError(f"The file holds {strange!r} in a column of {', '.join(by_text)}; it was changed.")
        return pd.Categorical([None if cell is None else by_text[cell] for cell in cells], dtype=_category_type(told))
    if "datetime" in dtype:
        return pd.to_datetime(pd.Series(cells, dtype=object), utc=("," in dtype), format="ISO8601").astype(dtype).array
    if "timedelta" in dtype:
        return pd.to_timedelta(pd.Series(cells, dtype=object)).astype(dtype).array
    if dtype.lower() in ("bool", "boolean"):
        return pd.array([None if cell is None else cell == "True" for cell in cells], dtype=dtype)
    if "float" in dtype.lower():
        numbers = [np.nan if cell is None else float(cell) for cell in cells]
        return pd.array(numbers, dtype=dtype) if dtype[0] == "F" else np.array(numbers, dtype=dtype)
    if "int" in dtype.lower():
        return pd.array([None if cell is None else int(cell) for cell in cells], dtype=dtype)
    return pd.array(cells, dtype=dtype)


def _without_enums(column: pd.Series[Any]) -> pd.Series[Any]:
    """The column with the values of Enum members in their place."""
    if isinstance(column.dtype, pd.CategoricalDtype) and column.cat.categories.dtype == object:
        return column.cat.rename_categories([loads(dumps(each)) for each in column.cat.categories])
    return column


def _json(value: Any) -> str:
    return dumps(value).decode()


def _from_json(text: Any) -> Any:
    return None if is_missing(text) else loads(text)


def _plain_name(name: Hashable) -> Any:
    return list(name) if isinstance(name, tuple) else name


def _name(name: Any) -> Any:
    return tuple(name) if isinstance(name, list) else name
