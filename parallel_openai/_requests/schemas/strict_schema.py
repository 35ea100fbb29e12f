"""A JSON schema as OpenAI's strict mode wants it: what it documents, every field required, an object at the root."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from parallel_openai._json import dumps
from parallel_openai._requests.schemas.strict_limits import is_simple_pattern, too_large
from parallel_openai.errors import InvalidInputError

#: What strict mode documents, for any type and for some; all else is left out on the wire, and checked in the answer.
_KEYWORDS = frozenset(("type", "title", "description", "enum", "const"))
_NUMERIC = frozenset(("multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"))
_KEYWORDS_OF = {
    "string": frozenset(("pattern", "format")),
    "integer": _NUMERIC,
    "number": _NUMERIC,
    "array": frozenset(("minItems", "maxItems")),
}
_FORMATS = frozenset(("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"))
#: What says nothing that an answer could break; of two that are joined, the later one counts.
_NOTES = frozenset(
    (
        *("title", "description", "default", "examples", "$comment", "$schema", "$id", "$anchor"),
        *("deprecated", "readOnly", "writeOnly", "nullable", "discriminator"),
    )
)
#: What strict mode has in another form.
_TOLD_OTHERWISE = frozenset(
    ("$ref", "$defs", "definitions", "allOf", "properties", "required", "additionalProperties", "items", "prefixItems")
)
_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


class _NotStrictError(Exception):
    """Strict mode has no words for it."""


@dataclass(frozen=True)
class StrictSchema:
    """A schema, made strict.

    Attributes:
        original: as it was.
        schema: as the API is told.
        is_strict: whether strict mode can be asked for; it knows no objects with fields of any name, for one.
        note: what strict mode has no words for, as a sentence; empty where there is nothing.
    """

    original: Mapping[str, Any]
    schema: Mapping[str, Any]
    is_strict: bool
    note: str = ""

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
        kept: dict[str, Any] = self._fillers.left_out_of(answer, self.original)
        return kept

    @functools.cached_property
    def _fillers(self) -> _Fillers:
        return _Fillers(self.original)


def strict_schema(schema: Mapping[str, Any]) -> StrictSchema:
    """The schema for strict mode. What that does not know is left out; where that cannot be, it is not strict.

    Raises:
        InvalidInputError: it is no object with fields, or refers to what is not in it.

    >>> strict = strict_schema({"type": "object", "properties": {"days": {"type": "integer", "default": 3}}})
    >>> strict.schema["required"], strict.schema["additionalProperties"], strict.schema["properties"]
    (['days'], False, {'days': {'anyOf': [{'type': 'integer'}, {'type': 'null'}]}})
    >>> strict.without_fillers({"days": None})
    {}
    """
    root = _whole_or_itself(schema, schema)
    # A class that refers to itself stands among its own definitions.
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
    """Makes one schema strict.

    Attributes:
        left_out: what of it strict mode does not know, in words.
    """

    def __init__(self, root: Mapping[str, Any]) -> None:
        self.left_out: set[str] = set()
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
            except _NotStrictError as why:  # which matters if somebody refers to it
                failed[name] = why
        for name in self._referred & set(failed):
            raise failed[name]
        return made

    def _made(self, part: Any, inlined: tuple[str, ...]) -> dict[str, Any]:
        """The part; `inlined` are the references that it stands in the place of."""
        if not isinstance(part, Mapping):
            raise _NotStrictError("a value of any kind")
        reference = part.get("$ref")
        if reference is not None:
            name = str(reference).removeprefix("#/$defs/").removeprefix("#/definitions/")
            # A reference stands alone or not at all; but for what refers to itself, that would never end.
            if (name in self._definitions or name == "#") and (len(part) == 1 or reference in inlined):
                self._referred.add(name)
                return {"$ref": name if name == "#" else f"#/$defs/{name}"}
            if reference in inlined:
                raise _NotStrictError(f"the reference {reference!r}")
            inlined = (*inlined, reference)
        whole = _whole(part, self._root)
        if (union := whole.get("anyOf", whole.get("oneOf"))) and not _has_shape(whole):
            beside = {name: value for name, value in whole.items() if name not in ("type", "anyOf", "oneOf")}
            return {**self._allowed(beside, ()), "anyOf": [self._made(each, inlined) for each in union]}
        return self._of_types(whole, _types(whole), inlined)

    def _of_types(self, whole: Mapping[str, Any], types: list[str], inlined: tuple[str, ...]) -> dict[str, Any]:
        values = whole.get("enum", [whole["const"]] if "const" in whole else ())
        if not types or not {type(value) for value in values} <= set(_TYPES):
            raise _NotStrictError("a value of any kind")
        made = {**self._allowed(whole, types), "type": types[0] if len(types) == 1 else types}
        if values:
            return made
        if "array" in types:
            made["items"] = self._items(whole, inlined)
        if "object" in types:
            made |= self._object(whole, inlined)
        return made

    def _allowed(self, whole: Mapping[str, Any], types: Iterable[str]) -> dict[str, Any]:
        """What strict mode knows of the part's keywords, whose values hold no schemas.

        What it does not know stands in the description, so that the model may heed it.
        """
        known = _KEYWORDS.union(*(_KEYWORDS_OF.get(each, ()) for each in types))
        # In older drafts a bound may be exclusive by a truth value beside it.
        made = {name: value for name, value in whole.items() if name in known and value is not True}
        if made.get("format", "date") not in _FORMATS:
            del made["format"]
        if not is_simple_pattern(made.get("pattern", "")):
            del made["pattern"]
        unknown = [name for name in whole if name not in {*made, *_NOTES, *_TOLD_OTHERWISE} and name[:2] != "x-"]
        if unknown:
            self.left_out.update(unknown)
            told = ", ".join(f"{name}: {dumps(whole[name]).decode()}" for name in unknown)
            made["description"] = f"{whole.get('description', '')} ({told})".lstrip()
        return made

    def _items(self, whole: Mapping[str, Any], inlined: tuple[str, ...]) -> dict[str, Any]:
        """What a list holds, wherever in it: strict mode does not tell its places apart."""
        first, rest = _places(whole)
        kinds = [self._made(each, inlined) for each in (*first, *([rest] if isinstance(rest, Mapping) else []))]
        if not kinds or any(each != kinds[0] for each in kinds):
            raise _NotStrictError("a list whose places differ" if kinds else "a list of anything")
        return kinds[0]

    def _object(self, whole: Mapping[str, Any], inlined: tuple[str, ...]) -> dict[str, Any]:
        fields, required = whole.get("properties", {}), whole.get("required", ())
        is_open = whole.get("additionalProperties", False) is not False or "patternProperties" in whole
        if is_open or not fields or not _names_within(whole) <= set(fields):
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
    """The JSON types that a part may have: as it says, or as its other keywords do; none where nobody says."""
    told = part.get("type")
    if told is not None:
        return [told] if isinstance(told, str) else list(told)
    values = part.get("enum", [part["const"]] if "const" in part else ())
    if values:
        return list(dict.fromkeys(_TYPES.get(type(value), "object") for value in values))
    if "properties" in part:
        return ["object"]
    return ["array"] if "items" in part or "prefixItems" in part else []


def _has_shape(part: Mapping[str, Any]) -> bool:
    """Whether a part says by itself what it is, so that a union beside that only narrows it down."""
    types = set(_types(part))
    if "enum" in part or "const" in part or not types & {"object", "array"}:
        return bool(types)
    return "properties" in part or "items" in part or "prefixItems" in part


def _places(part: Mapping[str, Any]) -> tuple[list[Any], Any]:
    """What stands at the first places of a list, and what behind these; older drafts write a tuple otherwise."""
    items = part.get("items")
    if isinstance(items, list):
        return items, part.get("additionalItems")
    return list(part.get("prefixItems", ())), items


def _names_within(part: Mapping[str, Any]) -> set[str]:
    """The fields that an object's own conditions speak of."""
    conditions = [part, *part.get("dependentSchemas", {}).values()]
    conditions += [part[name] for name in ("if", "then", "else") if name in part]
    conditions += [each for name in ("anyOf", "oneOf") for each in part.get(name, ())]
    found: set[str] = set()
    for each in conditions:
        if isinstance(each, Mapping):
            found |= {*each.get("properties", ()), *each.get("required", ())}
    return found


