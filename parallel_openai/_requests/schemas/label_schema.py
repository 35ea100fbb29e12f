"""Label fields: their checks, JSON schema and instruction, and the reading of answers."""

from __future__ import annotations

import enum
import math
import typing
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Literal

from parallel_openai._json import dumps, loads
from parallel_openai._log import log
from parallel_openai._requests.reasoning import part_thoughts
from parallel_openai._requests.schemas.label_text import read_label, text_of
from parallel_openai._requests.schemas.strict_limits import too_large
from parallel_openai.errors import InvalidInputError

#: The most scores: 0 to 100.
LONGEST_SCALE = 101
#: The field of the reason, which precedes the labels so that they follow from it.
REASON = "reason"
#: The columns of a single label and of its reason.
LABEL, REASON_COLUMN = "label", "label_reason"


@dataclass(frozen=True)
class LabelField:
    """A field of the answer."""

    name: str  # its name in the answer's JSON
    # `one` of the choices, `several` of them, a `score` of a scale, or free `text`.
    kind: Literal["one", "several", "score", "text"]
    choices: Mapping[str, Any] = field(default_factory=dict)  # the labels in order, keyed by their JSON in the answer
    descriptions: Mapping[str, str] = field(default_factory=dict)  # descriptions of labels, with the same keys
    about: str | None = None  # the field's description, for the system message

    @property
    def texts(self) -> list[str]:
        return [str(loads(choice)) if choice[0] == '"' else choice for choice in self.choices]

    def schema(self) -> dict[str, Any]:
        if self.kind == "text":
            return {"type": "string"}
        values = [loads(choice) for choice in self.choices]
        kind = "boolean" if isinstance(values[0], bool) else "integer" if isinstance(values[0], int) else "string"
        one = {"type": kind} if kind == "boolean" else {"type": kind, "enum": values}
        return {"type": "array", "items": one} if self.kind == "several" else one

    def read(self, value: Any) -> Any:
        """The cell's value for a value of the answer's JSON.

        Raises:
            ValueError: it is none of the choices.
        """
        if self.kind == "text":
            if not isinstance(value, str):
                raise ValueError("is no text")
            return value
        if self.kind != "several":
            return self.choices[self._choice(value)]
        if not isinstance(value, list):
            raise ValueError("is no list")
        chosen = {self._choice(each) for each in value}
        return [label for choice, label in self.choices.items() if choice in chosen]

    def _choice(self, value: Any) -> str:
        """The key of the choice for a value of the answer's JSON; some servers write 7.0 for 7, and 1 for "1"."""
        choice = dumps(value).decode()
        if choice in self.choices:
            return choice
        for text, key in zip(self.texts, self.choices, strict=True):
            if _has_spelling(text, value):
                return key
        raise ValueError(f"is none of {', '.join(self.texts)}")

    def choice_in(self, answer: Mapping[str, Any]) -> tuple[list[str], int]:
        """The choices' JSON in the style of this answer (quoted or bare), and the index of the chosen one."""
        chosen = list(self.choices).index(self._choice(answer[self.name]))
        bare = not isinstance(answer[self.name], str)
        return (self.texts if bare else [dumps(text).decode() for text in self.texts]), chosen

    def write(self, label: Any) -> str:
        """The JSON for a label.

        Raises:
            ValueError: it is none of the choices.
        """
        if self.kind == "text":
            return dumps(str(label)).decode()
        if self.kind == "several":
            chosen = [self._written(each) for each in label]
            return f"[{', '.join(choice for choice in self.choices if choice in chosen)}]"
        return self._written(label)

    def _written(self, label: Any) -> str:
        return list(self.choices)[self.texts.index(read_label(label, self.texts))]

    def example(self) -> str:
        """An example value's JSON. The last choice, with which a small model did best."""
        last = list(self.choices)[-1:]
        return {"text": '"..."', "several": f"[{''.join(last)}]"}.get(self.kind) or last[0]


def _has_spelling(text: str, value: Any) -> bool:
    """Whether a number or bool in an answer's JSON means the label with this text."""
    if isinstance(value, bool):
        return str(value).lower() == text.lower()
    try:
        return isinstance(value, (int, float)) and float(text) == value
    except ValueError:
        return False


