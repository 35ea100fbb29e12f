"""The text of an answer: plain, JSON or a value of a schema, plainly marked as simulated."""

from __future__ import annotations

import random
from typing import Any

import orjson

from . import counting
from .schemas import OUTSIDE, WORDS, SchemaFiller
from .settings import Settings


def content(
    response_format: Any, prompt: str, settings: Settings, dice: random.Random, *, outside: bool = False
) -> str:
    """What the simulated model says, before it is cut to the maximum.

    >>> content(None, "Say hello.", Settings(answer_tokens=8), random.Random(1))
    '(simulated) Say hello. alpha amb'
    >>> content({"type": "json_object"}, "Say hello in JSON.", Settings(), random.Random(1))
    '{"simulated":true,"answer":"birch"}'
    """
    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if kind == "json_schema":
        schema = response_format["json_schema"].get("schema", {})
        return orjson.dumps(SchemaFiller(schema, prompt, dice, outside=outside).fill()).decode()
    if outside:
        return OUTSIDE
    if kind == "json_object":
        return orjson.dumps({"simulated": True, "answer": WORDS[dice.randrange(len(WORDS))]}).decode()
    return _plain(prompt, _length(settings, dice))


def _length(settings: Settings, dice: random.Random) -> int:
    wanted = settings.answer_tokens
    return dice.randint(*wanted) if isinstance(wanted, tuple) else wanted


def _plain(prompt: str, length: int) -> str:
    characters = length * counting.CHARACTERS_PER_TOKEN
    text = f"(simulated) {' '.join(prompt[:200].split())}"
    if len(text) < characters:
        filler = " ".join(WORDS)
        text += " " + (filler + " ") * ((characters - len(text)) // len(filler) + 1)
    return text[:characters]
