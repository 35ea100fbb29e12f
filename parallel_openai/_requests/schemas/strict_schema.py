"""Convert a JSON schema for OpenAI's strict mode: documented keywords, all fields required, an object at the root."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from parallel_openai._json import dumps
from parallel_openai._requests.schemas.strict_limits import is_simple_pattern, too_large
from parallel_openai.errors import InvalidInputError

#: Keywords that strict mode documents, for any type and by type. Others are not sent, but checked in the answer.
_KEYWORDS = frozenset(("type", "title", "description", "enum", "const"))
_NUMERIC = frozenset(("multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"))
_KEYWORDS_OF = {
    "string": frozenset(("pattern", "format")),
    "integer": _NUMERIC,
    "number": _NUMERIC,
    "array": frozenset(("minItems", "maxItems")),
}
_FORMATS = frozenset(("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"))
#: Annotations, which do not restrict answers; when schemas are merged, the last one wins.
_NOTES = frozenset(
    (
        *("title", "description", "default", "examples", "$comment", "$schema", "$id", "$anchor"),
        *("deprecated", "readOnly", "writeOnly", "nullable", "discriminator"),
    )
)
#: Keywords that are translated to another form.
_TRANSLATED = frozenset(
    ("$ref", "$defs", "definitions", "allOf", "properties", "required", "additionalProperties", "items", "prefixItems")
)
_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


class _NotStrictError(Exception):
    """Strict mode cannot express the schema."""


@dataclass(frozen=True)
class StrictSchema:
    """A schema converted for strict mode."""

    original: Mapping[str, Any]  # the given schema
    schema: Mapping[str, Any]  # the schema to send
    is_strict: bool  # whether it can be sent in strict mode, which does not support, for example, arbitrary field names
    note: str = ""  # a sentence on what strict mode cannot express; empty if it can express all

    def fields(self) -> dict[str, Mapping[str, Any]]:
        """The object's fields, each with its own schema: references resolved, and without an alternative null."""
        return {name: self._plain(part) for name, part in self.schema["properties"].items()}

    def _plain(self, part: Any) -> Mapping[str, Any]:
        found = _resolve(part, self.schema)
        others = [each for each in found.get("anyOf", ()) if _resolve(each, self.schema).get("type") != "null"]
        return self._plain(others[0]) if len(others) == 1 else found

    def without_fillers(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The answer without nulls for fields that are optional in the original.

        Strict mode requires all fields, so an optional field is sent as "this or null".
        """
        if not self.is_strict:
            return answer
        kept: dict[str, Any] = self._null_remover.remove(answer, self.original)
        return kept

    @functools.cached_property
    def _null_remover(self) -> _NullRemover:
        return _NullRemover(self.original)


def strict_schema(schema: Mapping[str, Any]) -> StrictSchema:
    """Convert a schema for strict mode without unsupported keywords; if that is not possible, it is not strict.

    >>> strict = strict_schema({"type": "object", "properties": {"days": {"type": "integer", "default": 3}}})
    >>> strict.schema["required"], strict.schema["additionalProperties"], strict.schema["properties"]
    (['days'], False, {'days': {'anyOf': [{'type': 'integer'}, {'type': 'null'}]}})
    >>> strict.without_fillers({"days": None})
    {}
    """
    root = _merged_or_resolved(schema, schema)
    # A recursive class is among its own definitions.
    root = {**root, **{name: schema[name] for name in ("$defs", "definitions") if name in schema}}
    if _types(root) != ["object"] or not root.get("properties"):
        raise InvalidInputError(
            "response_format must describe an object with fields, and describes "
            f"{root.get('type') or 'something else'}. Make that a field of an object."
        )
    maker = _Maker(root)
    try:
        made = maker.whole_schema()
    except _NotStrictError as why:
        note = (
            f"response_format is asked for without strict mode, which has no words for {why}. Answers are checked here."
        )
        return StrictSchema(root, root, False, note)
    found = ", ".join(sorted(maker.left_out))
    note = f"Strict mode cannot hold the model to all of response_format; answers are checked here for {found}."
    return StrictSchema(root, made, True, note if found else "")


class _Maker:
    """Converts one schema."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self.left_out: set[str] = set()  # the unsupported keywords
        self._root = root
        self._definitions = {**root.get("definitions", {}), **root.get("$defs", {})}
        self._referred: set[str] = set()

    def whole_schema(self) -> dict[str, Any]:
        made = self._made(self._root, ())
        if definitions := self._made_definitions():
            made["$defs"] = definitions
        if why := too_large(made):
            raise _NotStrictError(why)
        return made

    def _made_definitions(self) -> dict[str, Any]:
        made, failed = {}, {}
        for name, part in self._definitions.items():
            try:
                made[name] = self._made(part, ())
            except _NotStrictError as why:  # raised only if it is referred to
                failed[name] = why
        for name in self._referred & set(failed):
            raise failed[name]
        return made

    def _made(self, part: Any, inlined: tuple[str, ...]) -> dict[str, Any]:
        """Convert a part; `inlined` are the references that it replaces."""
        if not isinstance(part, Mapping):
            raise _NotStrictError("a value of any kind")
        reference = part.get("$ref")
        if reference is not None:
            name = str(reference).removeprefix("#/$defs/").removeprefix("#/definitions/")
            # Strict mode allows no keywords next to a reference, so it is inlined then, unless it is recursive.
            if (name in self._definitions or name == "#") and (len(part) == 1 or reference in inlined):
                self._referred.add(name)
                return {"$ref": name if name == "#" else f"#/$defs/{name}"}
            if reference in inlined:
                raise _NotStrictError(f"the reference {reference!r}")
            inlined = (*inlined, reference)
        merged = _merged(part, self._root)
        if (union := merged.get("anyOf", merged.get("oneOf"))) and not _has_shape(merged):
            others = {name: value for name, value in merged.items() if name not in ("type", "anyOf", "oneOf")}
            return {**self._allowed(others, ()), "anyOf": [self._made(each, inlined) for each in union]}
        return self._of_types(merged, _types(merged), inlined)

    def _of_types(self, merged: Mapping[str, Any], types: list[str], inlined: tuple[str, ...]) -> dict[str, Any]:
        values = merged.get("enum", [merged["const"]] if "const" in merged else ())
        if not types or not {type(value) for value in values} <= set(_TYPES):
            raise _NotStrictError("a value of any kind")
        made = {**self._allowed(merged, types), "type": types[0] if len(types) == 1 else types}
        if values:
            return made
        if "array" in types:
            made["items"] = self._items(merged, inlined)
        if "object" in types:
            made |= self._object(merged, inlined)
        return made

    def _allowed(self, merged: Mapping[str, Any], types: Iterable[str]) -> dict[str, Any]:
        """The supported keywords whose values hold no schemas.

        Unsupported ones are added to the description, so that the model may still follow them.
        """
        known = _KEYWORDS.union(*(_KEYWORDS_OF.get(each, ()) for each in types))
        # In older drafts exclusiveMinimum and exclusiveMaximum are booleans.
        made = {name: value for name, value in merged.items() if name in known and value is not True}
        if made.get("format", "date") not in _FORMATS:
            del made["format"]
        if not is_simple_pattern(made.get("pattern", "")):
            del made["pattern"]
        unknown = [name for name in merged if name not in {*made, *_NOTES, *_TRANSLATED} and name[:2] != "x-"]
        if unknown:
            self.left_out.update(unknown)
            keywords = ", ".join(f"{name}: {dumps(merged[name]).decode()}" for name in unknown)
            made["description"] = f"{merged.get('description', '')} ({keywords})".lstrip()
        return made

    def _items(self, merged: Mapping[str, Any], inlined: tuple[str, ...]) -> dict[str, Any]:
        """The schema of a list's items, which must be the same for all positions in strict mode."""
        first, rest = _list_items(merged)
        kinds = [self._made(each, inlined) for each in (*first, *([rest] if isinstance(rest, Mapping) else []))]
        if not kinds or any(each != kinds[0] for each in kinds):
            raise _NotStrictError("a list whose places differ" if kinds else "a list of anything")
        return kinds[0]

    def _object(self, merged: Mapping[str, Any], inlined: tuple[str, ...]) -> dict[str, Any]:
        fields, required = merged.get("properties", {}), merged.get("required", ())
        is_open = merged.get("additionalProperties", False) is not False or "patternProperties" in merged
        if is_open or not fields or not _names_within(merged) <= set(fields):
            raise _NotStrictError("an object whose fields may have any name")
        return {
            "properties": {
                name: self._made(part, inlined) if name in required else self._or_null(part, inlined)
                for name, part in fields.items()
            },
            "required": list(fields),
            "additionalProperties": False,
        }

    def _or_null(self, part: Any, inlined: tuple[str, ...]) -> dict[str, Any]:
        made = self._made(part, inlined)
        return made if _takes_null(part, self._root) else {"anyOf": [made, {"type": "null"}]}


def _types(part: Mapping[str, Any]) -> list[str]:
    """The JSON types of a part, by its `type` or its other keywords; empty if unknown."""
    types = part.get("type")
    if types is not None:
        return [types] if isinstance(types, str) else list(types)
    values = part.get("enum", [part["const"]] if "const" in part else ())
    if values:
        return list(dict.fromkeys(_TYPES.get(type(value), "object") for value in values))
    if "properties" in part:
        return ["object"]
    return ["array"] if "items" in part or "prefixItems" in part else []


def _has_shape(part: Mapping[str, Any]) -> bool:
    """Whether a part has a shape of its own, so that a union next to it only restricts it."""
    types = set(_types(part))
    if "enum" in part or "const" in part or not types & {"object", "array"}:
        return bool(types)
    return "properties" in part or "items" in part or "prefixItems" in part


def _list_items(part: Mapping[str, Any]) -> tuple[list[Any], Any]:
    """The schemas of a list's first items, and that of the others; older drafts write tuples differently."""
    items = part.get("items")
    if isinstance(items, list):
        return items, part.get("additionalItems")
    return list(part.get("prefixItems", ())), items


def _names_within(part: Mapping[str, Any]) -> set[str]:
    """The fields that an object's conditions mention."""
    conditions = [part, *part.get("dependentSchemas", {}).values()]
    conditions += [part[name] for name in ("if", "then", "else") if name in part]
    conditions += [each for name in ("anyOf", "oneOf") for each in part.get(name, ())]
    found: set[str] = set()
    for each in conditions:
        if isinstance(each, Mapping):
            found |= {*each.get("properties", ()), *each.get("required", ())}
    return found


def _takes_null(part: Any, root: Mapping[str, Any]) -> bool:
    part = _merged_or_resolved(part, root)
    unions = [each for name in ("anyOf", "oneOf") for each in part.get(name, ())]
    if unions and not _has_shape(part):
        return any(_takes_null(each, root) for each in unions)
    types = _types(part)
    return not types or "null" in types


def _resolve(part: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """The target of a reference, or the part itself."""
    seen = 0
    while isinstance(part, Mapping) and "$ref" in part:
        target: Any = root
        for name in str(part["$ref"]).removeprefix("#").strip("/").split("/") if part["$ref"] != "#" else ():
            target = target.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(target, Mapping) else None
        seen += 1
        if target is None or seen > 100:
            raise InvalidInputError(f"The schema in response_format refers to {part['$ref']!r}, which is not in it.")
        part = target
    return part if isinstance(part, Mapping) else {}


def _merged(part: Mapping[str, Any], root: Mapping[str, Any], depth: int = 0) -> Mapping[str, Any]:
    """The part merged with its reference's target and its `allOf`."""
    if depth > 100:
        raise _NotStrictError("a part that is made of itself")
    own = {name: value for name, value in part.items() if name not in ("$ref", "allOf")}
    others = [_resolve({"$ref": part["$ref"]}, root)] if "$ref" in part else []
    others += part.get("allOf", ())
    return functools.reduce(_joined, [*(_merged(_resolve(each, root), root, depth + 1) for each in others), own])


def _joined(one: Mapping[str, Any], other: Mapping[str, Any]) -> Mapping[str, Any]:
    joined = {**one, **other}
    for name in set(one) & set(other) - _NOTES:
        if name == "required":
            joined[name] = list(dict.fromkeys([*one[name], *other[name]]))
        elif name == "properties":
            joined[name] = {**one[name], **other[name]}
            if any(one[name][each] != other[name][each] for each in set(one[name]) & set(other[name])):
                raise _NotStrictError("allOf that disagrees about a field")
        elif one[name] != other[name]:
            raise _NotStrictError(f"allOf that disagrees about {name}")
    return joined


def _merged_or_resolved(part: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    found = _resolve(part, root)
    try:
        return _merged(part, root) if isinstance(part, Mapping) else found
    except _NotStrictError:
        return found


class _NullRemover:
    """Removes the nulls that strict mode makes the model write for optional fields."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        # Merged parts by identity: merging takes longer than all else that is done to a row.
        self._merged_parts: dict[int, tuple[Any, Mapping[str, Any]]] = {}

    def remove(self, value: Any, part: Any) -> Any:
        merged = self._merged(part)
        if isinstance(value, list):
            of = next((each for each in self._variants(merged) if "array" in _types(each)), merged)
            first, rest = _list_items(of)
            return [self.remove(each, first[at] if at < len(first) else rest) for at, each in enumerate(value)]
        if not isinstance(value, dict):
            return value
        of = next((each for each in self._variants(merged) if set(value) <= set(each.get("properties", ()))), {})
        fields, required = of.get("properties", {}), of.get("required", ())
        return {
            name: self.remove(each, fields.get(name))
            for name, each in value.items()
            if each is not None or name in required or name not in fields or _takes_null(fields[name], self._root)
        }

    def _merged(self, part: Any) -> Mapping[str, Any]:
        found = self._merged_parts.get(id(part))
        if found is None:
            found = self._merged_parts[id(part)] = (part, _merged_or_resolved(part, self._root))
        return found[1]

    def _variants(self, merged: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        yield merged
        for name in ("anyOf", "oneOf"):
            for each in merged.get(name, ()):
                yield from self._variants(self._merged(each))
