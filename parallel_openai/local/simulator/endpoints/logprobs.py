"""Log probabilities of an answer's tokens: those of a model that was more or less sure of each choice it made."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from parallel_openai.local.simulator.endpoints import counting
from parallel_openai.local.simulator.endpoints.schemas import leaning

#: What each token leaves to tokens that would break the schema.
ELSEWHERE = 0.001


def logprobs_of(text: str | None, prompt: str, response_format: Any, top: int, dice: random.Random) -> dict[str, Any]:
    """The `logprobs` of a choice.

    Where a schema has an enum or a boolean right below its root, the answers with its other values are rivals of this
    one, and each has a probability; a token has that of all answers that go on with it, among those that agree up to
    there. So the probability of a value is the product over its tokens, held to the schema.

    >>> schema = {"type": "object", "properties": {"label": {"enum": ["no", "yes"]}}}
    >>> wanted = {"type": "json_schema", "json_schema": {"schema": schema}}
    >>> told = logprobs_of('{"label":"yes"}', "Is it?", wanted, 2, random.Random(1))["content"]
    >>> [(each["token"], round(math.exp(each["logprob"]), 3)) for each in told[2]["top_logprobs"]]
    [(':"ye', 0.659), (':"no', 0.34)]
    """
    pieces = counting.pieces(text or "")
    fields = list(_rivals(text or "", prompt, response_format, dice))
    tokens = []
    for at, piece in enumerate(pieces):
        chance, others = _plain(top, dice) if not fields else _held(at, pieces, fields)
        tokens.append(_token(piece, chance, others, top))
    return {"content": tokens, "refusal": None}


def _rivals(text: str, prompt: str, response_format: Any, dice: random.Random) -> Iterator[dict[str, float]]:
    """For each field with a choice of values: the answers with the other values, and their probabilities."""
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
        # Of a text that leans to neither side the model is less sure.
        left = dice.uniform(0.01, 0.1) if leaning(prompt) else dice.uniform(0.3, 0.6)
        shares = [dice.uniform(0.2, 1) for _ in others]
        yield {
            orjson.dumps({**answer, name: other}).decode(): left * share / sum(shares)
            for other, share in zip(others, shares, strict=True)
        }


def _held(at: int, pieces: Sequence[str], fields: Sequence[dict[str, float]]) -> tuple[float, dict[str, float]]:
    """The probability of a token, and those of others in its place, under a schema."""
    written = "".join(pieces[:at])
    chance, others = 1 - ELSEWHERE, dict[str, float]()
    for rivals in fields:
        alive = {rival: share for rival, share in rivals.items() if rival.startswith(written)}
        parting = {rival: share for rival, share in alive.items() if not rival.startswith(written + pieces[at])}
        whole = 1 - sum(rivals.values()) + sum(alive.values())
        for rival, share in parting.items():
            token = counting.pieces(rival)[at] if len(rival) > len(written) else ""
            others[token] = others.get(token, 0.0) + (1 - ELSEWHERE) * share / whole
        chance *= 1 - sum(parting.values()) / whole
    return chance, others


def _plain(top: int, dice: random.Random) -> tuple[float, dict[str, float]]:
    chance = 0.6 + 0.39 * dice.random()
    return chance, {f"~{rank}": (1 - chance) / 2**rank for rank in range(1, top)}


def _token(piece: str, chance: float, others: dict[str, float], top: int) -> dict[str, Any]:
    filler = {f"~{rank}": ELSEWHERE / 2**rank for rank in range(1, top - len(others))}
    ranked = sorted({piece: chance, **others, **filler}.items(), key=lambda pair: -pair[1])[:top]
    return {**_logprob(piece, chance), "top_logprobs": [_logprob(each, share) for each, share in ranked]}


def _logprob(token: str, chance: float) -> dict[str, Any]:
    return {"token": token, "logprob": round(math.log(chance), 8), "bytes": list(token.encode())}
