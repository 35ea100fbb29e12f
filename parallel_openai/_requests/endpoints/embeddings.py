"""The embeddings endpoint, which takes many texts in one request."""

from __future__ import annotations

import base64
import math
import sys
from array import array
from collections.abc import Mapping
from typing import Any

from parallel_openai._requests.endpoints.base import Answer, Endpoint, Packing, mappings, text_or_body
from parallel_openai._requests.endpoints.usage import model_of

#: Above any number in an embedding.
_LARGE = 1e9


class Embeddings(Endpoint):
    """`/embeddings`. An answer's value is the vector, as an array of 32-bit floats."""

    name = "embeddings"
    path = "embeddings"
    own = frozenset({"input"})
    parameters = frozenset({"dimensions", "encoding_format", "input", "model", "user"})
    gives_text = False
    answers = ("data", "embedding")
    packing = Packing(inputs=2048, tokens=300_000, tokens_each=8192)

    def ask(self, prompt: Any, system: Any) -> Mapping[str, Any]:
        return text_or_body(prompt, "input")

    def read_all(self, response: Mapping[str, Any]) -> list[Answer]:
        model = model_of(response)
        data = response.get("data")
        found = mappings(data)
        if not found:
            return [Answer(None, None, model, "empty", "The response has no vectors.")]
        if len(found) != len(data or ()):
            sentence = "The response's data holds items that are not vectors, so vectors cannot be matched to inputs."
            return [Answer(None, None, model, "malformed_response", sentence)]
        ordered = in_order(found)
        if ordered is None:
            numbers = [each.get("index") for each in found]
            sentence = f"The vectors are not numbered from 0 on, each once, so they cannot be matched: {numbers!r:.100}"
            return [Answer(None, None, model, "malformed_response", sentence)]
        return [_read(each.get("embedding"), model) for each in ordered]


def in_order(found: list[Mapping[str, Any]]) -> list[Mapping[str, Any]] | None:
    """The items of a response in the order of the inputs, by `index`; None if they cannot be matched.

    Items without any `index`, as from some servers, are assumed to be in order; so is a single item.

    >>> in_order([{"index": 1}, {"index": 0}]), in_order([{"index": 0}, {"index": 0}])
    ([{'index': 0}, {'index': 1}], None)
    """
    numbers = [each.get("index") for each in found]
    if len(found) == 1 or all(number is None for number in numbers):
        return found
    if sorted(number for number in numbers if type(number) is int) == list(range(len(found))):
        return sorted(found, key=lambda each: int(each["index"]))
    return None


def _read(embedding: Any, model: str | None) -> Answer:
    vector = vector_of(embedding)
    if vector is None:
        sentence = f"There is no vector of finite numbers: {embedding!r:.100}"
        return Answer(None, None, model, "malformed_response", sentence)
    return Answer(None, None, model, value=vector)


def of_length(answer: Answer, dimensions: Any) -> Answer:
    """The answer, with an error if its vector has not this number of dimensions."""
    if type(dimensions) is not int or answer.value is None or len(answer.value) == dimensions:
        return answer
    sentence = f"The vector has {len(answer.value):,} dimensions instead of {dimensions:,}."
    return answer._replace(value=None, error_code="malformed_response", error=sentence)


def vector_of(embedding: Any) -> array[float] | None:
    """The vector from a list of numbers, or from base64 of little-endian 32-bit or 64-bit floats; None if it is
    neither, or holds a number that is not finite.

    >>> vector_of("AACAPwAAAMA=").tolist(), vector_of([1, -2]).tolist()
    ([1.0, -2.0], [1.0, -2.0])
    >>> print(vector_of([1.0, True]), vector_of([1e39]))
    None None
    """
    vector = array("f")
    try:
        if isinstance(embedding, str):
            raw = base64.b64decode("".join(embedding.split()), validate=True)
            vector = _floats("f", raw)
            if len(raw) % 8 == 0 and _are_halves(vector):
                vector = array("f", _floats("d", raw))
        elif isinstance(embedding, list) and bool not in set(map(type, embedding)):
            vector.extend(embedding)
    except (ValueError, TypeError, OverflowError):
        return None
    # A sum of 32-bit floats cannot overflow, and keeps inf and nan.
    return vector if vector and math.isfinite(sum(vector)) else None


def _are_halves(vector: array[float]) -> bool:
    """Whether these are halves of 64-bit floats: every second number then has an arbitrary exponent, unlike those of
    embeddings.
    """
    if abs(sum(vector)) < _LARGE:
        return False
    implausible = [not 1 / _LARGE < abs(each) < _LARGE for each in vector[::2]]
    return 3 * sum(implausible) > len(implausible)


def _floats(kind: str, raw: bytes) -> array[float]:
    floats: array[float] = array(kind, raw)
    if sys.byteorder == "big":  # pragma: no cover - no such machine in the tests
        floats.byteswap()
    return floats
