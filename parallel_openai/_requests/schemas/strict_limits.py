"""How large a schema strict mode takes, and which patterns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

#: As OpenAI documents them, for one schema.
MOST_FIELDS, MOST_LEVELS, MOST_CHARACTERS = 5_000, 10, 120_000
MOST_CHOICES, MANY_CHOICES, MOST_CHARACTERS_OF_MANY = 1_000, 250, 15_000

#: Look-around, named groups and flags, word bounds, references back and Unicode classes.
_NOT_SIMPLE = re.compile(r"\(\?(?!:)|(?<!\\)(?:\\\\)*\\[1-9kbBpPAZzG]")


def is_simple_pattern(pattern: Any) -> bool:
    """Whether a pattern holds nothing that strict mode's own matcher may not know.

    >>> is_simple_pattern(r"^(?:a|b)[0-9]{2}$"), is_simple_pattern(r"^(?!x).*$")
    (True, False)
    """
    return isinstance(pattern, str) and not _NOT_SIMPLE.search(pattern)


def too_large(schema: Mapping[str, Any]) -> str | None:
    """What of a strict schema is too much, in words; None where nothing is."""
    fields = choices = characters = levels = 0
    for part, level in _parts(schema, 0):
        names, values = list(part.get("properties", ())), part.get("enum", ())
        fields, choices, levels = fields + len(names), choices + len(values), max(levels, level)
        told = sum(len(value) for value in values if isinstance(value, str))
        if len(values) > MANY_CHOICES and told > MOST_CHARACTERS_OF_MANY:
            return f"a choice of {len(values)} values with {told:,} characters"
        names += [*part.get("$defs", ()), *([part["const"]] if isinstance(part.get("const"), str) else [])]
        characters += told + sum(map(len, names))
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
    """The schema's parts, each with how many objects it stands in, itself among them."""
    level += "properties" in part
    yield part, level
    for each in (*part.get("properties", {}).values(), *part.get("anyOf", ()), *_listed(part.get("items"))):
        yield from _parts(each, level)
    for each in part.get("$defs", {}).values():
        yield from _parts(each, 0)


def _listed(part: Any) -> list[Any]:
    return [] if part is None else [part]
