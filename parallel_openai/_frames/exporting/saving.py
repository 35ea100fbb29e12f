"""`save` and `load`: write a result frame to a file and read it back with its dtypes, index and attrs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from parallel_openai._arguments import check_file, path_of
from parallel_openai._disk.atomic_write import replacing
from parallel_openai._frames.columns.answer_columns import object_column
from parallel_openai._frames.columns.table import check_frame, column_text
from parallel_openai._frames.exporting.column_types import ColumnSpec, Texts, index_of, read_column, write_column
from parallel_openai._frames.exporting.csv_text import csv_line, csv_rows, unescape
from parallel_openai._frames.exporting.exact_json import from_exact_json, to_exact_json
from parallel_openai._frames.exporting.parquet import read_arrow, read_parquet, write_arrow, write_parquet
from parallel_openai._json import dumps, loads
from parallel_openai.errors import InvalidInputError

#: Suffix of the sidecar file with the dtypes, index and attrs of a CSV file.
SIDECAR = ".about.json"


def save(out: pd.DataFrame, path: str | os.PathLike[str], *, spreadsheet: bool = False) -> None:
    """Save a result frame to a file from which `load` restores it exactly, including the run's summary in `attrs`.

    Args:
        out: the frame.
        path: `.parquet` (needs pyarrow), or `.csv`; what CSV cannot hold goes into `<path>.about.json`.
        spreadsheet: True if a spreadsheet will open the CSV file: cells that it would run as formulas (`=1+1`,
            `@name`) get an apostrophe in front, which `load` removes.

    Raises:
        InvalidInputError: the suffix is another one, two columns have the same name, a column or cell cannot be
            restored, or the file cannot be written. An existing file is then unchanged.
        MissingDependencyError: pyarrow is not installed.

    Enum members become their values, pydantic models dicts, and objects of other subclasses, such as a Counter or a
    namedtuple, those of their base.

    >>> out = pd.DataFrame({"text": ["Fine."], "votes": [["good", "bad"]]})
    >>> out.attrs["parallel_openai"] = {"model": "gpt-5-mini"}
    >>> save(out, "answers.csv")
    >>> load("answers.csv").loc[0, "votes"], load("answers.csv").attrs
    (['good', 'bad'], {'parallel_openai': {'model': 'gpt-5-mini'}})
    """
    check_frame(out)
    path, suffix = _checked(path)
    if spreadsheet and suffix != ".csv":
        raise InvalidInputError("spreadsheet=True goes with a .csv file; a .parquet file has no formulas.")
    if not out.columns.is_unique:
        raise InvalidInputError(f"The frame has columns of the same name, which a file cannot keep apart: {list(out)}.")
    try:
        if suffix == ".csv":
            _save_csv(out, path, spreadsheet)
        else:
            table = _Table(out, write_arrow)
            write_parquet(path, table.headers, table.cells, table.about, out.attrs)
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"{_unwritable(out)} holds half of a character ({error.object[error.start]!r}), which no text file can "
            "hold. Replace it, as with .str.encode('utf-8', 'replace').str.decode(); to_jsonl writes it as it is."
        ) from None


def _unwritable(out: pd.DataFrame) -> str:
    for number, name in enumerate(out.columns):
        for label, value in out.iloc[:, number].items():
            try:
                str(value).encode()
            except UnicodeEncodeError:
                return f"The row {label!r} of the column {name!r}"
    return "The frame"


def load(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Return the frame that `save` wrote.

    Raises:
        InvalidInputError: there is no such file, or a CSV file's `.about.json` is missing or does not match it.
        MissingDependencyError: pyarrow is not installed.
    """
    path, suffix = _checked(path)
    check_file(path)
    try:
        return _load_csv(path) if suffix == ".csv" else _load_parquet(path)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, OverflowError) as error:
        if isinstance(error, InvalidInputError):
            raise
        sidecar = f" or {path.name}{SIDECAR}" if suffix == ".csv" else ""
        raise InvalidInputError(
            f"{path}{sidecar} was not written by save(), or was changed since: {str(error).rstrip('.')}. "
            "Read it with pandas."
        ) from error


