"""Answers of a given shape as columns: one for each field."""

from __future__ import annotations

import datetime
import enum
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import pandas as pd

from parallel_openai._frames.columns.answer_columns import (
    COLUMNS,
    Reader,
    object_column,
    text_column,
    value_column,
)
from parallel_openai._frames.request_builder import WHATEVER_IS_RAISED, last_line
from parallel_openai._requests.endpoints import Answer, Endpoint
from parallel_openai._requests.reasoning import part_thoughts
from parallel_openai._requests.schemas.structured_outputs import Structure
from parallel_openai.errors import InvalidInputError

#: The column of what a model thought, and the part of an answer that it is.
REASONING = "reasoning"
_DTYPES = {"integer": "Int64", "number": "Float64", "boolean": "boolean"}


def with_thoughts(answer: Answer) -> Answer:
    """An answer whose thoughts stood at the head of its text, with both apart."""
    if answer.text is None:
        return answer
    thoughts, text = part_thoughts(answer.text)
    return answer if thoughts is None else answer._replace(text=text, reasoning=answer.reasoning or thoughts)


def structured_reader(
    endpoint: Endpoint, structure: Structure, *, as_lists: bool = False, keep_reasoning: bool = False
) -> Reader:
    """Reads answers into the structure's fields, each a column; several choices (`n`) or samples give lists.

    With `as_lists`, a single choice gives one too; with `keep_reasoning` there is a column of what the model thought.

    Raises:
        InvalidInputError: a field is called like a column that every run adds.
    """
    for name in structure.fields:
        if name in COLUMNS:
            raise InvalidInputError(
                f"response_format has a field {name!r}, and each run adds a column of that name; call it otherwise."
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
        if len(readings) == 1 and not as_lists:
            return readings[0]
        wrong = next((each for each in readings if each.error_code is not None), readings[0])
        return wrong._replace(value=[each.value for each in readings])

    def columns(values: Sequence[Any], _: Sequence[Any]) -> dict[str, Any]:
        return {name: _column(name, values, schema) for name, schema in schemas.items()}

    schemas = {**structure.fields, **({REASONING: {"type": "string"}} if keep_reasoning else {})}
    return Reader(tuple(schemas), read, columns, {"fields": list(structure.fields), "columns": list(schemas)})


def _reading(answer: Answer, structure: Structure) -> Answer:
    if answer.error_code is not None or answer.text is None:
        return answer.unusable(answer.error_code or "empty", answer.error or "There is no answer.")
    try:
        value = structure.read(answer.text)
    except ValueError as error:
        return answer.unusable("schema_mismatch", str(error))
    except WHATEVER_IS_RAISED as error:  # by a validator of the class, which no other answer would mend
        return answer.unusable("schema_mismatch", f"The class raised {last_line(error)}", repairable=False)
    return answer._replace(value=value)


def _with_reasoning(reading: Answer) -> Answer:
    return reading if reading.value is None else reading._replace(value={**reading.value, REASONING: reading.reasoning})


def _column(name: str, values: Sequence[Any], schema: Mapping[str, Any]) -> Any:
    if any(isinstance(value, list) for value in values):  # of several samples or choices
        return object_column([_of_each(name, value) for value in values])
    cells = [None if value is None else value.get(name) for value in values]
    kinds = _kinds(schema)
    if "enum" in schema:
        return _chosen(cells, schema["enum"])
    if kinds == {"string"}:
        return _moments(cells) if "format" in schema else _texts(cells)
    if kinds == {"integer", "number"}:
        kinds = {"number"}
    return value_column(cells, _DTYPES.get(next(iter(kinds))) if len(kinds) == 1 else None)


def _of_each(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_of_each(name, each) for each in value]
    return None if value is None else value.get(name)


def _kinds(schema: Mapping[str, Any]) -> set[str]:
    """The JSON types that a field may have, but for null."""
    told = schema.get("type")
    kinds = {told} if isinstance(told, str) else set(told or ())
    for each in schema.get("anyOf", ()):
        kinds |= {each.get("type", "object")} if isinstance(each.get("type", ""), str) else {"object"}
    return kinds - {"null"}


def _chosen(cells: Sequence[Any], told: Sequence[Any]) -> Any:
    """A category for each choice; what a class has made something else of stays as it is."""
    member = next((cell for cell in cells if isinstance(cell, enum.Enum)), None)
    choices = list(type(member)) if member is not None else [each for each in told if each is not None]
    try:
        # What a class has made something else of is none of the choices.
        return pd.Categorical(cells, categories=choices) if {None, *choices}.issuperset(cells) else value_column(cells)
    except (TypeError, ValueError):  # lists among them, or 1 and true, which are the same for pandas
        return object_column(cells)


def _texts(cells: Sequence[Any]) -> Any:
    """Texts, and the paths and addresses that a class made of them; what else it made stays as it is."""
    plain = [str(cell) if isinstance(cell, PurePath) or hasattr(cell, "unicode_string") else cell for cell in cells]
    are_texts = all(cell is None or isinstance(cell, str) for cell in plain)
    return text_column(plain) if are_texts else value_column(cells)


def _moments(cells: Sequence[Any]) -> Any:
    """Dates and times as pandas has them; what is none stays as it is."""
    kinds = {type(cell) for cell in cells if cell is not None}
    if kinds == {datetime.datetime}:
        try:
            return pd.to_datetime(pd.Series(cells, dtype=object)).array
        except (ValueError, TypeError):  # some with a zone and some without, or beyond pandas' years
            return object_column(cells)
    return value_column(cells)
