"""Answers of a given shape: a class or a JSON schema, as the API is held to it, and its answers read back."""

from __future__ import annotations

import dataclasses
import logging
import re
import sys
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from parallel_openai._json import dumps, dumps_as_written, loads, loads_as_written, long_fractions_as_text
from parallel_openai._requests.schemas.strict_schema import StrictSchema, strict_schema
from parallel_openai.errors import InvalidInputError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

logger = logging.getLogger("parallel_openai")

Shape = type | Mapping[str, Any]
#: A `response_format` that says so is the API's own, and goes out as it is.
_OF_THE_API = frozenset({"text", "json_object", "json_schema"})
#: What may be written otherwise once it is read.
_LONG_NUMBER = re.compile(r"[0-9.]{16}")


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
    kind = _origin(shape)
    if has_fields(kind):
        return _of_class(shape, kind.__name__)
    raise InvalidInputError(
        "response_format must be a pydantic model, a dataclass, a TypedDict, a JSON schema or what the API documents, "
        f"such as {{'type': 'json_object'}}, not {shape!r:.200}."
    )


def has_fields(kind: Any) -> bool:
    """Whether it is a class with fields to fill in: a pydantic model, a dataclass or a TypedDict, whoever made it.

    >>> has_fields(dict), has_fields(typing.TypedDict("Point", {"x": int}))
    (False, True)
    """
    from typing_extensions import is_typeddict

    return isinstance(kind, type) and (
        hasattr(kind, "model_fields") or dataclasses.is_dataclass(kind) or is_typeddict(kind)
    )


def hints_of(kind: type) -> dict[str, tuple[Any, list[Any]]]:
    """Each field's type, and what is said beside it, without a TypedDict's own marks such as NotRequired.

    >>> hints_of(typing.TypedDict("Point", {"x": typing.Annotated[int, "east"]}))
    {'x': (<class 'int'>, ['east'])}
    """
    import typing_extensions as types

    wrappers: tuple[Any, ...] = (typing.Annotated, types.Required, types.NotRequired, types.ReadOnly)
    found: dict[str, tuple[Any, list[Any]]] = {}
    for name, hint in types.get_type_hints(kind, include_extras=True).items():
        beside: list[Any] = []
        while typing.get_origin(hint) in wrappers:
            hint, *more = typing.get_args(hint)
            beside += more
        found[name] = (hint, beside)
    return found


def _origin(shape: Any) -> Any:
    """The class in `Annotated[...]`, or the one that a generic was made of."""
    while (origin := typing.get_origin(shape)) is not None:
        shape = typing.get_args(shape)[0] if origin is typing.Annotated else origin
    return shape


def _of_class(shape: Any, name: str) -> Structure:
    from pydantic import PydanticUserError, ValidationError

    adapter = adapter_of(shape, "response_format")
    try:
        schema, by_names = (_schema(adapter, by_alias=by_alias) for by_alias in (True, False))
    except PydanticUserError as error:
        raise InvalidInputError(f"response_format={name} cannot be told as JSON: {error.message}") from None

    has_decimals = "'type': 'decimal'" in str(adapter.core_schema)

    def check(text: str) -> dict[str, Any]:
        text = long_fractions_as_text(text) if has_decimals else text
        try:  # as JSON, so that a text becomes a date, a list a tuple, and no whole number is rounded
            value = adapter.validate_json(text, by_alias=True, by_name=True)
        except ValidationError as error:
            raise ValueError("; ".join(f"{_place(each['loc'])}{each['msg']}" for each in error.errors()[:5])) from None
        found = adapter.dump_python(value, by_alias=False, warnings=False)
        if isinstance(value, dict):
            return dict(found)
        # What a class leaves out of its dumps was still asked for.
        return {**{each: getattr(value, each, None) for each in fields}, **found}

    structure = _structure(schema, name, check)
    fields = structure.fields if schema == by_names else strict_schema(by_names).fields()
    return dataclasses.replace(structure, fields=fields)


def adapter_of(shape: Any, argument: str) -> TypeAdapter[Any]:
    """What checks values against a class.

    Raises:
        InvalidInputError: a field of it is nothing that pydantic knows.
    """
    from pydantic import TypeAdapter

    try:
        with warnings.catch_warnings():
            # That nobody is kept from changing an answer's dict is no news here.
            warnings.filterwarnings("ignore", message=".*ReadOnly", category=UserWarning)
            return TypeAdapter(_known_to_pydantic(shape))
    except Exception as error:  # what a class is made of may raise anything
        name, why = getattr(shape, "__name__", shape), getattr(error, "message", error)
        raise InvalidInputError(f"{argument}={name} cannot be checked by pydantic: {why}") from None


def _schema(adapter: TypeAdapter[Any], *, by_alias: bool) -> dict[str, Any]:
    """The schema of what the class takes; a field that is read from within another is asked for by its own name."""
    from pydantic.json_schema import GenerateJsonSchema

    class Asked(GenerateJsonSchema):
        def generate(self, schema: Any, mode: Any = "validation") -> Any:
            return super().generate(_without_paths(schema), mode)

    made: dict[str, Any] = adapter.json_schema(by_alias=by_alias, schema_generator=Asked)
    return made


