"""Convert cells of any type to JSON and back without loss; types that JSON lacks are tagged with their name."""

from __future__ import annotations

import base64
import datetime
import decimal
import enum
import json
import math
import re
import uuid
import zoneinfo
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from parallel_openai._json import dumps, loads

_TYPE, _VALUE = "$type", "value"
_LONG_NUMBER = re.compile(r"\d{19}")


class _Kind(NamedTuple):
    type: Any
    write: Callable[[Any], Any]
    read: Callable[[Any], Any]


def _timestamp(value: Any) -> Any:
    text, unit, zone = value
    moment = pd.Timestamp(np.datetime64(text, unit))
    return moment if zone is None else moment.tz_localize("UTC").tz_convert(zone)


def _moment(value: datetime.datetime | datetime.time) -> Any:
    """As ISO 8601; if in a zone with a name, the time of day there, the fold, and the name."""
    zone = getattr(value.tzinfo, "key", None)
    return value.isoformat() if zone is None else [value.replace(tzinfo=None).isoformat(), value.fold, zone]


def _moment_of(kind: Any) -> Callable[[Any], Any]:
    def read(written: Any) -> Any:
        if isinstance(written, str):
            return kind.fromisoformat(written)
        text, fold, zone = written
        return kind.fromisoformat(text).replace(tzinfo=zoneinfo.ZoneInfo(zone), fold=fold)

    return read


def _array(value: Any) -> Any:
    dtype, shape, values = value
    array = np.empty(len(values), dtype=dtype)
    for position, item in enumerate(values):  # one by one: lists of equal length would become further dimensions
        array[position] = item
    return array.reshape(shape)


_KINDS: dict[str, _Kind] = {
    "float": _Kind(float, repr, float),
    "complex": _Kind(complex, repr, complex),
    "NA": _Kind(type(pd.NA), lambda _: None, lambda _: pd.NA),
    "NaT": _Kind(type(pd.NaT), lambda _: None, lambda _: pd.NaT),
    "dict": _Kind(dict, lambda value: list(map(list, value.items())), dict),
    "tuple": _Kind(tuple, list, tuple),
    "set": _Kind(set, lambda value: sorted(value, key=repr), set),
    "frozenset": _Kind(frozenset, lambda value: sorted(value, key=repr), frozenset),
    "bytes": _Kind(bytes, lambda value: base64.b64encode(value).decode(), base64.b64decode),
    "datetime": _Kind(datetime.datetime, _moment, _moment_of(datetime.datetime)),
    "date": _Kind(datetime.date, datetime.date.isoformat, datetime.date.fromisoformat),
    "time": _Kind(datetime.time, _moment, _moment_of(datetime.time)),
    "timedelta": _Kind(
        datetime.timedelta,
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda parts: datetime.timedelta(*parts),
    ),
    "Decimal": _Kind(decimal.Decimal, str, decimal.Decimal),
    "UUID": _Kind(uuid.UUID, str, uuid.UUID),
    "Path": _Kind(type(Path()), str, Path),
    "Timestamp": _Kind(
        pd.Timestamp,
        lambda value: [str(value.asm8), value.unit, None if value.tz is None else str(value.tz)],
        _timestamp,
    ),
    "Timedelta": _Kind(
        pd.Timedelta,
        lambda value: [int(value.asm8.astype("int64")), value.unit],
        lambda parts: pd.Timedelta(np.timedelta64(*parts)),
    ),
    "Period": _Kind(
        pd.Period,
        lambda value: [value.ordinal, value.freqstr],
        lambda parts: pd.Period(ordinal=parts[0], freq=parts[1]),
    ),
    "Interval": _Kind(
        pd.Interval, lambda value: [value.left, value.right, value.closed], lambda parts: pd.Interval(*parts)
    ),
    "array": _Kind(
        np.ndarray,
        lambda value: [value.dtype.str, list(value.shape), value.reshape(-1).tolist()],
        _array,
    ),
    "number": _Kind(
        np.generic, lambda value: [value.dtype.str, value.item()], lambda parts: np.dtype(parts[0]).type(parts[1])
    ),
}
_NAMES = {kind.type: name for name, kind in _KINDS.items()}


def to_exact_json(value: Any) -> str:
    """Return JSON that `from_exact_json` turns back into the value.

    Enum members become their values, and pydantic models dicts.

    Raises:
        TypeError: the value holds something that cannot be restored.

    >>> to_exact_json({"who": ["Zoë", 1]}), to_exact_json((float("nan"),))
    ('{"who":["Zoë",1]}', '{"$type":"tuple","value":[{"$type":"float","value":"nan"}]}')
    """
    try:
        return dumps(_written(value)).decode()
    except RecursionError:
        raise TypeError("what is nested without end") from None


def from_exact_json(text: str) -> Any:
    """Return the value that `to_exact_json` was given.

    Raises:
        ValueError: the text is not such JSON.
    """
    # orjson turns integers beyond 64 bits into floats.
    return _read(json.loads(text) if _LONG_NUMBER.search(text) else loads(text))


def _written(value: Any) -> Any:
    kind = type(value)
    if kind in (str, bool, int, type(None)) or (kind is float and math.isfinite(value)):
        return value
    if kind is list:
        return [_written(each) for each in value]
    if kind is dict and _TYPE not in value and all(type(key) is str for key in value):
        return {key: _written(each) for key, each in value.items()}
    if isinstance(value, enum.Enum):
        return _written(value.value)
    if isinstance(value, (np.generic, np.ndarray)) and value.dtype.kind not in "biufcOU":
        raise TypeError(f"NumPy's {value.dtype}")
    name = _NAMES.get(np.generic if isinstance(value, np.generic) else kind)
    if name is not None:
        return {_TYPE: name, _VALUE: _written(_KINDS[name].write(value))}
    return _written(_plainer(value))


def _plainer(value: Any) -> Any:
    """A subclass's value as its base type, and a pydantic model as a dict."""
    if hasattr(value, "model_dump"):
        return value.model_dump()
    bases: tuple[Any, ...] = (str, int, float, list, tuple)
    for base in bases:
        if isinstance(value, base):
            return base(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__}")


def _read(value: Any) -> Any:
    if type(value) is list:
        return [_read(each) for each in value]
    if type(value) is not dict:
        return value
    if value.keys() == {_TYPE, _VALUE}:
        return _KINDS[value[_TYPE]].read(_read(value[_VALUE]))
    return {key: _read(each) for key, each in value.items()}
