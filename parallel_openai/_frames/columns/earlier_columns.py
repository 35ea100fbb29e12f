"""Recognise the columns that an earlier call of the same function added, which the next call replaces.

The frame's attrs hold their names and a checksum of each, over its values and their rows' `request_key`. It does not
depend on the order of rows, but shows whether a value was changed. As it cannot show that rows were only dropped, each
row's own hash is kept in memory for the latest runs of this process.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from parallel_openai._frames.columns.answer_columns import COLUMNS
from parallel_openai._frames.columns.explode import CHOICE
from parallel_openai._frames.columns.run_info import ATTRS, last_run_of
from parallel_openai._frames.columns.table import columns_by_text, has_column, label_of
from parallel_openai._frames.run_options import Options
from parallel_openai._requests.template import parse_template
from parallel_openai.errors import TemplateError

_KEY = "request_key"
#: Columns with few duplicates, which are hashed faster without looking for duplicates first.
_MOSTLY_UNIQUE = frozenset({_KEY, "request_id"})
_RUNS_KEPT = 8
_AT_A_TIME = 10_000

Numbers = np.ndarray[Any, np.dtype[Any]]

_rows: dict[str, Numbers] = {}  # the rows' hashes of the latest runs, by the run's checksums


def checksums(out: pd.DataFrame, options: Options, names: Iterable[str]) -> dict[str, Any]:
    """Return what the attrs record of the columns that calls added, by call; `names` are this call's columns."""
    choice = CHOICE if options.explode else None
    sums, rows = _sums(out, options.prefix, [*names, CHOICE] if options.explode else names)
    rows.sort()
    _rows.pop(_name(sums), None)
    _rows[_name(sums)] = rows
    for oldest in list(_rows)[:-_RUNS_KEPT]:
        _rows.pop(oldest, None)
    return {**_earlier_results(out), f"{options.verb} {options.prefix}": {"sums": sums, "choice": choice}}


def without_earlier(df: pd.DataFrame, verb: str, prefix: Any, reads: Iterable[Any]) -> pd.DataFrame:
    """Drop the columns (and exploded rows) that an earlier call of the same function with the same prefix added.

    Returns the frame unchanged if any of these columns was modified, or is read by the next call.

    Args:
        reads: the columns and templates that the next call reads.
    """
    made = _earlier_results(df).get(f"{verb} {prefix}")
    if made is None:
        return df
    left = [name for name in made["sums"] if has_column(df, label_of(df, prefix + name))]
    labels = [label_of(df, prefix + name) for name in left]
    if not _columns_read(df, reads).isdisjoint(labels) or not _are_unchanged(df, prefix, left, made):
        return df
    if (choice := made.get("choice")) in left:  # the first row of each choice is the frame's own
        df = df[df[label_of(df, prefix + choice)].fillna(0).eq(0).to_numpy(dtype=bool)]
    return df.drop(columns=labels)


def as_users_own(df: pd.DataFrame, column: Hashable) -> pd.DataFrame:
    """The frame with attrs by which the column is the caller's own, even if an earlier call added it."""
    made = _earlier_results(df)
    kept = {
        call: each
        for call, each in made.items()
        if column not in [label_of(df, call.partition(" ")[2] + name) for name in each["sums"]]
    }
    if len(kept) < len(made):
        df = df.copy(deep=False)
        df.attrs[ATTRS] = replace(last_run_of(df), made=kept).dump()
    return df


def _earlier_results(df: pd.DataFrame) -> Mapping[str, Any]:
    made = last_run_of(df).made
    return {call: each for call, each in made.items() if isinstance(each, Mapping) and _is_sums(each.get("sums"))}


def _is_sums(sums: Any) -> bool:
    return isinstance(sums, Mapping) and all(isinstance(each, str) for each in sums.values())


def _columns_read(df: pd.DataFrame, reads: Iterable[Any]) -> set[Hashable]:
    by_text = columns_by_text(df)
    columns: set[Hashable] = set()
    for read in reads:
        if has_column(df, read):
            columns.add(read)
        elif isinstance(read, str):
            try:
                columns.update(by_text[name] for name in parse_template(read, list(by_text)).columns)
            except TemplateError:  # reported when the call checks its arguments
                continue
    return columns


def _are_unchanged(df: pd.DataFrame, prefix: str, left: Sequence[str], made: Mapping[str, Any]) -> bool:
    if _KEY not in left or not df[[label_of(df, prefix + name) for name in left]].columns.is_unique:
        return False
    recorded, (sums, hashes) = made["sums"], _sums(df, prefix, left)
    if all(sums[name] == recorded[name] for name in left):
        return True
    rows = _rows.get(_name(recorded))
    is_complete = len(left) == len(recorded) and made.get("choice") is None
    return is_complete and rows is not None and bool(np.isin(hashes, rows).all())


def _sums(df: pd.DataFrame, prefix: str, names: Iterable[str]) -> tuple[dict[str, str], Numbers]:
    """Each column's checksum and each row's hash, made of a hash of each cell's value and its row's key."""
    sums, rows = {}, np.zeros(len(df), dtype=np.uint64)
    keys = _hashes(df[label_of(df, prefix + _KEY)], _KEY) | np.uint64(1)
    for name in names:  # one by one: together they would take more memory than the answers
        hashes = _hashes(df[label_of(df, prefix + name)], name) * keys
        sums[name] = f"{int(hashes.sum(dtype=np.uint64)):016x}"
        rows += hashes
    return sums, rows


def _hashes(column: pd.Series[Any], name: str) -> Numbers:
    """A hash of each cell's value; in chunks, because pandas makes Python objects of strings."""
    cells: Any = column.to_numpy() if isinstance(column.dtype, np.dtype) else column.array
    if len(cells) <= _AT_A_TIME:
        return _hashes_of(cells, name)
    return np.concatenate(
        [_hashes_of(cells[start : start + _AT_A_TIME], name) for start in range(0, len(cells), _AT_A_TIME)]
    )


def _hashes_of(cells: Any, name: str) -> Numbers:
    present = ~pd.isna(cells)
    if present.all():
        return _hashes_of_all(cells, name)
    # pandas hashes strings ten times slower if some are missing, as most are after a run that ended early.
    hashes = np.zeros(len(cells), dtype=np.uint64)
    if present.any():
        hashes[present] = _hashes_of_all(cells[present], name)
    return hashes


def _hashes_of_all(cells: Any, name: str) -> Numbers:
    has_duplicates = name in COLUMNS and name not in _MOSTLY_UNIQUE
    if cells.dtype != object:
        with suppress(Exception):  # lone surrogates, and types that pandas cannot hash
            return pd.util.hash_array(cells, categorize=has_duplicates)
    return pd.util.hash_array(np.array([_brief(cell) for cell in cells], dtype=object), categorize=has_duplicates)


def _brief(value: Any) -> str:
    """The value's repr; of a vector only its shape and first numbers, which are distinctive enough."""
    try:
        return f"{value.shape} {value[:4].tolist()}" if isinstance(value, np.ndarray) else ascii(value)
    except Exception:  # the repr of an object from a caller's parser may raise anything
        return type(value).__name__


def _name(sums: Mapping[str, str]) -> str:
    return "".join(sums.values())
