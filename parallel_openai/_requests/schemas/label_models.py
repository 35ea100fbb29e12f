"""Label fields from a pydantic model, a dataclass or a TypedDict."""

from __future__ import annotations

import dataclasses
import enum
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from parallel_openai._requests.schemas.label_schema import LabelField, check_labels, check_scale
from parallel_openai._requests.schemas.structured_outputs import has_fields, hints_of
from parallel_openai.errors import InvalidInputError

_MAY_BE = (
    "A field may be a Literal[...], an Enum, a bool, a list of one of these, a whole number with bounds "
    "(Annotated[int, Field(ge=1, le=5)]) or a str. For answers of any other "
    "shape there is process_dataframe with a response_format."
)


def is_label_model(labels: Any) -> bool:
    """Whether `labels` is a class with fields.

    >>> is_label_model(["a", "b"]), is_label_model(enum.Enum("Tone", "GOOD BAD"))
    (False, False)
    """
    return has_fields(labels) and not issubclass(labels, enum.Enum)


def label_fields(model: type) -> list[LabelField]:
    """The fields of a class in order.

    >>> @dataclasses.dataclass
    ... class Mail:
    ...     topic: Literal["order", "other"]
    ...     urgent: bool
    >>> [(field.name, field.kind, field.texts) for field in label_fields(Mail)]
    [('topic', 'one', ['order', 'other']), ('urgent', 'one', ['true', 'false'])]
    """
    fields = [_field(model, name, kind, extras) for name, (kind, extras) in _annotations(model).items()]
    if not fields:
        raise InvalidInputError(f"labels is the class {model.__name__}, which has no fields. {_MAY_BE}")
    return fields


def checker(model: type) -> Callable[[Mapping[str, Any]], None]:
    """Return a function that raises ValueError if the class, with its own validation, refuses the values."""

    def check(values: Mapping[str, Any]) -> None:
        try:
            model(**values)
        except ValueError as error:
            errors = getattr(error, "errors", None)  # pydantic's; shorter than its str()
            why = "; ".join(each["msg"] for each in errors()) if callable(errors) else str(error)
            raise ValueError(f"{model.__name__} does not take the answer: {why}") from None

    return check


def _annotations(model: type) -> dict[str, tuple[Any, list[Any]]]:
    pydantic_fields = getattr(model, "model_fields", None)
    if pydantic_fields is not None:
        for name, info in pydantic_fields.items():
            if info.validation_alias not in (None, name):
                raise InvalidInputError(
                    f"{model.__name__}.{name} has the alias {info.validation_alias!r}; leave it out."
                )
        return {name: (info.annotation, [info]) for name, info in pydantic_fields.items()}
    return hints_of(model)


def _field(model: type, name: str, kind: Any, extras: list[Any]) -> LabelField:
    about = next((extra.description for extra in extras if getattr(extra, "description", None)), None)
    if kind is str:
        return LabelField(name, "text", about=about)
    if kind is int:
        bounds = _bounds(extras)
        if bounds is not None:
            return dataclasses.replace(check_scale(bounds), name=name, about=about)
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is list and len(inner) == 1 and (choices := _choices(inner[0])):
        return LabelField(name, "several", choices, about=about)
    if choices := _choices(kind):
        return LabelField(name, "one", choices, about=about)
    raise InvalidInputError(f"{model.__name__}.{name} is no label: {kind!r}. {_MAY_BE}")


def _choices(kind: Any) -> dict[str, Any] | None:
    if kind is bool:
        return {"true": True, "false": False}
    if typing.get_origin(kind) is Literal:
        return check_labels(typing.get_args(kind))[0]
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return check_labels(kind)[0]
    return None


def _bounds(extras: Iterable[Any]) -> tuple[int, int] | None:
    marks = [mark for extra in extras for mark in (extra, *getattr(extra, "metadata", ()))]
    lowest = next((mark.ge for mark in marks if getattr(mark, "ge", None) is not None), None)
    highest = next((mark.le for mark in marks if getattr(mark, "le", None) is not None), None)
    return None if lowest is None or highest is None else (lowest, highest)
