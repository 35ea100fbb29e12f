"""Prompt templates, and the conversion and checks of a row's prompt."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parallel_openai.errors import TemplateError

#: The most characters that a format spec may produce: `{n:.99999999f}` would make a prompt of 100 MB.
MAX_FORMATTED = 100_000
#: Parameters by which an answer comes in pieces, or stays at the server.
NOT_WHOLE = ("stream", "background")
#: Width and precision in a standard format spec.
_WIDTH = re.compile(r"(?s)(?:.?[<>=^])?[+\- ]?z?#?0?(\d+)?[_,]?(?:\.(\d+))?[_,]?[a-zA-Z%]?")


@dataclass(frozen=True, slots=True)
class Template:
    """A `str.format` template whose fields are column names, without attributes and indexing."""

    # Tuples of literal text and the following field's index in `columns`, conversion and format spec.
    pieces: tuple[tuple[str, int | None, str | None, str], ...]
    columns: tuple[str, ...]  # the columns it uses, each once

    def fill(self, values: Sequence[Any]) -> str:
        """The text for one row; `values` are in the order of `columns`.

        Raises:
            ValueError, TypeError: a format spec does not suit its value.

        >>> parse_template("{{{name}}} is {age:.0f}", ["name", "age"]).fill(["Ada", 36.4])
        '{Ada} is 36'
        """
        parts: list[str] = []
        for literal, column, conversion, spec in self.pieces:
            parts.append(literal)
            if column is not None:
                value = values[column]
                is_plain = type(value) is str and conversion is None and not spec
                parts.append(value if is_plain else _show(value, conversion, spec))
        return "".join(parts)


def _show(value: Any, conversion: str | None, spec: str) -> str:
    if conversion == "r":
        value = repr(value)
    elif conversion == "s":
        value = str(value)
    elif conversion == "a":
        value = ascii(value)
    return value if not spec and type(value) is str else format(value, spec)


def parse_template(text: str, names: Sequence[str]) -> Template:
    """Parse a template, whose fields must be columns; if several match, the longest name wins.

    Names that contain template syntax can be put in brackets: `{[og:title]}`, `{[a{b}]}`.

    >>> parse_template("Summarise: {text}", ["text", "id"]).columns
    ('text',)
    >>> parse_template("Summarise: {txt}", ["text", "id"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    parallel_openai.errors.TemplateError: The template uses {txt}, but the columns are: text, id. (For ...)
    >>> parse_template("{score:2} {[og:title]}", ["score", "score:2", "og:title"]).columns
    ('score:2', 'og:title')
    """
    pieces: list[tuple[str, int | None, str | None, str]] = []
    columns: list[str] = []
    end = 0
    for match in _marks(names).finditer(text):
        literal, end = text[end : match.start()], match.end()
        if "{" in literal or "}" in literal:
            raise TemplateError(_fault(literal, text, match.start(), names))
        if match["brace"]:
            pieces.append((literal + match["brace"][0], None, None, ""))
            continue
        field = match["quoted"] if match["name"] is None else match["name"]
        _check_spec(field, match["spec"] or "")
        if field not in columns:
            columns.append(field)
        pieces.append((literal, columns.index(field), match["conversion"], match["spec"] or ""))
    if "{" in text[end:] or "}" in text[end:]:
        raise TemplateError(_fault(text[end:], text, len(text), names))
    return Template((*pieces, (text[end:], None, None, "")), tuple(columns))


def _check_spec(field: str, spec: str) -> None:
    sizes = _WIDTH.fullmatch(spec)
    if sizes is not None and any(int(size[:9]) > MAX_FORMATTED for size in sizes.groups("0")):
        raise TemplateError(
            f"The format spec in {{{field}:{spec[:40]}}} makes text longer than {MAX_FORMATTED:,} characters of one "
            "value; use a smaller width or precision."
        )


def _marks(names: Sequence[str]) -> re.Pattern[str]:
    """A pattern for doubled braces and fields, with longer column names first."""
    any_name = "|".join(map(re.escape, sorted(names, key=len, reverse=True))) or "(?!)"
    column = rf"(?:\[(?P<quoted>{any_name})\]|(?P<name>{any_name}))"
    field = rf"\{{{column}(?:!(?P<conversion>[rsa]))?(?::(?P<spec>[^{{}}]*))?\}}"
    return re.compile(rf"(?P<brace>\{{\{{|\}}\}})|{field}")


def _fault(literal: str, text: str, end: int, names: Sequence[str]) -> str:
    """Describe the error at the first brace of a literal that ends at `end` of the text."""
    start = end - len(literal) + min(position for position in map(literal.find, "{}") if position >= 0)
    try:
        _, field, spec, conversion = next(iter(string.Formatter().parse(text[start:])))
    except ValueError as error:
        return (
            f"The template cannot be read: {error}. A brace that is meant as such is written twice: {{{{ or }}}}. "
            f"The template: {text[:200]!r}"
        )
    field = field or ""
    if field not in names:
        return _unknown_field(field, names)
    if conversion not in (None, "r", "s", "a"):
        return f"The template uses {{{field}!{conversion}}}; a conversion is one of !r, !s, !a."
    return f"The format spec {spec!r} of {{{field}}} must not hold a field of its own."


def _unknown_field(field: str, names: Sequence[str]) -> str:
    have = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "") if names else "none"
    if not field:
        return f"The template has an empty field {{}}; name a column in it, as in {{text}}. The columns are: {have}."
    if any(mark in field for mark in ".[") and field.replace("[", ".").split(".")[0] in names:
        return (
            f"The template uses {{{field}}}; only a column's value can be filled in, no attribute or item of it. "
            "For more, make a column of it or pass a function of a row."
        )
    return f"The template uses {{{field}}}, but the columns are: {have}. (For a brace itself write {{{{ or }}}}.)"


class BadPromptError(ValueError):
    """No request can be made of this row; it fails, and the others continue."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code  # the row's error code


def to_messages(prompt: Any, system: Any) -> list[Any]:
    """Convert a row's prompt (a string, a message, or a list or array of messages) to chat messages.

    >>> to_messages("Hi.", "Be brief.")
    [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'Hi.'}]
    """
    if isinstance(prompt, str):
        user = {"role": "user", "content": check_text(prompt)}
        if system is None:
            return [user]
        return [{"role": "system", "content": system if type(system) is str else check_system(system, str, list)}, user]
    if hasattr(prompt, "tolist"):  # NumPy arrays, which parquet files hold for lists
        return to_messages(prompt.tolist(), system)
    messages: list[Any]
    if isinstance(prompt, Mapping):
        messages = [prompt]
    elif isinstance(prompt, Sequence) and not isinstance(prompt, (bytes, bytearray)):
        messages = list(prompt)
        if not messages or not all(isinstance(message, Mapping) and "role" in message for message in messages):
            raise BadPromptError(
                "invalid_prompt",
                "A prompt that is a list must hold chat messages: [{'role': 'user', 'content': ...}, ...].",
            )
    else:
        raise BadPromptError(
            "invalid_prompt",
            f"The prompt is a {kind_of(prompt)}; it must be a string, a list of chat messages or a request body.",
        )
    return messages if system is None else [{"role": "system", "content": check_system(system, str, list)}, *messages]


def check_system(system: Any, *kinds: type) -> Any:
    """Return the system message if it is of one of these types."""
    if not isinstance(system, kinds):
        raise BadPromptError("invalid_prompt", f"The system message is a {kind_of(system)}; it must be a string.")
    return system


def check_text(prompt: str) -> str:
    """Return the text if it is not blank."""
    if not prompt.strip():
        raise BadPromptError("empty_prompt", "The prompt is empty.")
    return prompt


def check_whole(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a row's request body if its answer comes whole, and at once."""
    for name in NOT_WHOLE:
        if body.get(name):
            raise BadPromptError("invalid_prompt", f"The body says {name}: true; leave it out, answers are read whole.")
    return body


def with_examples(messages: Sequence[Any], examples: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Insert few-shot examples after the system messages.

    >>> shot = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    >>> [each["content"] for each in with_examples(to_messages("3 + 3?", "Count."), shot)]
    ['Count.', '2 + 2?', '4', '3 + 3?']
    """
    roles = [each.get("role") if isinstance(each, Mapping) else None for each in messages]
    start = next((at for at, role in enumerate(roles) if role not in ("system", "developer")), len(roles))
    return [*messages[:start], *examples, *messages[start:]]


def is_token_numbers(prompt: Any) -> bool:
    """Whether a prompt is a list of token numbers.

    >>> is_token_numbers([24912, 2375]), is_token_numbers([]), is_token_numbers(["a"])
    (True, False, False)
    """
    return isinstance(prompt, (list, tuple)) and bool(prompt) and all(type(number) is int for number in prompt)


def kind_of(value: Any) -> str:
    return f"value of type {type(value).__name__}"