def check_labels(labels: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Check labels; return them keyed by their JSON, and the descriptions with the same keys.

    >>> check_labels([1, 2])
    ({'"1"': 1, '"2"': 2}, {})
    >>> check_labels({"spam": "sells something", "ham": None})
    ({'"spam"': 'spam', '"ham"': 'ham'}, {'"spam"': 'sells something'})
    """
    if typing.get_origin(labels) is Literal:
        labels = typing.get_args(labels)
    is_annotation = typing.get_origin(labels) is not None  # some annotations and classes have __iter__
    is_class = isinstance(labels, type) and not issubclass(labels, enum.Enum)
    if isinstance(labels, (str, bytes)) or is_annotation or is_class or not hasattr(labels, "__iter__"):
        raise InvalidInputError(f"labels must be a list such as ['positive', 'negative'], not {labels!r}.")
    labels = _in_order(labels)
    choices: dict[str, Any] = {}
    for label in labels:
        text = text_of(label)
        if hasattr(label, "__iter__") and not isinstance(label, (str, bytes)):
            raise InvalidInputError(f"A label must be a single value such as 'a, b', not {label!r:.200}.")
        if _is_missing(label.value if isinstance(label, enum.Enum) else label):
            raise InvalidInputError(
                f"A label must not be missing or infinite, as {label!r} is; call it 'none' or 'unknown'."
            )
        if not text.strip():
            raise InvalidInputError("A label must not be empty.")
        choice = dumps(text).decode()
        if choice in choices:
            raise InvalidInputError(f"The label {text!r} occurs twice in labels.")
        if label in choices.values():
            raise InvalidInputError(f"The label {text} equals another one, so that they cannot be told apart.")
        choices[choice] = label
    if len(choices) < 2:
        raise InvalidInputError(f"labels must hold at least two, not {[text_of(each) for each in choices.values()]}.")
    return choices, _descriptions(labels, choices)


def _is_missing(label: Any) -> bool:
    is_missing = label is None or type(label).__name__ in ("NAType", "NaTType") or label != label
    return is_missing or label in (math.inf, -math.inf)


def _in_order(labels: Any) -> Any:
    """Sort labels without a meaningful order (a set, the distinct values of a column); a list keeps its order.

    Otherwise a different order would change the requests, and known answers would not be reused.
    """
    dtype = getattr(labels, "dtype", None)
    if dtype is None and not isinstance(labels, Set):
        return labels
    if getattr(dtype, "ordered", False):
        given = list(labels)
        return [each for each in dtype.categories if each in given]  # type: ignore[union-attr]  # an ordered dtype has
    try:
        return sorted(labels)
    except (TypeError, ValueError):  # Enum members, missing values, and labels that are refused later
        return sorted(labels, key=text_of)


def _descriptions(labels: Any, choices: Mapping[str, Any]) -> dict[str, str]:
    if not isinstance(labels, Mapping):
        return {}
    found: dict[str, str] = {}
    for choice, label in choices.items():
        about = labels[label]
        if about is None or about == "":
            continue
        if not isinstance(about, str):
            raise InvalidInputError(
                f"labels describes {text_of(label)!r} as {about!r}; a description must be a string. Without "
                "descriptions pass a list of labels."
            )
        found[choice] = about.strip()
    return found


def check_scale(scale: Any, labels: Any = None) -> LabelField:
    """The field of a scale, with `labels` describing some of its scores.

    >>> check_scale((1, 5), {1: "hated it", 5: "loved it"}).descriptions
    {'1': 'hated it', '5': 'loved it'}
    """
    whole = isinstance(scale, Sequence) and len(scale) == 2 and all(type(each) is int for each in scale)
    if not whole or not 1 <= scale[1] - scale[0] < LONGEST_SCALE:
        raise InvalidInputError(
            f"scale must be the lowest and the highest of at most {LONGEST_SCALE} whole numbers, such as (1, 5), not "
            f"{scale!r}."
        )
    choices = {str(score): score for score in range(scale[0], scale[1] + 1)}
    if labels is None:
        return LabelField("score", "score", choices)
    if not isinstance(labels, Mapping) or not set(labels) <= set(choices.values()):
        raise InvalidInputError(
            f"With scale={tuple(scale)}, labels may only describe scores, as in {{{scale[0]}: 'bad', {scale[1]}: "
            f"'good'}}, and is {labels!r}."
        )
    by_choice = {choice: score for choice, score in choices.items() if score in labels}
    return LabelField("score", "score", choices, _descriptions(labels, by_choice))


def label_format(fields: Sequence[LabelField], *, explain: bool = False) -> dict[str, Any]:
    """The chat API's `response_format` for an answer with the fields in order.

    With more labels than strict mode takes it is not strict; an answer with another label still fails its row.

    >>> choices, _ = check_labels(["spam", "ham"])
    >>> label_format([LabelField("label", "one", choices)])["json_schema"]["schema"]["properties"]
    {'label': {'type': 'string', 'enum': ['spam', 'ham']}}
    """
    properties: dict[str, Any] = {REASON: {"type": "string"}} if explain else {}
    properties |= {each.name: each.schema() for each in fields}
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    if excess := too_large(schema):
        log.warning(
            "The labels are asked for without strict mode, which does not take %s. Answers are checked here.", excess
        )
    return {"type": "json_schema", "json_schema": {"name": "label", "strict": excess is None, "schema": schema}}


def read_answer(text: str, fields: Sequence[LabelField]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parse an answer; return its JSON and the fields' values.

    Raises:
        ValueError: the answer is not JSON, or a field's value is invalid.

    >>> choices, _ = check_labels(["spam", "ham"])
    >>> read_answer('{"label": "spam"}', [LabelField("label", "one", choices)])
    ({'label': 'spam'}, {'label': 'spam'})
    """
    _, text = part_thoughts(text)
    try:
        answer = loads(text)
    except ValueError:
        shape = ", ".join(f'"{each.name}": ...' for each in fields)
        raise ValueError(f"The answer is not JSON like {{{shape}}}: {text[:200]!r}") from None
    if not isinstance(answer, dict):
        raise ValueError(f"The answer is no JSON object: {text[:200]!r}")
    values = {}
    for each in fields:
        try:
            values[each.name] = each.read(answer.get(each.name))
        except ValueError as error:
            what = f"{each.name} in the answer" if len(fields) > 1 else "The answer"
            raise ValueError(f"{what} {error}: {text[:200]!r}") from None
    return answer, values


def write_answer(fields: Sequence[LabelField], values: Mapping[str, Any], reason: str | None = None) -> str:
    """The answer's JSON for these values.

    Raises:
        ValueError: a value is none of its field's choices.

    >>> choices, _ = check_labels(["spam", "ham"])
    >>> write_answer([LabelField("label", "one", choices)], {"label": "ham"}, reason="It greets.")
    '{"reason": "It greets.", "label": "ham"}'
    """
    parts = [(REASON, dumps(reason).decode())] if reason is not None else []
    parts += [(each.name, each.write(values[each.name])) for each in fields]
    return _object(parts)


def _object(parts: Sequence[tuple[str, str]]) -> str:
    return "{" + ", ".join(f"{dumps(name).decode()}: {value}" for name, value in parts) + "}"


def label_instruction(fields: Sequence[LabelField], *, explain: bool = False) -> str:
    """The system message that names the labels.

    The wording was chosen by tests with a small model, where an example of the JSON helped most.

    >>> choices, _ = check_labels(["spam", "ham"])
    >>> print(label_instruction([LabelField("label", "one", choices)]))
    Choose the label that fits the text best: spam, ham. Answer with JSON, such as {"label": "ham"}.
    """
    task = _task(fields[0]) if _is_single(fields) else "Label the text.\n" + "\n".join(map(_line, fields)) + "\n"
    why = "Begin with the reason, in one short sentence. " if explain else ""
    example = [(REASON, '"..."')] if explain else []
    example += [(each.name, each.example()) for each in fields]
    return f"{task}{why}Answer with JSON, such as {_object(example)}."


def _is_single(fields: Sequence[LabelField]) -> bool:
    return len(fields) == 1 and fields[0].about is None and fields[0].kind != "text"


def _task(field: LabelField) -> str:
    if field.kind == "score":
        task = f"Give the score that fits the text best, from {field.texts[0]} to {field.texts[-1]}"
    elif field.kind == "several":
        task = "Choose all labels that fit the text, or none if none fits"
    else:
        task = "Choose the label that fits the text best"
    if field.descriptions:
        return f"{task}.\n{_described(field)}\n"
    return f"{task}. " if field.kind == "score" else f"{task}: {', '.join(field.texts)}. "


def _described(field: LabelField, indent: str = "") -> str:
    pairs = zip(field.texts, field.choices, strict=True)
    described = [(text, field.descriptions.get(choice)) for text, choice in pairs]
    if field.kind == "score":  # others follow from the range
        described = [pair for pair in described if pair[1]]
    return "\n".join(f"{indent}- {text}: {about}" if about else f"{indent}- {text}" for text, about in described)


def _line(field: LabelField) -> str:
    """The line for one of several fields in the system message."""
    what = {
        "one": f"one of {', '.join(field.texts)}",
        "several": f"a list of any of {', '.join(field.texts)}",
        "score": f"a score from {field.texts[0]} to {field.texts[-1]}" if field.kind == "score" else "",
        "text": "a short text",
    }[field.kind]
    return f"- {field.name}: {what}" + (f" ({field.about})" if field.about else "")
