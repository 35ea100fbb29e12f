"""Read and write JSON, including any value of a frame's cell. The only module that imports orjson."""

from __future__ import annotations

import base64
import enum
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from decimal import Decimal
from itertools import zip_longest
from typing import Any

import orjson

#: The deepest nesting that is read, so that recursive functions do not exceed Python's stack.
MAX_NESTING = 200
#: The most values that are read; lists and objects, which take more memory, count as four. That takes about a gigabyte
#: of memory, and is more than the largest response with embeddings or log probabilities has.
MAX_VALUES = 8_000_000
_TOO_DEEP = f"it is nested more than {MAX_NESTING} levels deep"

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


class JSONTooLargeError(ValueError):
    """A JSON text has too many values or is nested too deeply to be read safely."""


def dumps(value: Any, *, sort_keys: bool = False) -> bytes:
    """The value as one line of UTF-8 JSON. NaN, NA and NaT become null, and other types that JSON lacks a string.

    >>> from datetime import date
    >>> dumps({"when": date(2026, 3, 1), "score": float("nan"), "who": "Zoë", "tags": {"a"}}).decode()
    '{"when":"2026-03-01","score":null,"who":"Zoë","tags":["a"]}'
    """
    options = _OPTIONS | orjson.OPT_SORT_KEYS if sort_keys else _OPTIONS
    try:
        return orjson.dumps(value, default=plain, option=options)
    except orjson.JSONEncodeError:  # lone surrogates, integers past 64 bits, keys of odd types
        return json.dumps(_plain_tree(value), sort_keys=sort_keys, separators=(",", ":")).encode()


def body_and_canonical(value: Any) -> tuple[bytes, bytes]:
    """The JSON of a request body to send, and a form of it that is independent of the order of keys.

    Raises:
        TypeError: as for `dumps_strictly`, or it is nested too deeply to be read back.
    """
    body = dumps_strictly(value)
    is_long = len(body) > 2 * MAX_NESTING  # each level takes two brackets
    if is_long and body.count(b"[") + body.count(b"{") > MAX_NESTING and _is_nested_deeper(orjson.loads(body)):
        raise TypeError("it is nested too deeply")
    return body, orjson.dumps(value, default=_list_of_array, option=_OPTIONS | orjson.OPT_SORT_KEYS)


def dumps_strictly(value: Any, *, sort_keys: bool = False) -> bytes:
    """The value as JSON for sending: unlike `dumps`, it does not convert types that JSON lacks.

    Raises:
        TypeError: the value contains such a type, or a string that is not valid Unicode.

    >>> dumps_strictly({"stop": {"a", "b"}})
    Traceback (most recent call last):
        ...
    TypeError: Type is not JSON serializable: set
    """
    options = _OPTIONS | orjson.OPT_SORT_KEYS if sort_keys else _OPTIONS
    made = orjson.dumps(value, default=_list_of_array, option=options)
    # A null outside of strings comes after one of these characters.
    if b"null" in made and (b":null" in made or b",null" in made or b"[null" in made) and _has_nan(value):
        raise TypeError("JSON has no NaN and no infinity")
    # A copy, since orjson's result keeps a buffer of at least 4 KB, and many requests are queued.
    return bytes(memoryview(made))


def canonical(value: Any) -> bytes:
    """The JSON of a value that was read from JSON, independent of the order of keys; twice as fast as the others.

    Raises:
        TypeError: it contains an integer beyond 64 bits, or a string that is not valid Unicode.

    >>> canonical({"b": 1, "a": None}) == canonical({"a": None, "b": 1})
    True
    """
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def alike(made: bytes) -> bytes:
    """A JSON text with its whole numbers in one spelling: 0.0, -0.0 and 0 are equal.

    >>> alike(b'{"temperature":-0.0,"top_p":0.5}')
    b'{"temperature":0,"top_p":0.5}'
    """
    if b".0" not in made or not _WHOLE_FRACTION.search(made):
        return made
    try:
        return orjson.dumps(_with_whole_numbers(orjson.loads(made)))
    except orjson.JSONDecodeError:  # a lone surrogate, which is refused when the body is sent
        return made


