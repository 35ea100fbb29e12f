"""Turn labelled rows into few-shot messages, and find rows of the frame that are among them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from parallel_openai._frames.columns.table import find_column, labels_of, rows_of
from parallel_openai._frames.request_builder import Prompt, RequestBuilder
from parallel_openai._labels.question import Question
from parallel_openai._records import APIRequest
from parallel_openai._requests.schemas.label_schema import REASON_COLUMN, write_answer
from parallel_openai.errors import InvalidInputError


def example_messages(examples: Any, prompt: Prompt, question: Question) -> list[Mapping[str, Any]]:
    """Return a user message (the filled prompt) and an assistant message (the label) for each example."""
    if not isinstance(examples, pd.DataFrame) or examples.empty:
        raise InvalidInputError(
            f"examples must be a frame of rows with a column {question.column(question.fields[0])!r}, not "
            f"{examples!r:.80}."
        )
    columns = [find_column(examples, question.column(field), "examples") for field in question.fields]
    if question.explain:
        if REASON_COLUMN not in examples:
            raise InvalidInputError(
                f"With explain=True the examples need a column {REASON_COLUMN!r}; without one they would teach the "
                "model to give no reason."
            )
        columns.append(REASON_COLUMN)
    prompts = RequestBuilder(prompt, None)
    prompts.check(examples)
    messages: list[Mapping[str, Any]] = []
    rows = zip(prompts.requests(examples), rows_of(examples, columns), labels_of(examples), strict=True)
    for request, values, index in rows:
        if not isinstance(request, APIRequest):
            raise InvalidInputError(f"The row {index!r} of examples cannot be used: {request}")
        answer = {"role": "assistant", "content": _answer(question, values, index)}
        messages += [*request.request_json["messages"], answer]
    return messages


def keys_of_examples(df: pd.DataFrame, examples: pd.DataFrame, prompt: Prompt, builder: RequestBuilder) -> list[str]:
    """Return the request keys of rows whose prompt is also an example's, and warn of them."""
    prompts = RequestBuilder(prompt, None)
    known = {request.key for request in prompts.requests(examples) if isinstance(request, APIRequest)}
    same = [isinstance(request, APIRequest) and request.key in known for request in prompts.requests(df)]
    if not any(same):
        return []
    warnings.warn(
        f"{sum(same):,} of the {len(df):,} rows have the same prompt as an example, whose label the model sees. They "
        "are sent anyway; evaluate and compare leave them out. Choose other rows as examples, or drop these: "
        "df.drop(examples.index).",
        stacklevel=4,
    )
    requests = builder.requests(df[np.array(same, dtype=bool)])
    return list(dict.fromkeys(request.key for request in requests if isinstance(request, APIRequest)))


def _answer(question: Question, values: tuple[Any, ...], index: Any) -> str:
    reason = values[-1] if question.explain else None
    if any(value is None for value in values):
        raise InvalidInputError(f"The row {index!r} of examples has no label; leave the row out.")
    by_name = {}
    for field, value in zip(question.fields, values, strict=False):
        if field.kind == "several" and (isinstance(value, str) or not isinstance(value, Iterable)):
            raise InvalidInputError(f"The row {index!r} of examples has {value!r}, not a list of labels.")
        by_name[field.name] = value
    try:
        return write_answer(question.fields, by_name, reason)
    except ValueError as error:
        raise InvalidInputError(f"The row {index!r} of examples has {by_name}, which {error}.") from None
