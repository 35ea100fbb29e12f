"""Assembles an answer from server-sent events, since some servers stream even if they are not asked to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from parallel_openai._json import loads
from parallel_openai._requests.endpoints import PLACES

_FIELD = re.compile(r"\s*(?:data|event|id|retry)?:")
#: The last events of the Responses API, each of which holds the whole response.
_LAST = frozenset({"response.completed", "response.incomplete", "response.failed"})
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
    done = False
    for data in _data_of(text):
        if done := data.strip() == "[DONE]":
            break
        if not data.strip():
            continue
        try:
            event = loads(data)
        except ValueError:
            return None
        if not isinstance(event, dict):
            return None
        if event.get("type") == "error":
            return {**_bill(whole), "error": event.get("error") or event}
        if event.get("error") or str(event.get("type")) in _LAST:
            response = event.get("response")
            return response if isinstance(response, dict) else {**_bill(whole), **event}
        _add(whole, event, joins=False)
    if not isinstance(whole.get("choices"), list):
        return whole or None
    choices = whole["choices"] = [choice for choice in whole["choices"] if isinstance(choice, dict)]
    if not done and not (choices and all(choice.get("finish_reason") for choice in choices)):
        bill = _bill(whole)
        return {**bill, "error": {"message": "The answer's events broke off.", "code": "unfinished"}} if bill else None
    for choice in choices:
        if isinstance(choice.get("delta"), dict):
            choice["message"] = {"role": "assistant", **choice.pop("delta")}
    if "object" in whole:
        whole["object"] = str(whole["object"]).removesuffix(".chunk")
    return whole


def _bill(whole: dict[str, Any]) -> dict[str, Any]:
    """What the events before an error or the end have told of the cost."""
    return (
        {name: whole[name] for name in ("model", "service_tier", *PLACES) if name in whole}
        if whole.keys() & set(PLACES)
        else {}
    )


def _data_of(text: str) -> Iterator[str]:
    """The data of each event. Not split by `splitlines`, since JSON may hold other line breaks, such as U+2028."""
    for event in re.split(r"(?:\r\n|\n|\r){2,}", text):
        lines = [line[5:] for line in re.split(r"\r\n|\n|\r", event) if line.startswith("data:")]
        if lines:
            yield "\n".join(lines)


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
