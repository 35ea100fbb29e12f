"""From labels to the JSON schema that the API is held to, and from its answer back to a label."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence, Set
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
        InvalidInputError: there are fewer than two, two that look the same, or one that is missing (None, NaN).

    >>> check_labels([1, 2])
    {'1': 1, '2': 2}
    """
    if isinstance(labels, (str, bytes)) or not hasattr(labels, "__iter__"):
        raise InvalidInputError(f"labels must be a list such as ['positive', 'negative'], not {labels!r}.")
    if isinstance(labels, Set):  # a set of texts has another order in every process, and so would ask anew in each
        labels = sorted(labels, key=_text_of)
    by_text: dict[str, Any] = {}
    for label in labels:
        text = _text_of(label)
        if label is None or type(label).__name__ in ("NAType", "NaTType") or label != label:
            raise InvalidInputError(f"A label must not be missing, as {label!r} is; call it 'none' or 'unknown'.")
        if not text.strip():
            raise InvalidInputError("A label must not be empty.")
        if text in by_text:
            raise InvalidInputError(f"The label {text!r} stands twice in labels.")
        by_text[text] = label
    if len(by_text) < 2:
        raise InvalidInputError(f"labels must hold at least two, not {list(by_text)}.")
    return by_text


def _text_of(label: Any) -> str:
    return str(label.value if isinstance(label, enum.Enum) else label)


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
