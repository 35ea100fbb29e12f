"""Malformed lines of a batch's output, as servers and gateways have been seen to write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

Line = dict[str, Any]


def _error_first(line: Line) -> bytes:
    error = {"code": "server_error", "message": "The server had an error while processing your request."}
    return orjson.dumps({**line, "response": None, "error": error}) + b"\n" + orjson.dumps(line)


def _with_response(line: Line, **changes: Any) -> bytes:
    response = {name: value for name, value in {**line["response"], **changes}.items() if value is not None}
    return orjson.dumps({**line, "response": response})


_MALFORM: dict[str, Callable[[Line], bytes]] = {
    "blank": lambda line: orjson.dumps(line) + b"\n",
    "torn": lambda line: orjson.dumps(line)[:40],
    "array": lambda line: orjson.dumps([line]),
    "custom_id_list": lambda line: orjson.dumps({**line, "custom_id": [line["custom_id"]]}),
    "custom_id_null": lambda line: orjson.dumps({**line, "custom_id": None}),
    "status_ok": lambda line: _with_response(line, status_code="ok"),
    "status_missing": lambda line: _with_response(line, status_code=None),
    "body_text": lambda line: _with_response(line, body=orjson.dumps(line["response"]["body"]).decode()),
    "error_first": _error_first,
}
ODD_LINES = tuple(_MALFORM)


def odd(kind: str, line: bytes) -> bytes:
    """The line, malformed in the way that `kind` names.

    >>> odd("array", b'{"custom_id":"a"}')
    b'[{"custom_id":"a"}]'
    """
    return _MALFORM[kind](orjson.loads(line))