#: Also matches within strings, which only costs time.
_WHOLE_FRACTION = re.compile(rb"[0-9]\.0(?![0-9])")


def _with_whole_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_whole_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_whole_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT else value


#: Below this, floats represent integers exactly.
_EXACT = 2.0**53


def _has_nan(value: Any) -> bool:
    """Whether it contains a NaN or an infinity, which orjson writes as `null`."""
    if isinstance(value, Mapping):
        return any(map(_has_nan, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_has_nan, value))
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return _has_nan(value.tolist())
    return isinstance(value, float) and not math.isfinite(value)


def _list_of_array(value: Any) -> Any:
    """Convert arrays of objects, which parquet files have for lists. orjson itself takes arrays of numbers."""
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"Type is not JSON serializable: {type(value).__name__}")


def loads(text: bytes | str) -> Any:
    """Parse JSON, with integers exact up to Python's longest, 4,300 digits.

    Raises:
        ValueError: it is not valid JSON.
        JSONTooLargeError: it has too many values or is nested too deeply.

    >>> loads('{"id": 89490200001234567891}')
    {'id': 89490200001234567891}
    """
    raw = text if isinstance(text, bytes) else text.encode(errors="replace")
    if _LONG in raw.translate(_DIGITS) and _LONG_NUMBER.search(raw):
        return _within_bounds(text, _loads_exactly)
    return _within_bounds(text, _loads_fast)


#: Integers with fewer digits fit into 64 bits.
_LONG = b"0" * 19
_LONG_NUMBER = re.compile(rb"(?<![0-9.])[0-9]{19}")
_DIGITS = bytes(ord("0") if chr(byte).isdigit() and byte < 128 else byte | 128 for byte in range(256))


def values_in(line: bytes) -> list[bytes]:
    """The JSON values that stand in a line, one after the other, and last what is left of it, if anything.

    >>> values_in(b'{"a":1}{"b":2}\\n'), values_in(b'{"a":1}{"b"')
    ([b'{"a":1}', b'{"b":2}\\n'], [b'{"a":1}', b'{"b"'])
    """
    text, ends = line.decode("latin-1"), [0]  # in which each byte is a character
    with suppress(ValueError, RecursionError):
        while True:
            ends.append(_DECODER.raw_decode(text, ends[-1])[1])
    starts = ends if line[ends[-1] :].strip() or len(ends) == 1 else ends[:-1]
    return [line[start:end] for start, end in zip_longest(starts, starts[1:])]


_DECODER = json.JSONDecoder(parse_int=str)  # only where values end counts


#: Parse what `dumps_strictly` wrote, whose size need not be checked.
read_back = orjson.loads


def loads_quickly(text: bytes | str) -> Any:
    """Parse JSON in which integers beyond 64 bits may become floats, such as an API's response, which has none.

    Raises:
        ValueError: it is not valid JSON.
        JSONTooLargeError: it has too many values or is nested too deeply.
    """
    return _within_bounds(text, _loads_fast)


