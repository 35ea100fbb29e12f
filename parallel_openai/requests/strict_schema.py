"""A JSON schema as OpenAI's strict mode wants it: every field required, none beside them, an object at the root."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parallel_openai.errors import InvalidInputError

#: What strict mode refuses, and an answer does not need.
_LEFT_OUT = frozenset({"default", "discriminator", "examples", "$schema", "$id"})


@dataclass(frozen=True)
class StrictSchema:
    """A schema, made strict.

    Attributes:
        original: as it was.
        schema: as the API is told.
        is_strict: whether strict mode can be asked for; it knows no objects with fields of any name.
    """

    original: Mapping[str, Any]
    schema: Mapping[str, Any]
    is_strict: bool

    def fields(self) -> dict[str, Mapping[str, Any]]:
        """The object's fields, each with its own schema: no reference, and without the null that may stand for it."""
        return {name: self._plain(part) for name, part in self.schema["properties"].items()}

    def _plain(self, part: Any) -> Mapping[str, Any]:
        found = _resolve(part, self.schema)
        others = [each for each in found.get("anyOf", ()) if _resolve(each, self.schema).get("type") != "null"]
        return self._plain(others[0]) if len(others) == 1 else found

    def without_fillers(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The answer without the nulls that stand where the original wants nothing.

        Strict mode has no field that may be left out: one that might be is asked for as "this or null".
        """
        if not self.is_strict:
            return answer
        kept: dict[str, Any] = _without_fillers(answer, self.original, self.original)
        return kept


def strict_schema(schema: Mapping[str, Any]) -> StrictSchema:
    """The schema for strict mode.

    Raises:
        InvalidInputError: it is no object with fields, or refers to what is not in it.

    >>> strict = strict_schema({"type": "object", "properties": {"days": {"type": "integer", "default": 3}}})
    >>> strict.schema["required"], strict.schema["additionalProperties"], strict.schema["properties"]
    (['days'], False, {'days': {'anyOf': [{'type': 'integer'}, {'type': 'null'}]}})
    >>> strict.without_fillers({"days": None})
    {}
    """
    root = _resolve(schema, schema)
    if "$defs" in schema and "$defs" not in root:  # a class that refers to itself stands among its own definitions
        root = {**root, "$defs": schema["$defs"]}
    if root.get("type") != "object" or not root.get("properties"):
        raise InvalidInputError(
            "response_format must describe an object with fields, and describes "
            f"{root.get('type') or 'something else'}. Make that a field of an object."
        )
    if _is_open(root):
        return StrictSchema(root, root, False)
    made: dict[str, Any] = _strict(root, root)
    return StrictSchema(root, made, True)


def _strict(part: Any, root: Mapping[str, Any]) -> Any:
    if isinstance(part, list):
        return [_strict(each, root) for each in part]
    if not isinstance(part, Mapping):
        return part
    if "$ref" in part and len(part) > 1:  # a reference stands alone or not at all
        part = {**_resolve(part, root), **{name: value for name, value in part.items() if name != "$ref"}}
    if len(part.get("allOf", ())) == 1:
        part = {**part["allOf"][0], **{name: value for name, value in part.items() if name != "allOf"}}
        return _strict(part, root)
    if "oneOf" in part:
        part = {**{name: value for name, value in part.items() if name != "oneOf"}, "anyOf": part["oneOf"]}
    made = {name: value for name, value in part.items() if name not in _LEFT_OUT}
    for name in ("anyOf", "allOf", "items", "prefixItems", "not"):
        if name in made:
            made[name] = _strict(made[name], root)
    for name in ("$defs", "definitions"):
        if name in made:
            made[name] = {key: _strict(value, root) for key, value in made[name].items()}
    if "properties" in made:
        required = set(part.get("required", ()))
        made["properties"] = {
            name: _strict(value, root) if name in required else _or_null(_strict(value, root), value, root)
            for name, value in part["properties"].items()
        }
        made["required"] = list(made["properties"])
        made["additionalProperties"] = False
    return made


def _or_null(made: Mapping[str, Any], original: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    return made if _takes_null(original, root) else {"anyOf": [made, {"type": "null"}]}


def _takes_null(part: Any, root: Mapping[str, Any]) -> bool:
    part = _resolve(part, root)
    kind = part.get("type")
    if kind is None and not any(name in part for name in ("anyOf", "oneOf", "allOf", "enum", "const")):
        return True
    if kind == "null" or (isinstance(kind, list) and "null" in kind) or None in part.get("enum", ()):
        return True
    return any(_takes_null(each, root) for name in ("anyOf", "oneOf") for each in part.get(name, ()))


def _is_open(part: Any) -> bool:
    """Whether there is an object whose fields may have any name."""
    if isinstance(part, list):
        return any(map(_is_open, part))
    if not isinstance(part, Mapping):
        return False
    if part.get("additionalProperties") or "patternProperties" in part:
        return True
    if part.get("type") == "object" and not part.get("properties"):
        return True
    named = [value for name in ("properties", "$defs", "definitions") for value in part.get(name, {}).values()]
    others = [part.get(name) for name in ("anyOf", "oneOf", "allOf", "items", "prefixItems")]
    return any(map(_is_open, (*named, *others)))


def _resolve(part: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a reference refers to, or the part itself."""
    seen = 0
    while isinstance(part, Mapping) and "$ref" in part:
        place: Any = root
        for name in str(part["$ref"]).removeprefix("#").strip("/").split("/"):
            place = place.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(place, Mapping) else None
        seen += 1
        if place is None or seen > 100:
            raise InvalidInputError(f"The schema in response_format refers to {part['$ref']!r}, which is not in it.")
        part = place
    return part if isinstance(part, Mapping) else {}


def _without_fillers(value: Any, part: Any, root: Mapping[str, Any]) -> Any:
    part = _resolve(part, root)
    if isinstance(value, list):
        return [_without_fillers(each, part.get("items", {}), root) for each in value]
    if not isinstance(value, dict):
        return value
    part = next((each for each in _variants(part, root) if set(value) <= set(each.get("properties", ()))), {})
    fields, required = part.get("properties", {}), part.get("required", ())
    return {
        name: _without_fillers(each, fields.get(name, {}), root)
        for name, each in value.items()
        if each is not None or name in required or name not in fields or _takes_null(fields[name], root)
    }


def _variants(part: Mapping[str, Any], root: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = [part]
    for name in ("anyOf", "oneOf", "allOf"):
        for each in part.get(name, ()):
            found += _variants(_resolve(each, root), root)
    return found
