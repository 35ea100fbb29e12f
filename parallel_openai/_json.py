"""JSON in and out: whatever stands in a frame's cell comes out as valid JSON. The only door to orjson."""

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
from typing import Any

import orjson

#: Levels that a value which is read may be nested: what walks through it must not run into the end of Python's stack.
MAX_NESTING = 200
#: Values that one may hold, of which a list and an object, which take more memory, count as four each. Within a
#: gigabyte or so of memory, and more than the largest pack of embeddings or the log probabilities of a long answer.
MAX_VALUES = 8_000_000
_TOO_DEEP = f"it is nested more than {MAX_NESTING} levels deep"

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


class JSONTooLargeError(ValueError):
    """A JSON text holds more, or is nested deeper, than can be read without harm."""


def dumps(value: Any, *, sort_keys: bool = False) -> bytes:
    """The value as one line of UTF-8 JSON. NaN, NA and NaT become null; what JSON does not know becomes its text.

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
    """The bytes of what is sent, and those that are the same for the same content, whatever the order of its keys.

    Raises:
        TypeError: as `dumps_strictly` does, or it is nested deeper than it could be read back.
    """
    body = dumps_strictly(value)
    if body.count(b"[") + body.count(b"{") > MAX_NESTING and _is_nested_deeper(orjson.loads(body)):
        raise TypeError("it is nested too deeply")
    return body, orjson.dumps(value, default=_list_of_array, option=_OPTIONS | orjson.OPT_SORT_KEYS)


def dumps_strictly(value: Any, *, sort_keys: bool = False) -> bytes:
    """The same as `dumps` for what is sent: what JSON cannot carry as it is, is an error.

    Raises:
        TypeError: the value holds something that JSON does not know, or text that is no valid Unicode.

    >>> dumps_strictly({"stop": {"a", "b"}})
    Traceback (most recent call last):
        ...
    TypeError: Type is not JSON serializable: set
    """
    options = _OPTIONS | orjson.OPT_SORT_KEYS if sort_keys else _OPTIONS
    made = orjson.dumps(value, default=_list_of_array, option=options)
    # A null that is no text, as in a schema, stands behind one of these.
    if b"null" in made and (b":null" in made or b",null" in made or b"[null" in made) and _has_no_number(value):
        raise TypeError("JSON has no NaN and no infinity")
    # A copy, for what orjson gives holds on to a buffer of 4 KB at the least, and requests wait in large numbers.
    return bytes(memoryview(made))


def canonical(value: Any) -> bytes:
    """The same bytes for the same content, of a value that was read from JSON; in half the time of the others.

    Raises:
        TypeError: it holds a number beyond 64 bits, or text that is no valid Unicode.

    >>> canonical({"b": 1, "a": None}) == canonical({"a": None, "b": 1})
    True
    """
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def alike(made: bytes) -> bytes:
    """The same bytes for all spellings of a JSON text's numbers: 0.0, -0.0 and 0 are one.

    >>> alike(b'{"temperature":-0.0,"top_p":0.5}')
    b'{"temperature":0,"top_p":0.5}'
    """
    if b".0" not in made or not _WHOLE_FRACTION.search(made):
        return made
    try:
        return orjson.dumps(_whole(orjson.loads(made)))
    except orjson.JSONDecodeError:  # half a surrogate pair, which is refused where the body is sent
        return made


#: In a text it costs a look.
_WHOLE_FRACTION = re.compile(rb"[0-9]\.0(?![0-9])")


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT else value


#: Whole numbers below it are each a float of their own.
_EXACT = 2.0**53


def _has_no_number(value: Any) -> bool:
    """Whether there is a NaN or an infinity in it, for which orjson writes `null`."""
    if isinstance(value, Mapping):
        return any(map(_has_no_number, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_has_no_number, value))
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return _has_no_number(value.tolist())
    return isinstance(value, float) and not math.isfinite(value)


def _list_of_array(value: Any) -> Any:
    """Arrays of objects are what parquet files give for lists; orjson itself takes those of numbers."""
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"Type is not JSON serializable: {type(value).__name__}")


def loads(text: bytes | str) -> Any:
    """The value of a JSON text; whole numbers are exact, however long.

    Raises:
        ValueError: it is none.
        JSONTooLargeError: it holds too much, or is nested too deeply.

    >>> loads('{"id": 89490200001234567891}')
    {'id': 89490200001234567891}
    """
    raw = text if isinstance(text, bytes) else text.encode(errors="replace")
    if _LONG in raw.translate(_DIGITS) and _LONG_NUMBER.search(raw):
        return _within_bounds(text, json.loads)
    return _within_bounds(text, _loads_fast)


#: Of whole numbers with fewer digits than these, each fits into 64 bits.
_LONG = b"0" * 19
_LONG_NUMBER = re.compile(rb"(?<![0-9.])[0-9]{19}")
_DIGITS = bytes(ord("0") if chr(byte).isdigit() and byte < 128 else byte | 128 for byte in range(256))


#: The same for what `dumps_strictly` has made, which needs no look at its bounds.
read_back = orjson.loads


def loads_quickly(text: bytes | str) -> Any:
    """The same where a whole number beyond 64 bits may become a float: an API's response, which has none.

    Raises:
        ValueError: it is none.
        JSONTooLargeError: it holds too much, or is nested too deeply.
    """
    return _within_bounds(text, _loads_fast)


def _loads_fast(text: bytes | str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:  # Python's own tools write NaN and numbers past 64 bits
        return json.loads(text)


def _within_bounds(text: bytes | str, read: Callable[[bytes | str], Any]) -> Any:
    raw = text if isinstance(text, bytes) else text.encode(errors="replace")
    containers = raw.count(b"[") + raw.count(b"{")  # at the most
    # Most texts are too short to hold so much.
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
    r"""The JSON of another program as UTF-8, mostly the same bytes, and its value.

    It may have a byte order mark or another encoding, and hold half letters or halves of surrogate pairs, which become
    U+FFFD. `content_type`, as a header has it, says what it is written in where that is no Unicode.

    Raises:
        ValueError: it is none.
        JSONTooLargeError: it holds too much, or is nested too deeply.

    >>> loads_from_anywhere(b'\xef\xbb\xbf{"a": 1}')
    (b'{"a": 1}', {'a': 1})
    >>> loads_from_anywhere(b'{"a": "\\ud83d"}')[1] == {"a": "\ufffd"}
    True
    """
    try:
        return content, _within_bounds(content, orjson.loads)
    except orjson.JSONDecodeError:
        text = _ESCAPES.sub(lambda found: "\\ufffd" if found[1] else found[0], _decoded(content, content_type or ""))
        return text.encode(), _within_bounds(text, json.loads)


#: Each escape of a JSON text, a pair of surrogates being one; the group is half of such a pair.
_ESCAPES = re.compile(r"\\(?:u[dD][89abAB]\w\w\\u[dD][c-fC-F]\w\w|(u[dD][89a-fA-F]\w\w)|.)", re.DOTALL)


def _decoded(content: bytes, content_type: str) -> str:
    """JSON is Unicode, whatever it is said to be; another encoding is believed where it is not."""
    charset = content_type.lower().partition("charset=")[2].strip("\"' ;")
    for encoding in (json.detect_encoding(content), charset or "utf-8"):
        with suppress(LookupError, ValueError):
            return content.decode(encoding)
    return content.decode("utf-8", "replace")


def loads_as_written(text: str, fraction: Callable[[str], Any] = orjson.Fragment) -> Any:
    """The value with its numbers as they are written, which only `dumps_as_written` can read."""
    return json.loads(text, parse_int=orjson.Fragment, parse_float=fraction, parse_constant=orjson.Fragment)


def dumps_as_written(value: Any) -> str:
    """The text of what `loads_as_written` gave."""
    return orjson.dumps(value).decode()


def long_fractions_as_text(text: str) -> str:
    """The same JSON with each fraction that a float would round as a string, which a Decimal takes whole.

    >>> long_fractions_as_text('{"price": 0.5, "exact": 0.12345678901234567890}')
    '{"price":0.5,"exact":"0.12345678901234567890"}'
    """

    def fraction(number: str) -> Any:
        return orjson.Fragment(number) if Decimal(number) == Decimal(repr(float(number))) else number

    return dumps_as_written(loads_as_written(text, fraction))


def plain(value: Any) -> Any:
    """The nearest thing to a value that JSON knows."""
    kind = type(value).__name__
    if kind in ("NAType", "NaTType"):  # pandas' own missing values
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
    if hasattr(value, "tolist"):  # numpy's arrays of types that orjson leaves out, and scalars
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
