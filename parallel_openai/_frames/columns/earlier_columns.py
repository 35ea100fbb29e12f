"""The columns that an earlier call of the same function made, which the next call replaces.

They are known by the frame's attrs, which tell their names and, of each, a sum over what stands in it and beside which
`request_key`: rows may be sorted since, but a value that was changed shows. Sums cannot tell whether rows were only
left out; so of the latest runs in this process each row's own number is kept too.
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
#: With a value of its own in nearly every row: these are hashed sooner than it is found out which are alike.
_MANIFOLD = frozenset({_KEY, "request_id"})
_RUNS_KEPT = 8
_AT_A_TIME = 10_000

Numbers = np.ndarray[Any, np.dtype[Any]]

_rows: dict[str, Numbers] = {}  # of each row of the latest runs, by all their sums


def sign(out: pd.DataFrame, options: Options, names: Iterable[str]) -> dict[str, Any]:
    """What the frame's attrs are to say of the columns that calls made, by the call; `names` are those of this one."""
    choice = CHOICE if options.explode else None
    sums, rows = _sums(out, options.prefix, [*names, CHOICE] if options.explode else names)
    rows.sort()
    _rows.pop(_name(sums), None)
    _rows[_name(sums)] = rows
    for oldest in list(_rows)[:-_RUNS_KEPT]:
        _rows.pop(oldest, None)
    return {**_told(out), f"{options.verb} {options.prefix}": {"sums": sums, "choice": choice}}


def without_made(df: pd.DataFrame, verb: str, prefix: Any, reads: Iterable[Any]) -> pd.DataFrame:
    """The frame as it was before an earlier call of the same function with the same prefix: without what that added.

    Nothing is taken away unless all of it that is left holds what the call put there, and none is read by the next.

    Args:
        reads: the columns and templates that the next call works on.
    """
    made = _told(df).get(f"{verb} {prefix}")
    if made is None:
        return df
    left = [name for name in made["sums"] if has_column(df, label_of(df, prefix + name))]
    labels = [label_of(df, prefix + name) for name in left]
    if not _columns_read(df, reads).isdisjoint(labels) or not _are_as_made(df, prefix, left, made):
        return df
    if (choice := made.get("choice")) in left:  # the first row of each choice is the frame's own
        df = df[df[label_of(df, prefix + choice)].fillna(0).eq(0).to_numpy(dtype=bool)]
    return df.drop(columns=labels)


def as_own(df: pd.DataFrame, column: Hashable) -> pd.DataFrame:
    """The frame, with the column taken for the caller's own if a call made it."""
    made = _told(df)
    kept = {
        call: each
        for call, each in made.items()
        if column not in [label_of(df, call.partition(" ")[2] + name) for name in each["sums"]]
    }
    if len(kept) < len(made):
        df = df.copy(deep=False)
        df.attrs[ATTRS] = replace(last_run_of(df), made=kept).dump()
    return df


def _told(df: pd.DataFrame) -> Mapping[str, Any]:
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
            except TemplateError:  # which is told where the call looks at its arguments
                continue
    return columns


def _are_as_made(df: pd.DataFrame, prefix: str, left: Sequence[str], made: Mapping[str, Any]) -> bool:
    if _KEY not in left or not df[[label_of(df, prefix + name) for name in left]].columns.is_unique:
        return False
    told, (sums, numbers) = made["sums"], _sums(df, prefix, left)
    if all(sums[name] == told[name] for name in left):
        return True
    rows = _rows.get(_name(told))
    is_whole = len(left) == len(told) and made.get("choice") is None
    return is_whole and rows is not None and bool(np.isin(numbers, rows).all())


def _sums(df: pd.DataFrame, prefix: str, names: Iterable[str]) -> tuple[dict[str, str], Numbers]:
    """Each column's sum and each row's own number, of a number for each cell that is made of its value and its row's
    key."""
    sums, rows = {}, np.zeros(len(df), dtype=np.uint64)
    keys = _hashes(df[label_of(df, prefix + _KEY)], _KEY) | np.uint64(1)
    for name in names:  # one after the other, since together they would take more memory than the answers
        numbers = _hashes(df[label_of(df, prefix + name)], name)
        numbers *= keys
        sums[name] = f"{int(numbers.sum(dtype=np.uint64)):016x}"
        rows += numbers
    return sums, rows


def _hashes(column: pd.Series[Any], name: str) -> Numbers:
    """A number for each cell, made of its value. So many at a time, since pandas makes objects of their texts."""
    cells: Any = column.to_numpy() if isinstance(column.dtype, np.dtype) else column.array
    parts = [_hashes_of(cells[start : start + _AT_A_TIME], name) for start in range(0, len(cells), _AT_A_TIME)]
    return np.concatenate(parts or [np.zeros(0, dtype=np.uint64)])


def _hashes_of(cells: Any, name: str) -> Numbers:
    hashes, present = np.zeros(len(cells), dtype=np.uint64), ~pd.isna(cells)
    # Missing cells make pandas hash texts ten times slower, and of a run that was ended most are missing.
    hashes[present] = _hashes_of_all(cells if present.all() else cells[present], name)
    return hashes


def _hashes_of_all(cells: Any, name: str) -> Numbers:
    are_alike = name in COLUMNS and name not in _MANIFOLD
    if cells.dtype != object:
        with suppress(Exception):  # lone surrogates, and types that pandas cannot hash
            return pd.util.hash_array(cells, categorize=are_alike)
    return pd.util.hash_array(np.array([_brief(cell) for cell in cells], dtype=object), categorize=are_alike)


def _brief(value: Any) -> str:
    """Of a vector its length and its first numbers, which tell it from others."""
    try:
        return f"{value.shape} {value[:4].tolist()}" if isinstance(value, np.ndarray) else ascii(value)
    except Exception:  # what a caller's parser gives may raise whatever it likes
        return type(value).__name__


def _name(sums: Mapping[str, str]) -> str:
    return "".join(sums.values())
