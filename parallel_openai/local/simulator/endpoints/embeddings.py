"""Embeddings: validation, and vectors that are similar if their texts share words."""

from __future__ import annotations

import base64
import random
import re
from functools import lru_cache
from hashlib import shake_256
from typing import TYPE_CHECKING, Any

from parallel_openai.local.simulator.checks import bodies as checks
from parallel_openai.local.simulator.endpoints import counting, usage
from parallel_openai.local.simulator.endpoints.endpoint import Answer, Endpoint, ParsedBody
from parallel_openai.local.simulator.refusals import Refusal
from parallel_openai.local.simulator.settings import Settings

if TYPE_CHECKING:
    import numpy as np

PARAMETERS = frozenset({"input", "model", "dimensions", "encoding_format", "user"})
DIMENSIONS = {"text-embedding-3-large": 3072}
DEFAULT_DIMENSIONS = 1536
MAX_INPUTS = 2048
MAX_TOKENS_PER_INPUT = 8192
MAX_TOKENS = 300_000
_WORD = re.compile(r"\w+")


def read(body: dict[str, Any], settings: Settings) -> ParsedBody:
    """Validate the body.

    >>> read({"model": "text-embedding-3-small", "input": ["Hello, world!", "Hi."]}, Settings()).prompt_tokens
    5
    """
    checks.known_parameters(body, PARAMETERS)
    model = checks.model(body, settings.models)
    inputs = _inputs(body.get("input"))
    _dimensions(body, model)
    if body.get("encoding_format") not in (None, "float", "base64"):
        raise checks.invalid_value(body["encoding_format"], ("float", "base64"), "encoding_format")
    sizes = [counting.tokens(each) if isinstance(each, str) else len(each) for each in inputs]
    for size in sizes:
        if size > MAX_TOKENS_PER_INPUT:
            message = (
                f"This model's maximum context length is {MAX_TOKENS_PER_INPUT} tokens, however you requested {size} "
                f"tokens ({size} in your prompt; 0 for the completion). Please reduce your prompt; or completion "
                "length."
            )
            raise Refusal(400, message)
    if sum(sizes) > MAX_TOKENS:
        message = (
            f"Invalid 'input': maximum request size is {MAX_TOKENS} tokens per request, but got {sum(sizes)} tokens."
        )
        raise Refusal(400, message, type="max_tokens_per_request", code="max_tokens_per_request", param="input")
    return ParsedBody(body={**body, "input": inputs}, model=model, prompt="", prompt_tokens=sum(sizes))


def _inputs(given: Any) -> list[Any]:
    if given is None:
        raise checks.missing("input")
    if isinstance(given, str) or (isinstance(given, list) and given and isinstance(given[0], int)):
        given = [given]
    if not isinstance(given, list) or not given:
        raise _invalid()
    if len(given) > MAX_INPUTS:
        message = (
            f"Invalid 'input': array too long. Expected an array with maximum length {MAX_INPUTS}, but got an array "
            f"with length {len(given)} instead."
        )
        raise Refusal(400, message, code="array_above_max_length", param="input")
    for each in given:
        is_tokens = isinstance(each, list) and all(type(number) is int for number in each)
        if not each or not (isinstance(each, str) or is_tokens):
            raise _invalid()
    return given


def _invalid() -> Refusal:
    help_at = "https://platform.openai.com/docs/api-reference"
    return Refusal(400, f"'$.input' is invalid. Please check the API reference: {help_at}.")


def _dimensions(body: dict[str, Any], model: str) -> None:
    if body.get("dimensions") is None:
        return
    if "ada-002" in model:
        raise Refusal(400, "This model does not support specifying dimensions.")
    checks.number(body, "dimensions", 1, DIMENSIONS.get(model, DEFAULT_DIMENSIONS), whole=True)


def answer(parsed: ParsedBody, settings: Settings, rng: random.Random, flaw: str | None) -> Answer:
    length = DIMENSIONS.get(parsed.model, DEFAULT_DIMENSIONS)
    dimensions = parsed.body.get("dimensions") or length
    as_base64 = parsed.body.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(_vector(text, length, dimensions), as_base64)}
        for index, text in enumerate(parsed.body["input"])
    ]
    body = {
        "object": "list",
        "data": data,
        "model": parsed.model,
        "usage": usage.in_format(
            settings, {"prompt_tokens": parsed.prompt_tokens, "total_tokens": parsed.prompt_tokens}
        ),
        "system_fingerprint": "simulated",  # not a field of this endpoint, but every simulated answer has it
    }
    return Answer(body, parsed.prompt_tokens, 0)


def _encoded(vector: np.ndarray[Any, Any], as_base64: bool) -> Any:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if as_base64 else vector.tolist()


def _vector(text: Any, length: int, dimensions: int) -> np.ndarray[Any, Any]:
    """The normalized sum of the words' vectors, so that texts that share words are close."""
    import numpy as np

    words = _WORD.findall(text.casefold()) if isinstance(text, str) else list(map(str, text))
    total = np.zeros(dimensions, dtype=np.float32)
    for word in words or [str(text)]:
        total += _word_vector(word, length)[:dimensions]
    size = float(np.linalg.norm(total))
    return total / np.float32(size or 1.0)


@lru_cache(maxsize=8192)
def _word_vector(word: str, length: int) -> np.ndarray[Any, Any]:
    import numpy as np

    return np.frombuffer(shake_256(word.encode("utf-8", "surrogatepass")).digest(length), dtype=np.int8)


EMBEDDINGS = Endpoint("/v1/embeddings", read, answer)
