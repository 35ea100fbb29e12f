"""`save` and `load`: a frame of answers in a file and back, with its types and what its run was."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from parallel_openai._arguments import is_file, path_of
from parallel_openai._disk.atomic_write import replacing
from parallel_openai._frames.columns.answer_columns import object_column
from parallel_openai._frames.columns.table import check_frame, column_text
from parallel_openai._frames.exporting.column_types import Texts, Told, index_of, read_column, write_column
from parallel_openai._frames.exporting.csv_text import as_written, csv_line, csv_rows
from parallel_openai._frames.exporting.exact_json import from_exact_json, to_exact_json
from parallel_openai._frames.exporting.parquet import read_arrow, read_parquet, write_arrow, write_parquet
from parallel_openai._json import dumps, loads
from parallel_openai.errors import InvalidInputError

#: Beside a CSV file, which has no place for types and attrs.
ENDING = ".about.json"


def save(out: pd.DataFrame, path: str | os.PathLike[str], *, spreadsheet: bool = False) -> None:
    """Keep a frame of answers in a file that `load` returns as it was, the run's summary in `attrs` included.

    Args:
        out: the frame.
        path: `.parquet` (needs pyarrow), or `.csv`; what a CSV file has no place for is kept in `<path>.about.json`.
        spreadsheet: whether a CSV file is for a spreadsheet too: texts that it would take for formulas (`=1+1`,
            `@name`) and run when the file is opened get an apostrophe before them, which `load` takes off again.

    Raises:
        InvalidInputError: the ending is another one, two columns have one name, a column or cell could not be given
            back, or the file cannot be written. What it held before is then as it was.
        MissingDependencyError: pyarrow is not installed.

    Members of an Enum become their values, and pydantic's models dicts.

    >>> out = pd.DataFrame({"text": ["Fine."], "votes": [["good", "bad"]]})
    >>> out.attrs["parallel_openai"] = {"model": "gpt-5-mini"}
    >>> save(out, "answers.csv")
    >>> load("answers.csv").loc[0, "votes"], load("answers.csv").attrs
    (['good', 'bad'], {'parallel_openai': {'model': 'gpt-5-mini'}})
    """
    check_frame(out)
    place, kind = _kind(path)
    if spreadsheet and kind != ".csv":
        raise InvalidInputError("spreadsheet=True goes with a .csv file; a .parquet file has no formulas.")
    if not out.columns.is_unique:
        raise InvalidInputError(f"The frame has columns of the same name, which a file cannot keep apart: {list(out)}.")
    try:
        if kind == ".csv":
            _save_csv(out, place, spreadsheet)
        else:
            table = _Table(out, write_arrow)
            write_parquet(place, table.headers, table.cells, table.about, out.attrs)
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"{_unwritable(out)} holds half of a character ({error.object[error.start]!r}), which no file of text can "
            "hold. Replace it, as with .str.encode('utf-8', 'replace').str.decode(); to_jsonl writes it as it is."
        ) from None


def _unwritable(out: pd.DataFrame) -> str:
    """Where the first cell is that cannot be written."""
    for number, name in enumerate(out.columns):
        for label, value in out.iloc[:, number].items():
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
    if not is_file(place):
        raise InvalidInputError(f"There is no file {place} (in {Path.cwd()}).")
    try:
        return _load_csv(place) if kind == ".csv" else _load_parquet(place)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, OverflowError) as error:
        if isinstance(error, InvalidInputError):
            raise
        beside = f" or {place.name}{ENDING}" if kind == ".csv" else ""
        raise InvalidInputError(
            f"{place}{beside} is none that save() wrote, or was changed since: {str(error).rstrip('.')}. "
            "Read it with pandas."
        ) from error


def _kind(path: str | os.PathLike[str]) -> tuple[Path, str]:
    place = path_of(path, "path")
    if place.suffix not in (".csv", ".parquet"):
        raise InvalidInputError(f"The file's name must end in .parquet or .csv, and is {str(path)!r}.")
    return place, place.suffix


# What both kinds of file hold: the index in front as columns, the columns, and what is told about them.


class _Table:
    """A frame taken apart.

    Attributes:
        headers: the names of the file's columns.
        cells: what stands in each of them.
        about: what is needed to make the frame of them again.
    """

    def __init__(self, out: pd.DataFrame, write: Callable[[pd.Series[Any], str], tuple[Any, Told]]) -> None:
        levels, index = _write_index(out.index, write, "The index")
        names, labels = _write_index(out.columns, write_column, "The list of columns' names")
        columns = [write(out.iloc[:, number], f"The column {name!r}") for number, name in enumerate(out.columns)]
        self.headers = (
            []
            if "range" in index
            else [f"index{n or ''}" if name is None else column_text(name) for n, name in enumerate(out.index.names)]
        )
        self.headers += map(column_text, out.columns)
        self.cells = [*levels, *(cells for cells, _ in columns)]
        self.about = {
            "version": 2,
            "index": index,
            "names": {**labels, "texts": names},
            "columns": [told for _, told in columns],
            "rows": len(out),
            "attrs": _json(out.attrs, "attrs"),
        }


def _frame(about: Mapping[str, Any], cells: Sequence[Any], read: Callable[[Any, Told], Any]) -> pd.DataFrame:
    index, labels = about["index"], about["names"]
    count = len(index.get("levels", ()))
    columns = [read(*pair) for pair in zip(cells[count:], about["columns"], strict=True)]
    series = (pd.Series(column, dtype=column.dtype) for column in columns)
    out = pd.DataFrame(dict(enumerate(series)), index=pd.RangeIndex(about["rows"]))
    out.columns = _read_index(labels, labels["texts"], read_column)
    out.index = _read_index(index, cells[:count], read)
    out.attrs = about["attrs"] if isinstance(about["attrs"], dict) else from_exact_json(about["attrs"])
    return out


def _write_index(index: pd.Index[Any], write: Callable[..., tuple[Any, Told]], what: str) -> tuple[list[Any], Told]:
    about: Told = {"index_names": _json(list(index.names), f"{what}'s names")}
    if isinstance(index, pd.RangeIndex):
        return [], {**about, "range": [index.start, index.stop, index.step]}
    unnamed = index.set_names([None] * index.nlevels)  # or a level named 1 would be taken for the second one
    levels = [unnamed.get_level_values(number) for number in range(index.nlevels)]
    written = [write(pd.Series(level.array, dtype=level.dtype), what) for level in levels]
    if isinstance(index, (pd.DatetimeIndex, pd.TimedeltaIndex)) and index.freq is not None:
        about["freq"] = index.freqstr
    return [cells for cells, _ in written], {**about, "levels": [told for _, told in written]}


def _read_index(told: Mapping[str, Any], cells: Sequence[Any], read: Callable[[Any, Told], Any]) -> Any:
    names = from_exact_json(told["index_names"])
    if "range" in told:
        start, stop, step = told["range"]
        return pd.RangeIndex(start, stop, step, name=names[0])
    levels: list[Any] = [index_of(read(*pair), name) for *pair, name in zip(cells, told["levels"], names, strict=True)]
    if len(levels) > 1:
        return pd.MultiIndex.from_arrays(levels, names=names)
    [index] = levels
    return type(index)(index, freq=told["freq"]) if "freq" in told else index


def _json(value: Any, what: str) -> str:
    try:
        return to_exact_json(value)
    except TypeError as error:
        raise InvalidInputError(f"The frame's {what} hold {error}, which a file could not give back.") from None


def _save_csv(out: pd.DataFrame, place: Path, spreadsheet: bool) -> None:
    table = _Table(out, write_column)
    lines = [csv_line(table.headers, harmless=spreadsheet)] if table.cells else []
    lines += [csv_line(row, harmless=spreadsheet) for row in zip(*table.cells, strict=True)]
    content = "".join(lines).encode()
    about = {**table.about, "spreadsheet": True} if spreadsheet else table.about
    with replacing(place) as file, replacing(Path(f"{place}{ENDING}")) as beside:
        file.write(content)
        beside.write(dumps(about) + b"\n")


def _load_csv(place: Path) -> pd.DataFrame:
    beside = Path(f"{place}{ENDING}")
    if not beside.is_file():
        raise InvalidInputError(f"Beside {place} lies no {beside.name} with its types; read it with pandas.read_csv.")
    about = loads(beside.read_bytes())
    about = about if "version" in about else _renewed(about)
    told = [*about["index"].get("levels", ()), *about["columns"]]
    cells = _cells(place, len(told), about["rows"]) if told else []
    if about.get("spreadsheet"):
        cells = [list(map(as_written, column)) for column in cells]
    return _frame(about, [_with_gaps(*pair) for pair in zip(cells, told, strict=True)], read_column)


def _cells(place: Path, columns: int, rows: int) -> list[list[str]]:
    """The file's cells by column."""
    text = place.read_bytes().decode("utf-8-sig")
    for delimiter in ",;\t":  # a spreadsheet of another country writes semicolons
        try:
            table = [row for _, row in csv_rows(text, delimiter)]
        except ValueError:
            continue
        if len(table) == rows + 1 and all(len(row) == columns for row in table):
            return [list(column) for column in zip(*table[1:], strict=True)] or [[] for _ in range(columns)]
    raise InvalidInputError(
        f"{place} does not go with {place.name}{ENDING}: it was changed since, and has no longer {rows} rows of "
        f"{columns} cells. Read it with pandas."
    )


