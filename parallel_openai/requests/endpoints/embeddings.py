"""Embeddings: a text in, a vector out; many texts travel in one request."""

from __future__ import annotations

import binascii
import sys
from array import array
from collections.abc import Mapping
from typing import Any

from parallel_openai.requests.endpoints.base import Answer, Endpoint, Packing, list_of, mappings
from parallel_openai.requests.endpoints.usage import model_of
from parallel_openai.requests.prompts import BadPromptError, check_text, check_whole, is_token_numbers, kind_of


class Embeddings(Endpoint):
    """`/embeddings`. An answer's value is the vector, as an array of 32-bit floats."""

    name = "embeddings"
    path = "embeddings"
    own = frozenset({"input"})
    gives_text = False
    packing = Packing(inputs=2048, tokens=300_000, tokens_each=8192)

    def ask(self, prompt: Any, system: Any) -> Mapping[str, Any]:
        prompt = list_of(prompt)
        if isinstance(prompt, Mapping):
            return check_whole(prompt)
        if isinstance(prompt, str):
            return {"input": check_text(prompt)}
        if is_token_numbers(prompt):
            return {"input": list(prompt)}
        raise BadPromptError(
            "invalid_prompt",
            f"The prompt is a {kind_of(prompt)}; it must be a text, a list of token numbers or a body.",
        )

    def read_all(self, response: Mapping[str, Any]) -> list[Answer]:
        model = model_of(response)
        found = mappings(response.get("data"))
        answers = [_read(each.get("embedding"), model) for each in in_order(found)]
        return answers or [Answer(None, None, model, "empty", "The response has no vectors.")]


def in_order(found: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Each input's part of a response, in the order of the inputs: the API numbers them, and some servers do not."""
    if all(isinstance(each.get("index"), int) for each in found):
        return sorted(found, key=lambda each: int(each["index"]))
    return found


def _read(embedding: Any, model: str | None) -> Answer:
    vector = vector_of(embedding)
    if vector is None:
        return Answer(None, None, model, "malformed_response", f"The vector is none: {embedding!r:.100}")
    return Answer(None, None, model, value=vector)


def vector_of(embedding: Any) -> array[float] | None:
    """The vector, of a list of numbers or of base64 over little-endian 32-bit floats; None where it is neither.

    >>> vector_of("AACAPwAAAMA=").tolist(), vector_of([1, -2]).tolist()
    ([1.0, -2.0], [1.0, -2.0])
    """
    vector = array("f")
    try:
        if isinstance(embedding, str):
            vector.frombytes(binascii.a2b_base64(embedding))
            if sys.byteorder == "big":  # pragma: no cover - no such machine in the tests
                vector.byteswap()
        elif isinstance(embedding, list):
            vector.extend(embedding)
    except (ValueError, TypeError, OverflowError):
        return None
    return vector if vector else None
