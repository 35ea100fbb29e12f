"""Format cells for prompt templates: in full, and the same in every session because it determines the request key."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from array import array
from collections import deque
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
import pandas as pd

from parallel_openai._frames.columns.table import is_missing
from parallel_openai._requests.template import BadPromptError

#: Floats from here on do not represent every integer.
_LARGEST_WHOLE = 2.0**53
_LISTS = (list, tuple, deque, range, array, np.ndarray, pd.Index, pd.api.extensions.ExtensionArray)
#: An object's default repr, with its address, which differs in each session.
_MEMORY_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]{4,}")


def prompt_value(value: Any) -> Any:
    """Return what a template fills in for a cell: JSON for containers, an integer for integral floats (a column of
    integers with a missing one holds floats), and anything else unchanged, to be formatted by Python.

    >>> prompt_value(2020.0), prompt_value(np.float32(0.1)), prompt_value(np.array(["a"])), prompt_value({"b", "a"})
    (2020, 0.1, '["a"]', '["a", "b"]')
    """
    if type(value) is str or type(value) is int:
        return value
    value = _plain(value)
    parts = _parts(value)
    return _checked(value) if parts is None else _json(parts)


def _plain(value: Any) -> Any:
    """NumPy scalars as Python's, and integral floats as integers."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, np.generic):
        value = _of_numpy(value)
    if type(value) is float and value.is_integer() and abs(value) < _LARGEST_WHOLE:
        return int(value)
    return value


def _of_numpy(value: np.generic) -> Any:
    if isinstance(value, np.datetime64):
        return pd.Timestamp(value)
    if isinstance(value, np.timedelta64):
        return pd.Timedelta(value)
    if isinstance(value, np.void) and value.dtype.names:
        return {name: value[name] for name in value.dtype.names}
    # By its shortest repr: the 64-bit float nearest to a 32-bit 0.1 is 0.10000000149011612.
    return float(str(value)) if isinstance(value, (np.float16, np.float32)) else value.item()


def _parts(value: Any) -> Mapping[Any, Any] | Sequence[Any] | None:
    if isinstance(value, (str, bytes, int, float)):
        return None
    if isinstance(value, Mapping):
        return value
    if isinstance(value, pd.DataFrame):
        return [dict(zip(value.columns, row, strict=True)) for row in value.itertuples(index=False, name=None)]
    if isinstance(value, pd.Series):
        return list(value) if isinstance(value.index, pd.RangeIndex) else dict(value.items())
    if isinstance(value, Set):
        return sorted(value, key=_rank)
    if isinstance(value, np.ma.MaskedArray):
        return [None if each is np.ma.masked else each for each in value]
    if isinstance(value, _LISTS) and not hasattr(value, "_asdict"):
        return list(value)
    return _fields(value)


def _fields(value: Any) -> Mapping[str, Any] | None:
    """The fields of a pydantic model, dataclass or named tuple; None for other values."""
    if isinstance(value, type):
        return None
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    for name in ("model_dump", "_asdict"):
        if callable(getattr(value, name, None)):
            return dict(getattr(value, name)())
    return None


def _rank(value: Any) -> tuple[bool, float, str]:
    """Sort key of a set's members: numbers by size, then others by their text."""
    value = _plain(value)
    is_number = isinstance(value, (int, float)) and value == value
    return (not is_number, value if is_number else 0, _json(value))


def _json(value: Any) -> str:
    value = _plain(value)
    if value is None or value is True or value is False:
        return json.dumps(value)
    if type(value) is int:
        return str(value)
    if is_missing(value):
        return "null"
    if isinstance(value, float):
        return repr(value)
    parts = _parts(value)
    if parts is None:
        return json.dumps(str(_checked(value)), ensure_ascii=False)
    if isinstance(parts, Mapping):
        return "{" + ", ".join(f"{_key(key)}: {_json(each)}" for key, each in parts.items()) + "}"
    return "[" + ", ".join(map(_json, parts)) + "]"


def _key(key: Any) -> str:
    return json.dumps(key if type(key) is str else str(prompt_value(key)), ensure_ascii=False)


def _checked(value: Any) -> Any:
    if isinstance(value, (str, bytes, int, float)):
        return value
    if not (inspect.isroutine(value) or isinstance(value, type) or _MEMORY_ADDRESS.search(str(value))):
        return value
    raise BadPromptError(
        "invalid_prompt",
        f"A value of type {type(value).__name__} has no text to fill in; make a column with the text you want.",
    )
