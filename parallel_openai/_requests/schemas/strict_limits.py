"""Strict mode's limits on the size of a schema and on patterns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

#: OpenAI's documented limits for one schema.
MOST_FIELDS, MOST_LEVELS, MOST_CHARACTERS = 5_000, 10, 120_000
MOST_CHOICES, MANY_CHOICES, MOST_CHARACTERS_OF_MANY = 1_000, 250, 15_000

#: Look-around, named groups and flags, word boundaries, backreferences and Unicode classes.
_NOT_SIMPLE = re.compile(r"\(\?(?!:)|(?<!\\)(?:\\\\)*\\[1-9kbBpPAZzG]")


def is_simple_pattern(pattern: Any) -> bool:
    """Whether a pattern has no features that strict mode's matcher may lack.

    >>> is_simple_pattern(r"^(?:a|b)[0-9]{2}$"), is_simple_pattern(r"^(?!x).*$")
    (True, False)
    """
    return isinstance(pattern, str) and not _NOT_SIMPLE.search(pattern)


def too_large(schema: Mapping[str, Any]) -> str | None:
    """Which limit a strict schema exceeds, in words; None if it exceeds none."""
    fields = choices = characters = levels = 0
    for part, level in _parts(schema, 0):
        names, values = list(part.get("properties", ())), part.get("enum", ())
        fields, choices, levels = fields + len(names), choices + len(values), max(levels, level)
        in_values = sum(len(value) for value in values if isinstance(value, str))
        if len(values) > MANY_CHOICES and in_values > MOST_CHARACTERS_OF_MANY:
            return f"a choice of {len(values)} values with {in_values:,} characters"
        names += [*part.get("$defs", ()), *([part["const"]] if isinstance(part.get("const"), str) else [])]
        characters += in_values + sum(map(len, names))
    for count, most, what in (
        (fields, MOST_FIELDS, "fields"),
        (levels, MOST_LEVELS, "levels of objects in objects"),
        (choices, MOST_CHOICES, "choices"),
        (characters, MOST_CHARACTERS, "characters in names and choices"),
    ):
        if count > most:
            return f"{count:,} {what} (it takes {most:,})"
    return None


def _parts(part: Mapping[str, Any], level: int) -> Iterator[tuple[Mapping[str, Any], int]]:
    """Yield the schema's parts with their nesting depth in objects."""
    level += "properties" in part
    yield part, level
    items = [part["items"]] if part.get("items") is not None else []
    for each in (*part.get("properties", {}).values(), *part.get("anyOf", ()), *items):
        yield from _parts(each, level)
    for each in part.get("$defs", {}).values():
        yield from _parts(each, 0)