def _loads_fast(text: bytes | str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:  # Python's json module writes NaN and integers past 64 bits
        return _loads_exactly(text)


def _loads_exactly(text: bytes | str) -> Any:
    # Decoded first, or json would take a line with zeros for UTF-16 and read what only looks like one of ours.
    text = text.decode("utf-8-sig", "surrogatepass") if isinstance(text, bytes) else text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # an integer of more digits than Python converts
        return json.loads(text, parse_int=_integer)


def _integer(digits: str) -> float:
    """An integer; infinity, as 1e400 is read, if it has more digits than Python converts (4,300 by default)."""
    try:
        return int(digits)
    except ValueError:
        return float(digits)


def _within_bounds(text: bytes | str, read: Callable[[bytes | str], Any]) -> Any:
    raw = text if isinstance(text, bytes) else text.encode(errors="replace")
    containers = raw.count(b"[") + raw.count(b"{")  # an upper bound
    # Most texts are too short for that many values.
    if len(raw) > MAX_VALUES // 4 and 4 * containers + raw.count(b",") > MAX_VALUES:
        raise JSONTooLargeError(f"it holds more than {MAX_VALUES:,} values (a list or an object counts as four)")
    try:
        value = read(text)
    except RecursionError:
        raise JSONTooLargeError(_TOO_DEEP) from None
    if containers > MAX_NESTING and _is_nested_deeper(value):
        raise JSONTooLargeError(_TOO_DEEP)
    return value


def _is_nested_deeper(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_NESTING):
        inner = (each.values() if type(each) is dict else each for each in level if type(each) in (dict, list))
        level = [each for values in inner for each in values if type(each) in (dict, list)]
        if not level:
            return False
    return True


def loads_from_anywhere(content: bytes, content_type: str | None = None) -> tuple[bytes, Any]:
    r"""Parse JSON from another program; returns it as UTF-8, mostly unchanged, and its value.

    It may have a byte order mark, another encoding, truncated characters or lone surrogates; the latter two become
    U+FFFD. `content_type`, as in the HTTP header, names its encoding if that is not Unicode.

    Raises:
        ValueError: it is not valid JSON.
        JSONTooLargeError: it has too many values or is nested too deeply.

    >>> loads_from_anywhere(b'\xef\xbb\xbf{"a": 1}')
    (b'{"a": 1}', {'a': 1})
    >>> loads_from_anywhere(b'{"a": "\\ud83d"}')[1] == {"a": "\ufffd"}
    True
    """
    try:
        return content, _within_bounds(content, orjson.loads)
    except orjson.JSONDecodeError:
        text = _ESCAPES.sub(lambda found: "\\ufffd" if found[1] else found[0], _decoded(content, content_type or ""))
        return text.encode(), _within_bounds(text, _loads_exactly)


#: The escapes of a JSON text, with a surrogate pair as one; the group matches a lone surrogate.
_ESCAPES = re.compile(r"\\(?:u[dD][89abAB]\w\w\\u[dD][c-fC-F]\w\w|(u[dD][89a-fA-F]\w\w)|.)", re.DOTALL)


def _decoded(content: bytes, content_type: str) -> str:
    """Decode as Unicode, whatever the content type says; use its encoding only if that fails."""
    charset = content_type.lower().partition("charset=")[2].partition(";")[0].strip("\"' ")
    for encoding in (json.detect_encoding(content), charset or "utf-8"):
        with suppress(LookupError, ValueError):
            return content.decode(encoding)
    return content.decode("utf-8", "replace")


def loads_as_written(text: str, fraction: Callable[[str], Any] = orjson.Fragment) -> Any:
    """Parse JSON, keeping numbers as they are written; only for `dumps_as_written`."""
    return json.loads(text, parse_int=orjson.Fragment, parse_float=fraction, parse_constant=orjson.Fragment)


def dumps_as_written(value: Any) -> str:
    """The JSON of a value from `loads_as_written`."""
    return orjson.dumps(value).decode()


def long_fractions_as_text(text: str) -> str:
    """The same JSON with each number that a float would round as a string, for use with Decimal.

    >>> long_fractions_as_text('{"price": 0.5, "exact": 0.12345678901234567890}')
    '{"price":0.5,"exact":"0.12345678901234567890"}'
    """

    def fraction(number: str) -> Any:
        return orjson.Fragment(number) if Decimal(number) == Decimal(repr(float(number))) else number

    try:
        return dumps_as_written(loads_as_written(text, fraction))
    except orjson.JSONEncodeError:  # half an emoji, which whoever reads the text refuses
        return text


def plain(value: Any) -> Any:
    """Convert a value to the nearest type that JSON has."""
    kind = type(value).__name__
    if kind in ("NAType", "NaTType"):  # pandas' missing values
        return None
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Set):
        return sorted(value, key=str)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(bytes(value)).decode()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "tolist"):  # numpy scalars, and arrays of types that orjson does not support
        return value.tolist()
    if hasattr(value, "model_dump"):  # pydantic
        return value.model_dump(mode="json")
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return str(value)


def _plain_tree(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain_tree(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain_tree(item) for item in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    return _plain_tree(plain(value))
