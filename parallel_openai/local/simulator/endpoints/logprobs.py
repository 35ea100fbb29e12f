"""Log probabilities of an answer's tokens, for a model that is more or less sure of each choice."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from parallel_openai.local.simulator.endpoints import counting
from parallel_openai.local.simulator.endpoints.schemas import label_prefixes

#: The probability at each position of all tokens that would break the schema.
OFF_SCHEMA = 0.001


def logprobs_of(text: str | None, prompt: str, response_format: Any, top: int, rng: random.Random) -> dict[str, Any]:
    """The `logprobs` of a choice.

    If a schema has an enum or a boolean directly below its root, each answer with another of its values is an
    alternative with a probability. A token has the probability of all answers that continue with it, among those with
    the same prefix. So the probability of a value, given the schema, is the product over its tokens.

    >>> schema = {"type": "object", "properties": {"label": {"enum": ["no", "yes"]}}}
    >>> response_format = {"type": "json_schema", "json_schema": {"schema": schema}}
    >>> tokens = logprobs_of('{"label":"yes"}', "Is it?", response_format, 2, random.Random(1))["content"]
    >>> [(each["token"], round(math.exp(each["logprob"]), 3)) for each in tokens[2]["top_logprobs"]]
    [(':"ye', 0.659), (':"no', 0.34)]
    """
    pieces = counting.pieces(text or "")
    fields = list(_alternatives(text or "", prompt, response_format, rng))
    tokens = []
    for at, piece in enumerate(pieces):
        probability, others = _unconstrained(top, rng) if not fields else _constrained(at, pieces, fields)
        tokens.append(_token(piece, probability, others, top))
    return {"content": tokens, "refusal": None}


def _alternatives(text: str, prompt: str, response_format: Any, rng: random.Random) -> Iterator[dict[str, float]]:
    """For each field with a choice of values: the answers with its other values, and their probabilities."""
    schema = (response_format.get("json_schema") or {}).get("schema") if isinstance(response_format, dict) else None
    try:
        answer = orjson.loads(text)
    except ValueError:
        return
    if not isinstance(answer, dict) or not isinstance(schema, dict):
        return
    for name, part in (schema.get("properties") or {}).items():
        options = [True, False] if part.get("type") == "boolean" else part.get("enum") or ()
        others = [option for option in options if option != answer.get(name)]
        if not others or answer.get(name) not in options:
            continue
        # The model is less sure if the prompt is neither positive nor negative.
        left_over = rng.uniform(0.01, 0.1) if label_prefixes(prompt) else rng.uniform(0.3, 0.6)
        shares = [rng.uniform(0.2, 1) for _ in others]
        yield {
            orjson.dumps({**answer, name: other}).decode(): left_over * share / sum(shares)
            for other, share in zip(others, shares, strict=True)
        }


def _constrained(at: int, pieces: Sequence[str], fields: Sequence[dict[str, float]]) -> tuple[float, dict[str, float]]:
    """The probability of a token under a schema, and those of the other tokens at its position."""
    written = "".join(pieces[:at])
    probability, others = 1 - OFF_SCHEMA, dict[str, float]()
    for alternatives in fields:
        matching = {other: share for other, share in alternatives.items() if other.startswith(written)}
        diverging = {other: share for other, share in matching.items() if not other.startswith(written + pieces[at])}
        total = 1 - sum(alternatives.values()) + sum(matching.values())
        for other, share in diverging.items():
            token = counting.pieces(other)[at] if len(other) > len(written) else ""
            others[token] = others.get(token, 0.0) + (1 - OFF_SCHEMA) * share / total
        probability *= 1 - sum(diverging.values()) / total
    return probability, others


def _unconstrained(top: int, rng: random.Random) -> tuple[float, dict[str, float]]:
    probability = 0.6 + 0.39 * rng.random()
    return probability, {f"~{rank}": (1 - probability) / 2**rank for rank in range(1, top)}


def _token(piece: str, probability: float, others: dict[str, float], top: int) -> dict[str, Any]:
    filler = {f"~{rank}": OFF_SCHEMA / 2**rank for rank in range(1, top - len(others))}
    ranked = sorted({piece: probability, **others, **filler}.items(), key=lambda pair: -pair[1])[:top]
    return {**_logprob(piece, probability), "top_logprobs": [_logprob(each, share) for each, share in ranked]}


def _logprob(token: str, probability: float) -> dict[str, Any]:
    return {"token": token, "logprob": round(math.log(probability), 8), "bytes": list(token.encode())}
