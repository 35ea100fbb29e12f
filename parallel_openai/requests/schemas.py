"""From labels to the JSON schema that the API is held to, and from its answer back to a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from parallel_openai.errors import InvalidInputError
from parallel_openai.jsonl import loads


def label_format(texts: Sequence[str]) -> dict[str, Any]:
    """The chat API's `response_format` for exactly one of some labels.

    >>> label_format(["spam", "ham"])["json_schema"]["schema"]["properties"]
    {'label': {'type': 'string', 'enum': ['spam', 'ham']}}
    """
    schema = {
        "type": "object",
        "properties": {"label": {"type": "string", "enum": list(texts)}},
        "required": ["label"],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "label", "strict": True, "schema": schema}}


def check_labels(labels: Any) -> dict[str, Any]:
    """The labels by the text that stands for them on the wire.

    Raises:
        InvalidInputError: there are fewer than two, or two that look the same.

    >>> check_labels([1, 2])
    {'1': 1, '2': 2}
    """
    if isinstance(labels, (str, bytes)) or not hasattr(labels, "__iter__"):
        raise InvalidInputError(f"labels must be a list of labels, not {labels!r}.")
    by_text: dict[str, Any] = {}
    for label in labels:
        text = label if isinstance(label, str) else str(getattr(label, "value", label))
        if not text.strip():
            raise InvalidInputError("A label must not be empty.")
        if text in by_text:
            raise InvalidInputError(f"The label {text!r} stands twice in labels.")
        by_text[text] = label
    if len(by_text) < 2:
        raise InvalidInputError(f"labels must hold at least two, not {list(by_text)}.")
    return by_text


def read_label(text: str, by_text: Mapping[str, Any]) -> Any:
    """The label in an answer.

    Raises:
        ValueError: the answer is not `{"label": ...}` with one of the labels.

    >>> read_label('{"label": "spam"}', {"spam": "spam", "ham": "ham"})
    'spam'
    """
    try:
        answer = loads(text)
    except ValueError:
        raise ValueError(f'The answer is not JSON like {{"label": ...}}: {text[:200]!r}') from None
    label = answer.get("label") if isinstance(answer, dict) else None
    if not isinstance(label, str) or label not in by_text:
        raise ValueError(f"The answer is none of {', '.join(by_text)}: {text[:200]!r}")
    return by_text[label]
