"""The API's published description, as the official SDK carries it: its types are generated from OpenAPI."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, get_type_hints

from openai.types import CompletionCreateParams, EmbeddingCreateParams, ModerationCreateParams
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming as ChatParams
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming as ResponseParams
from pydantic import TypeAdapter

PARAMS: Mapping[str, Any] = {
    "chat.completions": ChatParams,
    "responses": ResponseParams,
    "embeddings": EmbeddingCreateParams,
    "completions": CompletionCreateParams.__args__[0],  # type: ignore[attr-defined]
    "moderations": ModerationCreateParams,
}


@cache
def _adapter(endpoint: str) -> TypeAdapter[Any]:
    return TypeAdapter(PARAMS[endpoint])


def check_body(endpoint: str, body: Mapping[str, Any]) -> None:
    """See that a body is one as the description has it.

    Raises:
        AssertionError: it has a field that there is not.
        pydantic.ValidationError: a field, however deep, is of the wrong kind.
    """
    unknown = body.keys() - get_type_hints(PARAMS[endpoint]).keys()
    assert not unknown, f"{endpoint} has no {unknown}"
    _exhaust(_adapter(endpoint).validate_python(body))


def _exhaust(value: Any) -> None:
    """Pydantic looks into an `Iterable` only when it is read."""
    if isinstance(value, Mapping):
        for each in value.values():
            _exhaust(each)
    elif isinstance(value, (list, tuple, Iterator)) or type(value).__name__ == "ValidatorIterator":
        for each in value:
            _exhaust(each)
