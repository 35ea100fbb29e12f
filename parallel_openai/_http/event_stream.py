"""Assembles an answer from server-sent events, since some servers stream even if they are not asked to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import StringIO
from itertools import chain
from typing import Any

from parallel_openai._http.error_body import error_of, is_overload, status_of
from parallel_openai._json import loads
from parallel_openai._requests.endpoints import bill_of, usage_of

_FIELD = re.compile(r"\s*(?:data|event|id|retry)?:")
#: The last events of the Responses API, each of which holds the whole response.
_LAST = frozenset({"response.completed", "response.incomplete", "response.failed"})
#: How a response has ended whose last event some gateways give another name.
_FINAL = frozenset({"completed", "incomplete", "failed", "cancelled"})
#: How the types of that API's events begin.
_OF_RESPONSES = "response."
#: Strings in a message that each piece repeats whole, so that they are not joined.
_WHOLE = frozenset({"id", "index", "type", "role", "name"})


def assembled(content: bytes) -> dict[str, Any] | None:
    r"""The response that the events add up to, or None if the content is not events or breaks off.

    >>> said = b'data: {"choices":[{"delta":{"content":"%b"},"finish_reason":%b}]}\n\n'
    >>> assembled(said % (b"He", b"null") + said % (b"llo", b'"stop"') + b"data: [DONE]\n\n")
    {'choices': [{'finish_reason': 'stop', 'message': {'role': 'assistant', 'content': 'Hello'}}]}
    """
    text = content.decode("utf-8-sig", "replace")
    if not _FIELD.match(text):
        return None
    whole: dict[str, Any] = {}
    items: dict[int, Any] = {}  # of a Responses API answer, by their places
    done = False
    for name, data in _events(text):
        if done := data.strip() == "[DONE]":
            break
        try:
            event = loads(data)
        except ValueError:
            if data.lstrip()[:1] in ("{", "["):
                return None
            event = None  # words, as of a ping
        if error := _error(name, event, data):
            return {**_bill(whole), "error": error}
        if not isinstance(event, dict):
            continue
        if (response := _last(event, items)) is not None:
            return response or {**_bill(whole), **event}
        _add(whole, event, joins=False)
    if not isinstance(whole.get("choices"), list):
        return _broken_off(whole) if str(whole.get("type")).startswith(_OF_RESPONSES) else whole or None
    choices = whole["choices"] = [choice for choice in whole["choices"] if isinstance(choice, dict)]
    ended = [bool(choice.get("finish_reason")) for choice in choices]
    if not (all(ended) if any(ended) else done):
        return _broken_off(whole)
    for choice in choices:
        if isinstance(choice.get("delta"), dict):
            choice["message"] = {"role": "assistant", **choice.pop("delta")}
    if "object" in whole:
        whole["object"] = str(whole["object"]).removesuffix(".chunk")
    return whole


def _error(name: str, event: Any, data: str) -> Any:
    """The error that an event tells of, if any, by its name, its type or its status."""
    if not isinstance(event, dict):
        return {"message": data.strip()} if name == "error" else None
    if name == "error" or event.get("type") == "error":
        return event.get("error") or event
    error = None if "choices" in event or "error" in event else error_of(event, 400)
    return error if error and (status_of(error, 200) != 200 or is_overload(error)) else None


def _last(event: dict[str, Any], items: dict[int, Any]) -> dict[str, Any] | None:
    """The whole response of the Responses API if the event holds it, with the items of earlier events if it has none.
    Empty if an event ends the stream without a response; None if it does not end it.
    """
    kind, response = str(event.get("type")), event.get("response")
    if kind == "response.output_item.done" and type(event.get("output_index")) is int:
        items[event["output_index"]] = event.get("item")
    is_last = kind in _LAST or (isinstance(response, dict) and str(response.get("status")) in _FINAL)
    if not is_last and not event.get("error"):
        return None
    if not isinstance(response, dict):
        return {}
    return response if response.get("output") else {**response, "output": [items[place] for place in sorted(items)]}


def _broken_off(whole: dict[str, Any]) -> dict[str, Any] | None:
    """An error with what has been told of the cost, or None if nothing has."""
    bill = _bill(whole)
    return {**bill, "error": {"message": "The answer's events broke off.", "code": "unfinished"}} if bill else None


def _bill(whole: dict[str, Any]) -> dict[str, Any]:
    """What the events before an error or the end have told of the cost."""
    return bill_of(whole) if usage_of(whole) else {}


def _events(text: str) -> Iterator[tuple[str, str]]:
    """The name and data of each event. JSON may hold other line breaks (U+2028) than theirs."""
    name, lines = "", list[str]()
    for line in chain(StringIO(text, newline=None), "\n"):
        field, _, value = line.rstrip("\n").partition(":")
        if field == "data":
            lines.append(value)
        elif field == "event":
            name = value.strip()
        elif line == "\n":
            if lines:
                yield name, "\n".join(lines)
            name, lines = "", []


def _add(whole: dict[str, Any], piece: dict[str, Any], *, joins: bool = False) -> None:
    """Merge a piece into the whole. With `joins`, strings are concatenated; otherwise the later value wins."""
    for name, value in piece.items():
        before = whole.get(name)
        if isinstance(value, dict):
            whole[name] = before if isinstance(before, dict) else {}
            _add(whole[name], value, joins=joins or name == "delta")
        elif isinstance(value, list):
            whole[name] = before if isinstance(before, list) else []
            for item in value:
                _add_item(whole[name], item, index=0 if name == "choices" else None, joins=joins)
        elif isinstance(before, str) and isinstance(value, str) and (joins or name == "text"):
            whole[name] = before or value if name in _WHOLE else before + value
        elif before is None or value is not None:
            whole[name] = value


def _add_item(items: list[Any], item: Any, *, index: int | None, joins: bool) -> None:
    """Merge an item with the one of the same index, or append it if it has no index, as with logprobs."""
    if not isinstance(item, dict):
        items.append(item)
        return
    index = item.get("index", index)
    same = [each for each in items if isinstance(each, dict) and index is not None and each.get("index", 0) == index]
    if not same:
        items.append({})
    _add((same or items[-1:])[0], item, joins=joins)
