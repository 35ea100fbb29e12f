"""What the simulated model outputs: text, JSON, a value that fits a schema, or a tool call; all marked as simulated."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from parallel_openai.local.simulator.endpoints import counting
from parallel_openai.local.simulator.endpoints.schemas import OFF_SCHEMA, WORDS, SchemaFiller
from parallel_openai.local.simulator.settings import Settings

REFUSAL = "(simulated) I'm sorry, I can't help with that."


@dataclass(frozen=True)
class Completion:
    """The output of one choice: text, a refusal or a tool call; and why it ended."""

    text: str | None
    finish_reason: str = "stop"
    refusal: str | None = None
    tool: Tool | None = None

    @property
    def tokens(self) -> int:
        called = self.tool.name + self.tool.arguments if self.tool else ""
        return counting.tokens((self.text or self.refusal or "") + called)


@dataclass(frozen=True)
class Tool:
    name: str
    arguments: str


def complete(
    response_format: Any,
    prompt: str,
    settings: Settings,
    rng: random.Random,
    *,
    max_output: int | None = None,
    flaw: str | None = None,
) -> Completion:
    """One choice, cut to `max_output` tokens, with the given flaw.

    >>> complete(None, "Say hello.", Settings(), random.Random(1), max_output=3)
    Completion(text='(simulated) ', finish_reason='length', refusal=None, tool=None)
    """
    text = content(response_format, prompt, settings, rng, off_schema=flaw == "off_schema")
    finish_reason = "stop"
    if max_output is not None and counting.tokens(text) > max_output:
        text, finish_reason = text[: max_output * counting.CHARACTERS_PER_TOKEN], "length"
    if flaw == "refusal":
        return Completion(None, finish_reason, REFUSAL)
    if flaw == "content_filter":
        return Completion(text[: len(text) // 2], "content_filter")
    if flaw == "length":
        return Completion("", "length")
    return Completion("" if flaw == "empty" else text, finish_reason)


def tool(functions: Sequence[dict[str, Any]], choice: Any, prompt: str, rng: random.Random) -> Tool | None:
    """The function to call: the chosen one, otherwise the first; None if none may be called.

    >>> functions = [{"name": "weather", "parameters": {"type": "object", "properties": {"sure": {"const": 1}}}}]
    >>> tool(functions, "auto", "Rain?", random.Random(1))
    Tool(name='weather', arguments='{"sure":1}')
    >>> tool(functions, "none", "Rain?", random.Random(1))
    """
    if not functions or choice == "none":
        return None
    named = choice.get("function", choice).get("name") if isinstance(choice, dict) else None
    function = next((each for each in functions if each.get("name") == named), functions[0])
    arguments = SchemaFiller(function.get("parameters") or {"type": "object"}, prompt, rng).fill()
    return Tool(function.get("name", ""), orjson.dumps(arguments).decode())


def content(
    response_format: Any, prompt: str, settings: Settings, rng: random.Random, *, off_schema: bool = False
) -> str:
    """The text of the answer before it is cut to the maximum.

    >>> content(None, "Say hello.", Settings(answer_tokens=8), random.Random(1))
    '(simulated) Say hello. alpha amb'
    >>> content({"type": "json_object"}, "Say hello in JSON.", Settings(), random.Random(1))
    '{"simulated":true,"answer":"birch"}'
    """
    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if kind == "json_schema":
        schema = response_format["json_schema"].get("schema", {})
        return orjson.dumps(SchemaFiller(schema, prompt, rng, off_schema=off_schema).fill()).decode()
    if off_schema:
        return OFF_SCHEMA
    if kind == "json_object":
        return orjson.dumps({"simulated": True, "answer": WORDS[rng.randrange(len(WORDS))]}).decode()
    return _plain(prompt, _length(settings, rng))


def _length(settings: Settings, rng: random.Random) -> int:
    tokens = settings.answer_tokens
    return rng.randint(*tokens) if isinstance(tokens, tuple) else tokens


def _plain(prompt: str, length: int) -> str:
    characters = length * counting.CHARACTERS_PER_TOKEN
    text = f"(simulated) {' '.join(prompt[:200].split())}"
    if len(text) < characters:
        filler = " ".join(WORDS)
        text += " " + (filler + " ") * ((characters - len(text)) // len(filler) + 1)
    return text[:characters]
