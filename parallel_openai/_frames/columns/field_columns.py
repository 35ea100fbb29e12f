"""Read structured answers into one column per field."""

from __future__ import annotations

import datetime
import enum
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import pandas as pd

from parallel_openai._frames.columns.answer_columns import (
    COLUMNS,
    Reader,
    object_column,
    of_choices,
    text_column,
    value_column,
)
from parallel_openai._frames.request_builder import WHATEVER_IS_RAISED, last_line
from parallel_openai._requests.endpoints import Answer, Endpoint
from parallel_openai._requests.reasoning import part_thoughts
from parallel_openai._requests.schemas.structured_outputs import Structure
from parallel_openai.errors import InvalidInputError

#: The column with the model's reasoning.
REASONING = "reasoning"
_DTYPES = {"integer": "Int64", "number": "Float64", "boolean": "boolean"}


def with_thoughts(answer: Answer) -> Answer:
    """The answer with reasoning at the head of its text moved to `reasoning`."""
    if answer.text is None:
        return answer
    thoughts, text = part_thoughts(answer.text)
    return (
        answer if thoughts is None else answer._replace(text=text, value=text, reasoning=answer.reasoning or thoughts)
    )


def structured_reader(
    endpoint: Endpoint, structure: Structure, *, as_lists: bool = False, keep_reasoning: bool = False
) -> Reader:
    """Return a reader with a column for each of the structure's fields; several choices (`n`) or samples make lists.

    With `as_lists` a single choice makes a list too; with `keep_reasoning` there is a column of the model's reasoning.
    """
    for name in structure.fields:
        if name in COLUMNS:
            raise InvalidInputError(
                f"response_format has a field {name!r}, and each run adds a column of that name; rename the field."
            )
    if keep_reasoning and REASONING in structure.fields:
        raise InvalidInputError(
            "response_format has a field 'reasoning', and keep_reasoning= adds a column of that name."
        )

    def read(response: Mapping[str, Any]) -> Answer:
        answers = [with_thoughts(answer) for answer in endpoint.read_all(response)]
        readings = [_reading(answer, structure) for answer in answers]
        if keep_reasoning:
            readings = list(map(_with_reasoning, readings))
        return readings[0] if len(readings) == 1 and not as_lists else of_choices(readings)

    def columns(values: Sequence[Any], _: Sequence[Any]) -> dict[str, Any]:
        return {name: _column(name, values, schema) for name, schema in schemas.items()}

    schemas = {**structure.fields, **({REASONING: {"type": "string"}} if keep_reasoning else {})}
    return Reader(tuple(schemas), read, columns, {"fields": list(structure.fields), "columns": list(schemas)})


def _reading(answer: Answer, structure: Structure) -> Answer:
    if answer.error_code is not None or answer.text is None:
        return answer.unusable(answer.error_code or "empty", answer.error or "There is no answer.")
    text = answer.text
    return read_by_class(answer, lambda: structure.read(text), "schema_mismatch")


def read_by_class(answer: Answer, read: Callable[[], Any], code: str) -> Answer:
    """The answer with the value that a class of the user's makes of it; unusable, with this code, if it refuses."""
    try:
        return answer._replace(value=read())
    except ValueError as error:
        return answer.unusable(code, str(error))
    except ArithmeticError as error:  # a number too large, say: it speaks of the answer too
        return answer.unusable(code, f"The class raised {last_line(error)}")
    except WHATEVER_IS_RAISED as error:  # a bug in it, which no other answer would fix: this one waits until it is
        return answer.unusable("parse_error", f"The class raised {last_line(error)}", repairable=False)


def _with_reasoning(reading: Answer) -> Answer:
    return reading if reading.value is None else reading._replace(value={**reading.value, REASONING: reading.reasoning})


def _column(name: str, values: Sequence[Any], schema: Mapping[str, Any]) -> Any:
    if any(isinstance(value, list) for value in values):  # several samples or choices
        return object_column([of_each(name, value) for value in values])
    cells = [None if value is None else value.get(name) for value in values]
    kinds = _kinds(schema)
    if "enum" in schema:
        return _chosen(cells, schema["enum"])
    if kinds == {"string"}:
        return _moments(cells) if "format" in schema else _texts(cells)
    if kinds == {"integer", "number"}:
        kinds = {"number"}
    return value_column(cells, _DTYPES.get(next(iter(kinds))) if len(kinds) == 1 else None)


def of_each(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [of_each(name, each) for each in value]
    return None if value is None else value.get(name)


def _kinds(schema: Mapping[str, Any]) -> set[str]:
    """The JSON types that a field may have, except null."""
    types = schema.get("type")
    kinds = {types} if isinstance(types, str) else set(types or ())
    for each in schema.get("anyOf", ()):
        kinds |= {each.get("type", "object")} if isinstance(each.get("type", ""), str) else {"object"}
    return kinds - {"null"}


def _chosen(cells: Sequence[Any], allowed: Sequence[Any]) -> Any:
    """A categorical of the allowed values, or of the Enum's members; unless the class converted them to others."""
    member = next((cell for cell in cells if isinstance(cell, enum.Enum)), None)
    choices = list(type(member)) if member is not None else [each for each in allowed if each is not None]
    try:
        return pd.Categorical(cells, categories=choices) if {None, *choices}.issuperset(cells) else value_column(cells)
    except (TypeError, ValueError):  # lists among them, or 1 and true, which pandas does not distinguish
        return object_column(cells)


def _texts(cells: Sequence[Any]) -> Any:
    """Strings, including paths and URLs of the class as strings; other objects stay unchanged."""
    plain = [str(cell) if isinstance(cell, PurePath) or hasattr(cell, "unicode_string") else cell for cell in cells]
    are_texts = all(cell is None or isinstance(cell, str) for cell in plain)
    return text_column(plain) if are_texts else value_column(cells)


def _moments(cells: Sequence[Any]) -> Any:
    """Datetimes as a pandas datetime column; other values stay unchanged."""
    kinds = {type(cell) for cell in cells if cell is not None}
    if kinds == {datetime.datetime}:
        try:
            return pd.to_datetime(pd.Series(cells, dtype=object)).array
        except (ValueError, TypeError):  # with and without a time zone, or out of pandas' range
            return object_column(cells)
    return value_column(cells)
