"""Embeddings: what the API refuses, and vectors that are alike where texts share words."""

from __future__ import annotations

import base64
import random
import re
from functools import lru_cache
from hashlib import shake_256
from typing import TYPE_CHECKING, Any

from parallel_openai.local.simulator.checks import bodies as checks
from parallel_openai.local.simulator.endpoints import counting, usage
from parallel_openai.local.simulator.endpoints.endpoint import Answer, Asked, Endpoint
from parallel_openai.local.simulator.refusals import Refusal
from parallel_openai.local.simulator.settings import Settings

if TYPE_CHECKING:
    import numpy as np

PARAMETERS = frozenset({"input", "model", "dimensions", "encoding_format", "user"})
DIMENSIONS = {"text-embedding-3-large": 3072}
USUAL_DIMENSIONS = 1536
MOST_INPUTS = 2048
MOST_TOKENS_EACH = 8192
MOST_TOKENS = 300_000
_WORD = re.compile(r"\w+")


def read(body: dict[str, Any], settings: Settings) -> Asked:
    """The checked body.

    >>> read({"model": "text-embedding-3-small", "input": ["Hello, world!", "Hi."]}, Settings()).prompt_tokens
    5
    """
    checks.known_parameters(body, PARAMETERS)
    model = checks.model(body, settings.models)
    inputs = _inputs(body.get("input"))
    _dimensions(body, model)
    if body.get("encoding_format") not in (None, "float", "base64"):
        message = f"Invalid value: '{body['encoding_format']}'. Supported values are: 'float' and 'base64'."
        raise Refusal(400, message, code="invalid_value", param="encoding_format")
    sizes = [counting.tokens(each) if isinstance(each, str) else len(each) for each in inputs]
    for size in sizes:
        if size > MOST_TOKENS_EACH:
            message = (
                f"This model's maximum context length is {MOST_TOKENS_EACH} tokens, however you requested {size} "
                f"tokens ({size} in your prompt; 0 for the completion). Please reduce your prompt; or completion "
                "length."
            )
            raise Refusal(400, message)
    if sum(sizes) > MOST_TOKENS:
        message = (
            f"Invalid 'input': maximum request size is {MOST_TOKENS} tokens per request, but got {sum(sizes)} tokens."
        )
        raise Refusal(400, message, type="max_tokens_per_request", code="max_tokens_per_request", param="input")
    return Asked(body={**body, "input": inputs}, model=model, prompt="", prompt_tokens=sum(sizes))


def _inputs(given: Any) -> list[Any]:
    if given is None:
        raise checks.missing("input")
    if isinstance(given, str) or (isinstance(given, list) and given and isinstance(given[0], int)):
        given = [given]
    if not isinstance(given, list) or not given:
        raise _invalid()
    if len(given) > MOST_INPUTS:
        message = (
            f"Invalid 'input': array too long. Expected an array with maximum length {MOST_INPUTS}, but got an array "
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
    checks.number(body, "dimensions", 1, DIMENSIONS.get(model, USUAL_DIMENSIONS), whole=True)


def answer(asked: Asked, settings: Settings, dice: random.Random, flaw: str | None) -> Answer:
    length = DIMENSIONS.get(asked.model, USUAL_DIMENSIONS)
    dimensions = asked.body.get("dimensions") or length
    packed = asked.body.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _written(_vector(each, length, dimensions), packed)}
        for index, each in enumerate(asked.body["input"])
    ]
    body = {
        "object": "list",
        "data": data,
        "model": asked.model,
        "usage": usage.dressed(settings, {"prompt_tokens": asked.prompt_tokens, "total_tokens": asked.prompt_tokens}),
        "system_fingerprint": "simulated",  # not a field of this endpoint; every simulated answer bears it
    }
    return Answer(body, asked.prompt_tokens, 0)


def _written(vector: np.ndarray[Any, Any], packed: bool) -> Any:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if packed else vector.tolist()


def _vector(text: Any, length: int, dimensions: int) -> np.ndarray[Any, Any]:
    """A vector of length 1: the sum of its words' own, so that texts that share words lie near each other."""
    import numpy as np

    words = _WORD.findall(text.casefold()) if isinstance(text, str) else list(map(str, text))
    total = np.zeros(dimensions, dtype=np.float32)
    for word in words or [str(text)]:
        total += _of_word(word, length)[:dimensions]
    size = float(np.linalg.norm(total))
    return total / np.float32(size or 1.0)


@lru_cache(maxsize=8192)
def _of_word(word: str, length: int) -> np.ndarray[Any, Any]:
    import numpy as np

    return np.frombuffer(shake_256(word.encode("utf-8", "surrogatepass")).digest(length), dtype=np.int8)


EMBEDDINGS = Endpoint("/v1/embeddings", read, answer)
