"""Structured outputs: the `response_format` for a class or a JSON schema, and the reading of its answers."""

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
from parallel_openai._log import log
from parallel_openai._requests.schemas.strict_schema import StrictSchema, strict_schema
from parallel_openai.errors import InvalidInputError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Shape = type | Mapping[str, Any]
#: The types of the API's own `response_format`, which is sent unchanged.
_API_FORMATS = frozenset({"text", "json_object", "json_schema"})
#: Numbers that may be written differently after parsing.
_LONG_NUMBER = re.compile(r"[0-9.]{16}")


@dataclass(frozen=True)
class Structure:
    """The structure of an answer."""

    response_format: Mapping[str, Any]  # the chat API's parameter
    fields: Mapping[str, Mapping[str, Any]]  # the JSON schema of each field, in order
    # Parses an answer's text into the fields' values; raises ValueError if it does not fit.
    read: Callable[[str], dict[str, Any]]


def structure_of(shape: Any) -> Structure | None:
    """The structure that a `response_format=` describes; None if it is the API's own, which is sent unchanged.

    Args:
        shape: a pydantic model, a dataclass, a TypedDict, or a JSON schema of an object.

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
        if shape.get("type") in _API_FORMATS:
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
    """Whether `kind` is a pydantic model, a dataclass or a TypedDict (of typing or typing_extensions).

    >>> has_fields(dict), has_fields(typing.TypedDict("Point", {"x": int}))
    (False, True)
    """
    from typing_extensions import is_typeddict

    return isinstance(kind, type) and (
        hasattr(kind, "model_fields") or dataclasses.is_dataclass(kind) or is_typeddict(kind)
    )


def hints_of(kind: type) -> dict[str, tuple[Any, list[Any]]]:
    """Each field's type and its annotations, without a TypedDict's qualifiers such as NotRequired.

    >>> hints_of(typing.TypedDict("Point", {"x": typing.Annotated[int, "east"]}))
    {'x': (<class 'int'>, ['east'])}
    """
    import typing_extensions as types

    wrappers: tuple[Any, ...] = (typing.Annotated, types.Required, types.NotRequired, types.ReadOnly)
    found: dict[str, tuple[Any, list[Any]]] = {}
    for name, hint in types.get_type_hints(kind, include_extras=True).items():
        annotations: list[Any] = []
        while typing.get_origin(hint) in wrappers:
            hint, *more = typing.get_args(hint)
            annotations += more
        found[name] = (hint, annotations)
    return found


def _origin(shape: Any) -> Any:
    """The class in `Annotated[...]`, or of a parametrised generic."""
    while (origin := typing.get_origin(shape)) is not None:
        shape = typing.get_args(shape)[0] if origin is typing.Annotated else origin
    return shape


def _of_class(shape: Any, name: str) -> Structure:
    from pydantic import PydanticUserError, ValidationError

    adapter = adapter_of(shape, "response_format")
    try:
        schema, by_names = (_schema(adapter, by_alias=by_alias) for by_alias in (True, False))
    except PydanticUserError as error:
        raise InvalidInputError(f"response_format={name} has no JSON schema: {error.message}") from None

    has_decimals = "'type': 'decimal'" in str(adapter.core_schema)

    def check(text: str) -> dict[str, Any]:
        text = long_fractions_as_text(text) if has_decimals else text
        try:  # as JSON, so that strings become dates, lists tuples, and integers are not rounded
            value = adapter.validate_json(text, by_alias=True, by_name=True)
        except ValidationError as error:
            raise ValueError("; ".join(f"{_where(each['loc'])}{each['msg']}" for each in error.errors()[:5])) from None
        found = adapter.dump_python(value, by_alias=False, warnings=False)
        if isinstance(value, dict):
            return dict(found)
        # Fields that the class excludes from its dumps were requested too.
        return {**{each: getattr(value, each, None) for each in fields}, **found}

    structure = _structure(schema, name, check)
    fields = structure.fields if schema == by_names else strict_schema(by_names).fields()
    return dataclasses.replace(structure, fields=fields)


def adapter_of(shape: Any, argument: str) -> TypeAdapter[Any]:
    """Return pydantic's adapter for a class."""
    from pydantic import TypeAdapter

    try:
        with warnings.catch_warnings():
            # pydantic warns that ReadOnly is not enforced, which does not matter here.
            warnings.filterwarnings("ignore", message=".*ReadOnly", category=UserWarning)
            return TypeAdapter(_known_to_pydantic(shape))
    except Exception as error:  # a class's own code may raise anything
        name, why = getattr(shape, "__name__", shape), getattr(error, "message", error)
        raise InvalidInputError(f"{argument}={name} cannot be checked by pydantic: {why}") from None


