"""Answers of a given shape: a class or a JSON schema, as the API is held to it, and its answers read back."""

from __future__ import annotations

import dataclasses
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from parallel_openai.errors import InvalidInputError
from parallel_openai.jsonl import dumps, loads
from parallel_openai.requests.strict_schema import StrictSchema, strict_schema

Shape = type | Mapping[str, Any]
#: A `response_format` that says so is the API's own, and goes out as it is.
_OF_THE_API = frozenset({"text", "json_object", "json_schema"})


@dataclass(frozen=True)
class Structure:
    """The shape of an answer.

    Attributes:
        response_format: what the chat API is told.
        fields: the answer's fields by their names, each with its JSON schema, in order.
        read: the fields' values in an answer's text; raises ValueError where it has another shape.
    """

    response_format: Mapping[str, Any]
    fields: Mapping[str, Mapping[str, Any]]
    read: Callable[[str], dict[str, Any]]


def structure_of(shape: Any) -> Structure | None:
    """The structure that a `response_format=` describes; None where it is the API's own, which goes out as it is.

    Args:
        shape: a pydantic model, a dataclass, a TypedDict, or a JSON schema of an object.

    Raises:
        InvalidInputError: it is none of these, or what it describes is no object with fields.

    >>> @dataclasses.dataclass
    ... class Parcel:
    ...     arrived: bool
    ...     days: int
    >>> structure = structure_of(Parcel)
    >>> structure.response_format["json_schema"]["schema"]["required"]
    ['arrived', 'days']
    >>> structure.read('{"arrived": true, "days": 3}')
    {'arrived': True, 'days': 3}
    """
    if isinstance(shape, Mapping):
        if shape.get("type") in _OF_THE_API:
            return None
        schema, name = dict(shape), str(shape.get("title") or "answer")
        return _structure(schema, name, _schema_reader(schema))
    is_class = isinstance(shape, type) and not isinstance(shape, types.GenericAlias)
    if is_class and (hasattr(shape, "model_fields") or dataclasses.is_dataclass(shape) or typing.is_typeddict(shape)):
        return _of_class(shape)
    raise InvalidInputError(
        "response_format must be a pydantic model, a dataclass, a TypedDict, a JSON schema or what the API documents, "
        f"such as {{'type': 'json_object'}}, not {shape!r:.200}."
    )


def _of_class(shape: type) -> Structure:
    from pydantic import PydanticUserError, TypeAdapter, ValidationError

    try:
        adapter: TypeAdapter[Any] = TypeAdapter(_known_to_pydantic(shape))
        schema = adapter.json_schema()
    except PydanticUserError as error:
        raise InvalidInputError(f"response_format={shape.__name__} cannot be told as JSON: {error.message}") from None

    def check(answer: dict[str, Any]) -> dict[str, Any]:
        try:
            value = adapter.validate_json(dumps(answer))  # as JSON, so that a text becomes a date, a list a tuple
        except ValidationError as error:
            raise ValueError("; ".join(f"{_place(each['loc'])}{each['msg']}" for each in error.errors()[:5])) from None
        return dict(adapter.dump_python(value))

    return _structure(schema, shape.__name__, check)


def _known_to_pydantic(shape: type) -> type:
    """Before Python 3.12, pydantic does not know typing's own TypedDict."""
    if not typing.is_typeddict(shape) or sys.version_info >= (3, 12) or type(shape).__module__ != "typing":
        return shape
    import typing_extensions

    hints = typing_extensions.get_type_hints(shape, include_extras=True)
    needed = vars(shape)["__required_keys__"]
    wrappers = {True: typing_extensions.Required, False: typing_extensions.NotRequired}
    fields = {name: wrappers[name in needed][_bare(hint)] for name, hint in hints.items()}  # type: ignore[index,unused-ignore]
    made: type = typing_extensions.TypedDict(shape.__name__, fields)  # type: ignore[misc]
    return made


def _bare(hint: Any) -> Any:
    """The type inside Required[...] or NotRequired[...]."""
    origin = typing.get_origin(hint)
    return typing.get_args(hint)[0] if getattr(origin, "_name", "") in ("Required", "NotRequired") else hint


def _structure(schema: dict[str, Any], name: str, check: Callable[[dict[str, Any]], dict[str, Any]]) -> Structure:
    strict = strict_schema(schema)
    told = {"name": re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64], "schema": strict.schema, "strict": strict.is_strict}
    return Structure(
        {"type": "json_schema", "json_schema": told}, strict.fields(), lambda text: _read(text, strict, check)
    )


def _read(text: str, strict: StrictSchema, check: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    try:
        answer = loads(text)
    except ValueError:
        raise ValueError(f"The answer is not JSON: {text[:200]!r}") from None
    if not isinstance(answer, dict):
        raise ValueError(f"The answer is no JSON object: {text[:200]!r}")
    try:
        return check(strict.without_fillers(answer))
    except ValueError as error:
        raise ValueError(f"The answer has another shape: {error} in {text[:200]!r}") from None


def _schema_reader(schema: Mapping[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Checks an answer against a JSON schema."""
    import jsonschema

    try:
        kind = jsonschema.validators.validator_for(schema)
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise InvalidInputError(f"response_format is no valid JSON schema: {error.message}") from None
    validator = kind(schema)

    def check(answer: dict[str, Any]) -> dict[str, Any]:
        errors = [f"{_place(each.absolute_path)}{each.message}" for each in validator.iter_errors(answer)]
        if errors:
            raise ValueError("; ".join(errors[:5]))
        return answer

    return check


def _place(path: Iterable[Any]) -> str:
    """Where in the answer, to stand before what is wrong there."""
    place = ".".join(map(str, path))
    return f"{place}: " if place else ""