def _with_gaps(cells: Sequence[str], told: Mapping[str, Any]) -> Texts:
    """The column with None where nothing stands, but for the texts that are empty."""
    texts: Texts = [cell or None for cell in cells]
    for row in told.get("empty", ()):
        texts[row] = texts[row] or ""
    return texts


def _load_parquet(place: Path) -> pd.DataFrame:
    about, columns = read_parquet(place)
    return _load_older_parquet(place) if about is None else _frame(about, columns, read_arrow)


# Files of earlier versions.


def _load_older_parquet(place: Path) -> pd.DataFrame:
    """Types, index and attrs stood where pandas has them, and among the attrs what it would not give back."""
    out = pd.read_parquet(place)
    mended = out.attrs.pop("mended_columns", {})
    for name in out.columns:
        told = mended.get(column_text(name))
        if told == "json":
            out[name] = pd.Series(read_column(out[name].tolist(), {"dtype": "object"}), index=out.index)
        elif told is not None:
            kinds = pd.Index(told["categories"], dtype=told["kind"])
            out[name] = pd.Categorical(out[name], categories=kinds, ordered=told["ordered"])
        elif out[name].dtype == object:
            lists = [each.tolist() if isinstance(each, np.ndarray) else each for each in out[name]]
            out[name] = pd.Series(object_column(lists), index=out.index)
    return out


def _renewed(about: Mapping[str, Any]) -> dict[str, Any]:
    """What stands beside a CSV file, as it is told today."""
    every = [_renewed_column(told) for told in about["columns"]]
    levels, columns = every[: about["index_levels"]], every[about["index_levels"] :]
    index = {"levels": levels} if levels else {"range": [0, about["rows"], 1]}
    names = pd.Index([tuple(name) if isinstance(name, list) else name for name in about["column_names"]])
    texts, labels = _write_index(names, write_column, "The list of columns' names")
    return {
        **about,
        "index": {**index, "index_names": _json(about["index_names"], "index")},
        "names": {**labels, "texts": texts},
        "columns": columns,
    }


def _renewed_column(told: Mapping[str, Any]) -> Mapping[str, Any]:
    if told["dtype"] != "category":
        return told
    texts, kinds = write_column(pd.Series(told["categories"], dtype=told["kind"]), "The list of categories")
    return {**told, "categories": {"texts": texts, **kinds}}