def _takes_null(part: Any, root: Mapping[str, Any]) -> bool:
    part = _whole_or_itself(part, root)
    unions = [each for name in ("anyOf", "oneOf") for each in part.get(name, ())]
    if unions and not _has_shape(part):
        return any(_takes_null(each, root) for each in unions)
    types = _types(part)
    return not types or "null" in types


def _resolve(part: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a reference refers to, or the part itself."""
    seen = 0
    while isinstance(part, Mapping) and "$ref" in part:
        place: Any = root
        for name in str(part["$ref"]).removeprefix("#").strip("/").split("/") if part["$ref"] != "#" else ():
            place = place.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(place, Mapping) else None
        seen += 1
        if place is None or seen > 100:
            raise InvalidInputError(f"The schema in response_format refers to {part['$ref']!r}, which is not in it.")
        part = place
    return part if isinstance(part, Mapping) else {}


def _whole(part: Mapping[str, Any], root: Mapping[str, Any], depth: int = 0) -> Mapping[str, Any]:
    """The part as one with what it refers to and with all that its `allOf` asks for."""
    if depth > 100:
        raise _NotStrictError("a part that is made of itself")
    own = {name: value for name, value in part.items() if name not in ("$ref", "allOf")}
    others = [_resolve({"$ref": part["$ref"]}, root)] if "$ref" in part else []
    others += part.get("allOf", ())
    return functools.reduce(_joined, [*(_whole(_resolve(each, root), root, depth + 1) for each in others), own])


def _joined(one: Mapping[str, Any], other: Mapping[str, Any]) -> Mapping[str, Any]:
    """What asks for both."""
    joined = {**one, **other}
    for name in set(one) & set(other) - _NOTES:
        if name == "required":
            joined[name] = list(dict.fromkeys([*one[name], *other[name]]))
        elif name == "properties":
            joined[name] = {**one[name], **other[name]}
            if any(one[name][each] != other[name][each] for each in set(one[name]) & set(other[name])):
                raise _NotStrictError("allOf with two minds about a field")
        elif one[name] != other[name]:
            raise _NotStrictError(f"allOf with two minds about {name}")
    return joined


def _whole_or_itself(part: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    found = _resolve(part, root)
    try:
        return _whole(part, root) if isinstance(part, Mapping) else found
    except _NotStrictError:
        return found


class _Fillers:
    """The nulls that stand in a schema's answers for nothing."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        # By identity, each part with its whole: to put one together takes longer than all else that is done to a row.
        self._wholes: dict[int, tuple[Any, Mapping[str, Any]]] = {}

    def left_out_of(self, value: Any, part: Any) -> Any:
        whole = self._whole(part)
        if isinstance(value, list):
            first, rest = _places(next((each for each in self._variants(whole) if "array" in _types(each)), whole))
            parts = (first[place] if place < len(first) else rest for place in range(len(value)))
            return [self.left_out_of(each, of) for each, of in zip(value, parts, strict=True)]
        if not isinstance(value, dict):
            return value
        of = next((each for each in self._variants(whole) if set(value) <= set(each.get("properties", ()))), {})
        fields, required = of.get("properties", {}), of.get("required", ())
        return {
            name: self.left_out_of(each, fields.get(name))
            for name, each in value.items()
            if each is not None or name in required or name not in fields or _takes_null(fields[name], self._root)
        }

    def _whole(self, part: Any) -> Mapping[str, Any]:
        found = self._wholes.get(id(part))
        if found is None:
            found = self._wholes[id(part)] = (part, _whole_or_itself(part, self._root))
        return found[1]

    def _variants(self, whole: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        yield whole
        for name in ("anyOf", "oneOf"):
            for each in whole.get(name, ()):
                yield from self._variants(self._whole(each))
