"""Random values that fit a JSON schema, the same for the same generator state."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

_POSITIVE = (
    "love loved loves great excellent wonderful amazing best good enjoy enjoyed happy fantastic perfect delight "
    "delighted delightful superb brilliant recommend nice awesome beautiful pleased favorite"
)
_NEGATIVE = (
    "hate hated hates terrible awful worst bad boring disappointing disappointed disappointment poor horrible waste "
    "broken dull useless refund angry annoying ugly rude sad failed disgusting"
)
POSITIVE, NEGATIVE = frozenset(_POSITIVE.split()), frozenset(_NEGATIVE.split())
WORDS = ("alpha", "amber", "birch", "cedar", "cobalt", "ember", "fjord", "garnet", "hazel", "juniper", "lotus", "maple")
OFF_SCHEMA = "(simulated) outside the schema"
MAX_DEPTH = 6


class SchemaFiller:
    """Fills one schema for one prompt.

    `$ref`, `$defs`, `anyOf`, `oneOf`, `allOf`, `enum`, `const`, `prefixItems`, bounds and common formats are observed;
    a `pattern` is not. If an enum has positive and negative labels and the text is clearly one of them, that label is
    chosen.

    >>> label = {"enum": ["negative", "positive"]}
    >>> schema = {"type": "object", "properties": {"label": label, "sure": {"type": "boolean"}}}
    >>> SchemaFiller(schema, "I love it, it is great.", random.Random(1)).fill()
    {'label': 'positive', 'sure': True}
    >>> SchemaFiller(schema, "I love it.", random.Random(1), off_schema=True).fill()
    {'label': '(simulated) outside the schema', 'sure': True}
    """

    def __init__(self, schema: Any, text: str, rng: random.Random, *, off_schema: bool = False) -> None:
        self.root = schema
        self.label_prefixes = label_prefixes(text)
        self.rng = rng
        self.off_schema = off_schema
        self._is_off_schema = False

    def fill(self) -> Any:
        value = self._value(self.root, "", 0)
        if self.off_schema and not self._is_off_schema:
            return {"unexpected": OFF_SCHEMA}
        return value

    def _value(self, schema: Any, name: str, depth: int) -> Any:
        if not isinstance(schema, dict):
            return self._word()
        if "$ref" in schema:
            return self._value(self._resolve(schema["$ref"]), name, depth + 1)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._choice(schema["enum"])
        for union in ("anyOf", "oneOf"):
            if schema.get(union):
                return self._value(self._branch(schema[union], depth), name, depth + 1)
        if schema.get("allOf"):
            return self._value(self._merged(schema), name, depth + 1)
        kind = schema.get("type", "object" if "properties" in schema else "string")
        if isinstance(kind, list):
            kind = (
                next((each for each in kind if each != "null"), "null")
                if depth < MAX_DEPTH or "null" not in kind
                else "null"
            )
        return self._of_type(str(kind), schema, name, depth)

    def _of_type(self, kind: str, schema: dict[str, Any], name: str, depth: int) -> Any:
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, name, depth)
        if kind in ("integer", "number"):
            return self._number(kind, schema, name)
        if kind == "boolean":
            return self.rng.random() < 0.5
        return None if kind == "null" else self._string(schema)

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties: dict[str, Any] = schema.get("properties", {})
        # At depth only required properties, or a recursive schema would never end.
        names = properties if depth < MAX_DEPTH else [each for each in properties if each in schema.get("required", ())]
        return {name: self._value(properties[name], name, depth + 1) for name in names}

    def _array(self, schema: dict[str, Any], name: str, depth: int) -> list[Any]:
        if schema.get("prefixItems"):
            return [self._value(each, name, depth + 1) for each in schema["prefixItems"]]
        min_items = int(schema.get("minItems", 0 if depth >= MAX_DEPTH else 1))
        max_items = int(schema.get("maxItems", max(min_items, 1 if depth >= 2 else 2)))
        count = min_items if depth >= MAX_DEPTH else self.rng.randint(min(min_items, max_items), max_items)
        return [self._value(schema.get("items", {"type": "string"}), name, depth + 1) for _ in range(count)]

    def _number(self, kind: str, schema: dict[str, Any], name: str) -> int | float:
        share = any(each in name.casefold() for each in ("confiden", "probab", "certain"))
        step = schema.get("multipleOf", 1 if kind == "integer" else 0.01)
        low = schema.get("minimum", schema.get("exclusiveMinimum"))
        high = schema.get("maximum", schema.get("exclusiveMaximum"))
        if low is None:
            low = 0 if high is None or high >= 0 else high - 100 * step
        if high is None:
            high = low + (1 if share else 100 * step)
        first, last = -(-low // step), high // step
        first += "exclusiveMinimum" in schema and first * step <= schema["exclusiveMinimum"]
        last -= "exclusiveMaximum" in schema and last * step >= schema["exclusiveMaximum"]
        value = self.rng.randint(int(first), max(int(first), int(last))) * step
        return int(value) if kind == "integer" else round(value, 10)

    def _string(self, schema: dict[str, Any]) -> str:
        formats = {
            "date": "2025-01-31",
            "date-time": "2025-01-31T12:00:00Z",
            "time": "12:00:00Z",
            "duration": "P1D",
            "email": "simulated@example.com",
            "hostname": "example.com",
            "ipv4": "192.0.2.1",
            "ipv6": "2001:db8::1",
            "uri": "https://example.com/simulated",
            "uuid": "00000000-0000-4000-8000-000000000000",
        }
        if schema.get("format") in formats:
            return formats[schema["format"]]
        text = f"(simulated) {self._word()}".ljust(int(schema.get("minLength", 0)), ".")
        return text[: int(schema.get("maxLength", len(text)))]

    def _choice(self, options: Sequence[Any]) -> Any:
        if self.off_schema:
            self._is_off_schema = True
            return OFF_SCHEMA
        for option in options:
            if self.label_prefixes and isinstance(option, str) and option.casefold().startswith(self.label_prefixes):
                return option
        return options[self.rng.randrange(len(options))]

    def _branch(self, branches: Sequence[Any], depth: int) -> Any:
        plain = [each for each in branches if not (isinstance(each, dict) and each.get("type") == "null")]
        if depth >= MAX_DEPTH and len(plain) < len(branches):
            return {"type": "null"}
        if depth >= MAX_DEPTH:
            plain = [each for each in plain if not (isinstance(each, dict) and "$ref" in each)] or plain
        return plain[self.rng.randrange(len(plain))] if plain else {"type": "null"}

    def _merged(self, schema: dict[str, Any]) -> dict[str, Any]:
        merged: dict[str, Any] = {name: value for name, value in schema.items() if name != "allOf"}
        for part in schema["allOf"]:
            while isinstance(part, dict) and "$ref" in part:
                part = self._resolve(part["$ref"])
            properties = {**merged.get("properties", {}), **part.get("properties", {})}
            merged = {**merged, **part, **({"properties": properties} if properties else {})}
        return merged

    def _resolve(self, reference: str) -> Any:
        found = self.root
        for step in reference.removeprefix("#").strip("/").split("/") if reference != "#" else ():
            step = step.replace("~1", "/").replace("~0", "~")
            found = found.get(step, {}) if isinstance(found, dict) else {}
        return found

    def _word(self) -> str:
        return WORDS[self.rng.randrange(len(WORDS))]


def label_prefixes(text: str) -> tuple[str, ...]:
    """The prefixes of the label for a clearly positive or negative text; empty if it is neither.

    >>> label_prefixes("The worst, boring film."), label_prefixes("It was a film.")
    (('neg', 'bad'), ())
    """
    words = ["".join(filter(str.isalpha, word)) for word in text.casefold().split()]
    score = sum((word in POSITIVE) - (word in NEGATIVE) for word in words)
    if score == 0:
        return ()
    return ("pos", "good") if score > 0 else ("neg", "bad")