def _checked(path: str | os.PathLike[str]) -> tuple[Path, str]:
    checked = path_of(path, "path")
    if checked.suffix not in (".csv", ".parquet"):
        raise InvalidInputError(f"The file's name must end in .parquet or .csv, and is {str(path)!r}.")
    return checked, checked.suffix


# Both kinds of file hold the index levels, then the columns, and a description of both.


class _Table:
    """A frame as the columns of a file."""

    def __init__(self, out: pd.DataFrame, write: Callable[[pd.Series[Any], str], tuple[Any, ColumnSpec]]) -> None:
        levels, index = _write_index(out.index, write, "The index")
        names, labels = _write_index(out.columns, write_column, "The list of columns' names")
        columns = [write(out.iloc[:, number], f"The column {name!r}") for number, name in enumerate(out.columns)]
        # The names of the file's columns.
        self.headers = (
            []
            if "range" in index
            else [f"index{n or ''}" if name is None else column_text(name) for n, name in enumerate(out.index.names)]
        )
        self.headers += map(column_text, out.columns)
        self.cells = [*levels, *(cells for cells, _ in columns)]  # the contents of each column
        # What is needed to rebuild the frame.
        self.about = {
            "version": 2,
            "index": index,
            "names": {**labels, "texts": names},
            "columns": [spec for _, spec in columns],
            "rows": len(out),
            "attrs": _json(out.attrs, "attrs"),
        }


def _frame(about: Mapping[str, Any], cells: Sequence[Any], read: Callable[[Any, ColumnSpec], Any]) -> pd.DataFrame:
    index, labels = about["index"], about["names"]
    count = len(index.get("levels", ()))
    columns = [read(*pair) for pair in zip(cells[count:], about["columns"], strict=True)]
    series = (pd.Series(column, dtype=column.dtype) for column in columns)
    out = pd.DataFrame(dict(enumerate(series)), index=pd.RangeIndex(about["rows"]))
    out.columns = _read_index(labels, labels["texts"], read_column)
    out.index = _read_index(index, cells[:count], read)
    out.attrs = about["attrs"] if isinstance(about["attrs"], dict) else from_exact_json(about["attrs"])
    return out


def _write_index(
    index: pd.Index[Any], write: Callable[..., tuple[Any, ColumnSpec]], what: str
) -> tuple[list[Any], ColumnSpec]:
    about: ColumnSpec = {"index_names": _json(list(index.names), f"{what}'s names")}
    if isinstance(index, pd.RangeIndex):
        return [], {**about, "range": [index.start, index.stop, index.step]}
    unnamed = index.set_names([None] * index.nlevels)  # get_level_values would take a level named 1 for the second
    levels = [unnamed.get_level_values(number) for number in range(index.nlevels)]
    written = [write(pd.Series(level.array, dtype=level.dtype), what) for level in levels]
    if isinstance(index, (pd.DatetimeIndex, pd.TimedeltaIndex)) and index.freq is not None:
        about["freq"] = index.freqstr
    return [cells for cells, _ in written], {**about, "levels": [spec for _, spec in written]}


def _read_index(spec: Mapping[str, Any], cells: Sequence[Any], read: Callable[[Any, ColumnSpec], Any]) -> Any:
    names = from_exact_json(spec["index_names"])
    if "range" in spec:
        start, stop, step = spec["range"]
        return pd.RangeIndex(start, stop, step, name=names[0])
    levels: list[Any] = [index_of(read(*pair), name) for *pair, name in zip(cells, spec["levels"], names, strict=True)]
    if len(levels) > 1:
        return pd.MultiIndex.from_arrays(levels, names=names)
    [index] = levels
    return type(index)(index, freq=spec["freq"]) if "freq" in spec else index