def _without_paths(core: Any) -> Any:
    """Pydantic's own schema with one alias a field, a name: the first, where there are several."""
    if isinstance(core, list):
        return [_without_paths(each) for each in core]
    if not isinstance(core, dict):
        return core
    made = {name: _without_paths(value) for name, value in core.items()}
    aliases = made.get("validation_alias")
    if isinstance(aliases, list):
        paths = [aliases] if isinstance(aliases[0], str) else aliases
        made["validation_alias"] = next((path[0] for path in paths if len(path) == 1), None)
        if made["validation_alias"] is None:
            del made["validation_alias"]
    return made


def _known_to_pydantic(shape: Any) -> Any:
    """Before Python 3.12, pydantic does not know typing's own TypedDict."""
    if not typing.is_typeddict(shape) or sys.version_info >= (3, 12) or type(shape).__module__ != "typing":
        return shape
    import typing_extensions

    hints = typing_extensions.get_type_hints(shape, include_extras=True)
    needed = vars(shape)["__required_keys__"]
    wrappers: dict[bool, Any] = {True: typing_extensions.Required, False: typing_extensions.NotRequired}
    # What an annotation says goes first: where it is a text, Python itself has not seen it.
    fields = {name: hint if _is_marked(hint) else wrappers[name in needed][hint] for name, hint in hints.items()}
    return typing_extensions.TypedDict(shape.__name__, fields)  # type: ignore[operator]


def _is_marked(hint: Any) -> bool:
    """Whether a field of a TypedDict says itself if it is required."""
    origin = getattr(typing.get_origin(hint), "_name", "")
    return origin in ("Required", "NotRequired") or (origin == "ReadOnly" and _is_marked(typing.get_args(hint)[0]))


def _structure(schema: dict[str, Any], name: str, check: Callable[[str], dict[str, Any]]) -> Structure:
    strict = strict_schema(schema)
    if strict.note:
        logger.log(logging.INFO if strict.is_strict else logging.WARNING, strict.note)
    told = {"name": re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64], "schema": strict.schema, "strict": strict.is_strict}
    return Structure(
        {"type": "json_schema", "json_schema": told}, strict.fields(), lambda text: _read(text, strict, check)
    )


def _read(text: str, strict: StrictSchema, check: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    try:
        answer = loads(text)
    except ValueError:
        raise ValueError(f"The answer is not JSON: {text[:200]!r}") from None
    if not isinstance(answer, dict):
        raise ValueError(f"The answer is no JSON object: {text[:200]!r}")
    try:
        return check(_without_fillers(text, answer, strict))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The answer has another shape: {error} in {text[:200]!r}") from None


def _without_fillers(text: str, answer: dict[str, Any], strict: StrictSchema) -> str:
    """The answer's text without the nulls that strict mode made the model say; its numbers as they are written."""
    if "null" not in text or (kept := strict.without_fillers(answer)) == answer:
        return text
    if _LONG_NUMBER.search(text) is None:
        return dumps(kept).decode()
    return dumps_as_written(strict.without_fillers(loads_as_written(text)))


def _schema_reader(schema: Mapping[str, Any]) -> Callable[[str], dict[str, Any]]:
    """Checks an answer against a JSON schema."""
    import jsonschema
    from jsonschema_specifications import REGISTRY

    try:
        kind = jsonschema.validators.validator_for(schema)
        kind.check_schema(schema, format_checker=jsonschema.FormatChecker(["regex"]))  # or each row would find it out
    except jsonschema.SchemaError as error:
        raise InvalidInputError(f"response_format is no valid JSON schema: {error.message}") from None
    for reference in _references(schema):
        if not reference.startswith("#"):
            _check_reference(reference, schema)
    # Which knows the drafts of JSON schema, and fetches nothing.
    validator = kind(schema, format_checker=kind.FORMAT_CHECKER, registry=REGISTRY)

    def check(text: str) -> dict[str, Any]:
        answer: dict[str, Any] = loads(text)
        errors = [f"{_place(each.absolute_path)}{each.message}" for each in validator.iter_errors(answer)]
        if errors:
            raise ValueError("; ".join(errors[:5]))
        return answer

    return check


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, Mapping):
        yield from (part[name] for name in ("$ref", "$dynamicRef", "$recursiveRef") if isinstance(part.get(name), str))
        part = list(part.values())
    if isinstance(part, list):
        for each in part:
            yield from _references(each)


def _check_reference(reference: str, schema: Mapping[str, Any]) -> None:
    """Whoever follows a reference to another place fetches what stands there.

    Raises:
        InvalidInputError: it leads out of the schema.
    """
    from jsonschema_specifications import REGISTRY
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    resolver = REGISTRY.resolver_with_root(DRAFT202012.create_resource(schema))
    try:
        resolver.lookup(reference)
    except Unresolvable:
        raise InvalidInputError(
            f"The schema in response_format refers to {reference!r}, which is not in it, and nothing is fetched from "
            "elsewhere. Put it under $defs."
        ) from None


def _place(path: Iterable[Any]) -> str:
    """Where in the answer, to stand before what is wrong there."""
    place = ".".join(map(str, path))
    return f"{place}: " if place else ""
