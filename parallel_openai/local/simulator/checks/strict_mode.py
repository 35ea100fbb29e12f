"""What strict mode refuses in a JSON schema, by the list in OpenAI's guide to structured outputs."""

from __future__ import annotations

import re
from typing import Any, NoReturn

from parallel_openai.local.simulator.refusals import Refusal

KEYWORDS = frozenset(
    (
        *("type", "title", "description", "enum", "const", "anyOf", "$ref", "$defs"),
        *("properties", "required", "additionalProperties", "items", "minItems", "maxItems", "pattern", "format"),
        *("multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    )
)
FORMATS = frozenset(("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"))
#: Look-around and back-references.
REFUSED_IN_PATTERNS = re.compile(r"\(\?(?:[=!]|<[=!])|\\[1-9]")
MAX_PROPERTIES, MAX_LEVELS, MAX_CHARACTERS, MAX_ENUM_VALUES = 5_000, 10, 120_000, 1_000


def strict_schema(name: str, schema: Any) -> None:
    """Refuse a schema that strict mode does not accept.

    >>> strict_schema("s", {"type": "object", "properties": {}})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    parallel_openai.local.simulator.refusals.Refusal: Invalid schema for response_format 's': ...
    """
    _Check(name).root(schema)


class _Check:
    def __init__(self, name: str) -> None:
        self.name = name
        self.properties = self.characters = self.enum_values = 0

    def root(self, schema: Any) -> None:
        if not isinstance(schema, dict) or schema.get("type") != "object":
            kind = schema.get("type") if isinstance(schema, dict) else None
            self.refuse(f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{kind}\"'.")
        for keyword in ("anyOf", "enum", "const"):
            if keyword in schema:
                self.refuse(f"schema must have type 'object' and not have '{keyword}' at the top level.")
        self.part(schema, (), 0)
        for count, limit, what in (
            (self.properties, MAX_PROPERTIES, "properties"),
            (self.enum_values, MAX_ENUM_VALUES, "enum values"),
            (self.characters, MAX_CHARACTERS, "characters in names and enum values"),
        ):
            if count > limit:
                self.refuse(f"the schema has {count} {what}, more than the {limit} that are allowed.")

    def part(self, schema: Any, where: tuple[str, ...], level: int) -> None:
        if not isinstance(schema, dict):  # true or false, which the guide does not mention
            return
        if refused := sorted(set(schema) - KEYWORDS):
            self.refuse(f"In context={where}, '{refused[0]}' is not permitted.")
        if "$ref" in schema:
            if others := set(schema) - {"$ref"}:
                self.refuse(f"In context={where}, $ref cannot have keywords {others}.")
            return
        if "type" not in schema and "anyOf" not in schema:
            self.refuse(f"In context={where}, schema must have a 'type' key.")
        kinds = schema["type"] if isinstance(schema.get("type"), list) else [schema.get("type")]
        if "object" in kinds:
            level += 1
            self.object(schema, where, level)
        if "array" in kinds and "items" not in schema:
            self.refuse(f"In context={where}, array schema missing items.")
        self.string(schema, where)
        self.choices(schema)
        self.inner(schema, where, level)

    def object(self, schema: dict[str, Any], where: tuple[str, ...], level: int) -> None:
        properties = schema.get("properties", {})
        if schema.get("additionalProperties") is not False:
            self.refuse(f"In context={where}, 'additionalProperties' is required to be supplied and to be false.")
        if missing := [each for each in properties if each not in schema.get("required", ())]:
            self.refuse(
                f"In context={where}, 'required' is required to be supplied and to be an array including every key in "
                f"properties. Missing '{missing[0]}'."
            )
        if extra := [each for each in schema.get("required", ()) if each not in properties]:
            self.refuse(f"In context={where}, 'required' has an extra key '{extra[0]}'.")
        if level > MAX_LEVELS:
            self.refuse(f"In context={where}, there are more than {MAX_LEVELS} levels of nesting.")
        self.properties += len(properties)
        self.characters += sum(map(len, properties))

    def string(self, schema: dict[str, Any], where: tuple[str, ...]) -> None:
        if "format" in schema and schema["format"] not in FORMATS:
            self.refuse(f"In context={where}, '{schema['format']}' is not a valid format.")
        if REFUSED_IN_PATTERNS.search(str(schema.get("pattern", ""))):
            self.refuse(f"In context={where}, 'pattern' must not use look-around or back-references.")

    def choices(self, schema: dict[str, Any]) -> None:
        values = schema.get("enum", [])
        length = sum(len(value) for value in values if isinstance(value, str))
        if len(values) > 250 and length > 15_000:
            self.refuse(f"an enum of {len(values)} values has {length} characters, more than 15000.")
        self.enum_values += len(values)
        self.characters += length + len(str(schema.get("const", "")))

    def inner(self, schema: dict[str, Any], where: tuple[str, ...], level: int) -> None:
        for key, part in schema.get("properties", {}).items():
            self.part(part, (*where, "properties", key), level)
        for key, part in schema.get("$defs", {}).items():
            self.characters += len(key)
            self.part(part, (*where, "$defs", key), 0)
        if "items" in schema:
            self.part(schema["items"], (*where, "items"), level)
        for at, part in enumerate(schema.get("anyOf", ())):
            self.part(part, (*where, "anyOf", str(at)), level)

    def refuse(self, why: str) -> NoReturn:
        message = f"Invalid schema for response_format '{self.name}': {why}"
        raise Refusal(400, message, param="response_format")