def _schema(adapter: TypeAdapter[Any], *, by_alias: bool) -> dict[str, Any]:
    """The schema of the class's input; a field with an alias path is requested by its own name."""
    from pydantic.json_schema import GenerateJsonSchema

    class InputSchema(GenerateJsonSchema):
        def generate(self, schema: Any, mode: Any = "validation") -> Any:
            return super().generate(_without_paths(schema), mode)

    made: dict[str, Any] = adapter.json_schema(by_alias=by_alias, schema_generator=InputSchema)
    return made


def _without_paths(core: Any) -> Any:
    """pydantic's core schema with at most one alias per field, the first that is a plain name."""
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
    """Convert typing's TypedDict, which pydantic does not support before Python 3.12."""
    if not typing.is_typeddict(shape) or sys.version_info >= (3, 12) or type(shape).__module__ != "typing":
        return shape
    import typing_extensions

    hints = typing_extensions.get_type_hints(shape, include_extras=True)
    needed = vars(shape)["__required_keys__"]
    wrappers: dict[bool, Any] = {True: typing_extensions.Required, False: typing_extensions.NotRequired}
    # Qualifiers in the hints take precedence: Python does not see them in string annotations.
    fields = {name: hint if _is_marked(hint) else wrappers[name in needed][hint] for name, hint in hints.items()}
    return typing_extensions.TypedDict(shape.__name__, fields)  # type: ignore[operator]


def _is_marked(hint: Any) -> bool:
    """Whether a TypedDict field has a Required or NotRequired qualifier."""
    origin = getattr(typing.get_origin(hint), "_name", "")
    return origin in ("Required", "NotRequired") or (origin == "ReadOnly" and _is_marked(typing.get_args(hint)[0]))


def _structure(schema: dict[str, Any], name: str, check: Callable[[str], dict[str, Any]]) -> Structure:
    strict = strict_schema(schema)
    if strict.note:
        log.log(logging.INFO if strict.is_strict else logging.WARNING, strict.note)
    api_name = re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64]
    json_schema = {"name": api_name, "schema": strict.schema, "strict": strict.is_strict}
    response_format = {"type": "json_schema", "json_schema": json_schema}
    return Structure(response_format, strict.fields(), lambda text: _read(text, strict, check))


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
    """The answer's text without nulls for optional fields, with its numbers as they were written."""
    if "null" not in text or (kept := strict.without_fillers(answer)) == answer:
        return text
    if _LONG_NUMBER.search(text) is None:
        return dumps(kept).decode()
    return dumps_as_written(strict.without_fillers(loads_as_written(text)))


def _schema_reader(schema: Mapping[str, Any]) -> Callable[[str], dict[str, Any]]:
    import jsonschema
    from jsonschema_specifications import REGISTRY

    try:
        kind = jsonschema.validators.validator_for(schema)
        kind.check_schema(schema, format_checker=jsonschema.FormatChecker(["regex"]))  # fail now instead of in each row
    except jsonschema.SchemaError as error:
        raise InvalidInputError(f"response_format is no valid JSON schema: {error.message}") from None
    for reference in _references(schema):
        if not reference.startswith("#"):
            _check_reference(reference, schema)
    # REGISTRY holds JSON schema's own drafts, and fetches nothing.
    validator = kind(schema, format_checker=kind.FORMAT_CHECKER, registry=REGISTRY)

    def check(text: str) -> dict[str, Any]:
        answer: dict[str, Any] = loads(text)
        errors = [f"{_where(each.absolute_path)}{each.message}" for each in validator.iter_errors(answer)]
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
    """Refuse references out of the schema, which would be fetched."""
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


def _where(path: Iterable[Any]) -> str:
    joined = ".".join(map(str, path))
    return f"{joined}: " if joined else ""