def _json(value: Any, what: str) -> str:
    try:
        return to_exact_json(value)
    except TypeError as error:
        raise InvalidInputError(f"The frame's {what} hold {error}, which cannot be restored from a file.") from None


def _save_csv(out: pd.DataFrame, path: Path, spreadsheet: bool) -> None:
    table = _Table(out, write_column)
    lines = [csv_line(table.headers, escape=spreadsheet)] if table.cells else []
    lines += [csv_line(row, escape=spreadsheet) for row in zip(*table.cells, strict=True)]
    content = "".join(lines).encode()
    about = {**table.about, "spreadsheet": True} if spreadsheet else table.about
    with replacing(path) as file, replacing(Path(f"{path}{SIDECAR}")) as sidecar:
        file.write(content)
        sidecar.write(dumps(about) + b"\n")


def _load_csv(path: Path) -> pd.DataFrame:
    sidecar = Path(f"{path}{SIDECAR}")
    if not sidecar.is_file():
        raise InvalidInputError(f"There is no {sidecar.name} with the types of {path}; read it with pandas.read_csv.")
    about = loads(sidecar.read_bytes())
    about = about if "version" in about else _upgraded(about)
    specs = [*about["index"].get("levels", ()), *about["columns"]]
    cells = _cells(path, len(specs), about["rows"]) if specs else []
    if about.get("spreadsheet"):
        cells = [list(map(unescape, column)) for column in cells]
    return _frame(about, [_with_missing(*pair) for pair in zip(cells, specs, strict=True)], read_column)


def _cells(path: Path, columns: int, rows: int) -> list[list[str]]:
    text = path.read_bytes().decode("utf-8-sig")
    for delimiter in ",;\t":  # in some locales spreadsheets save with semicolons
        try:
            table = [row for _, row in csv_rows(text, delimiter)]
        except ValueError:
            continue
        if len(table) == rows + 1 and all(len(row) == columns for row in table):
            return [list(column) for column in zip(*table[1:], strict=True)] or [[] for _ in range(columns)]
    raise InvalidInputError(
        f"{path} does not match {path.name}{SIDECAR}: it was changed since, and no longer has {rows} rows of "
        f"{columns} cells. Read it with pandas."
    )


def _with_missing(cells: Sequence[str], spec: Mapping[str, Any]) -> Texts:
    """The column with None for missing cells; the spec lists the empty strings."""
    texts: Texts = [cell or None for cell in cells]
    for row in spec.get("empty", ()):
        texts[row] = texts[row] or ""
    return texts


def _load_parquet(path: Path) -> pd.DataFrame:
    about, columns = read_parquet(path)
    return _load_older_parquet(path) if about is None else _frame(about, columns, read_arrow)


# Files of earlier versions.


def _load_older_parquet(path: Path) -> pd.DataFrame:
    """Pandas restores dtypes, index and attrs, except for columns that the attrs describe under `mended_columns`."""
    out = pd.read_parquet(path)
    mended = out.attrs.pop("mended_columns", {})
    for name in out.columns:
        spec = mended.get(column_text(name))
        if spec == "json":
            out[name] = pd.Series(read_column(out[name].tolist(), {"dtype": "object"}), index=out.index)
        elif spec is not None:
            categories = pd.Index(spec["categories"], dtype=spec["kind"])
            out[name] = pd.Categorical(out[name], categories=categories, ordered=spec["ordered"])
        elif out[name].dtype == object:
            lists = [each.tolist() if isinstance(each, np.ndarray) else each for each in out[name]]
            out[name] = pd.Series(object_column(lists), index=out.index)
    return out


def _upgraded(about: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of an earlier version's sidecar in today's form."""
    every = [_upgraded_column(spec) for spec in about["columns"]]
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


def _upgraded_column(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    if spec["dtype"] != "category":
        return spec
    texts, dtype = write_column(pd.Series(spec["categories"], dtype=spec["kind"]), "The list of categories")
    return {**spec, "categories": {"texts": texts, **dtype}}
