"""Moderations: validation, and scores from a short list of words."""

from __future__ import annotations

import random
from typing import Any

from parallel_openai.local.simulator.checks import bodies as checks
from parallel_openai.local.simulator.endpoints import counting
from parallel_openai.local.simulator.endpoints.endpoint import Answer, Endpoint, ParsedBody
from parallel_openai.local.simulator.refusals import Refusal
from parallel_openai.local.simulator.settings import Settings

PARAMETERS = frozenset({"input", "model"})
DEFAULT_MODEL = "omni-moderation-latest"
_CATEGORIES = (
    "harassment harassment/threatening hate hate/threatening illicit illicit/violent self-harm self-harm/intent "
    "self-harm/instructions sexual sexual/minors violence violence/graphic"
)
CATEGORIES = tuple(_CATEGORIES.split())
WORDS: dict[str, tuple[str, ...]] = {
    "violence": ("kill", "murder", "attack", "stab", "shoot"),
    "harassment": ("idiot", "stupid", "moron", "loser"),
    "hate": ("vermin", "subhuman"),
}


def read(body: dict[str, Any], settings: Settings) -> ParsedBody:
    """Validate the body.

    >>> read({"input": "Hello, world!"}, Settings()).model
    'omni-moderation-latest'
    """
    checks.known_parameters(body, PARAMETERS)
    model = checks.model({"model": DEFAULT_MODEL, **body}, settings.models)
    inputs = _inputs(body.get("input"))
    prompt_tokens = sum(counting.tokens(each) for each in inputs)
    checks.context_length(prompt_tokens, settings.context_length)
    return ParsedBody(body={**body, "input": inputs}, model=model, prompt="", prompt_tokens=prompt_tokens)


def _inputs(given: Any) -> list[str]:
    """The strings to score; content parts are joined into one."""
    if given is None:
        raise checks.missing("input")
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list):
        raise checks.wrong_type("input", "one of a string or array", given)
    if not given:
        message = "Invalid 'input': empty array. Expected an array with minimum length 1, but got an empty array."
        raise Refusal(400, message, code="empty_array", param="input")
    if all(isinstance(each, str) for each in given):
        return given
    texts = []
    for at, part in enumerate(given):
        if not isinstance(part, dict) or part.get("type") not in ("text", "image_url"):
            raise checks.wrong_type(f"input[{at}]", "an object of type 'text' or 'image_url'", part)
        texts.append(str(part.get("text", "")))
    return [" ".join(texts)]


def answer(parsed: ParsedBody, settings: Settings, rng: random.Random, flaw: str | None) -> Answer:
    body = {
        "id": f"modr-simulated{rng.getrandbits(64):016x}",
        "model": parsed.model,
        "results": [_result(text, rng) for text in parsed.body["input"]],
        "system_fingerprint": "simulated",  # not a field of this endpoint, but every simulated answer has it
    }
    return Answer(body, parsed.prompt_tokens, 0)


def _result(text: str, rng: random.Random) -> dict[str, Any]:
    words = {"".join(filter(str.isalpha, word)) for word in text.casefold().split()}
    scores = {
        name: round((0.8 if words.intersection(WORDS.get(name, ())) else 0.0) + 0.1 * rng.random(), 6)
        for name in CATEGORIES
    }
    categories = {name: score > 0.5 for name, score in scores.items()}
    return {
        "flagged": any(categories.values()),
        "categories": categories,
        "category_scores": scores,
        "category_applied_input_types": {name: ["text"] for name in CATEGORIES},
    }


MODERATIONS = Endpoint("/v1/moderations", read, answer)
