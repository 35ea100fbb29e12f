"""Token counts, and what a request costs against the token limit.

A token is four characters here, rounded up: this needs no vocabulary, and tests can state each count in `usage`.
Real counts differ by a fifth or so, on which no rule of the limits depends.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

CHARACTERS_PER_TOKEN = 4
TOKENS_PER_IMAGE = 85


def tokens(text: str) -> int:
    """The number of tokens in a string.

    >>> tokens("Hello, world!")
    4
    """
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)


def pieces(text: str) -> list[str]:
    """A string split into its tokens.

    >>> pieces("Hello, world!")
    ['Hell', 'o, w', 'orld', '!']
    """
    return [text[at : at + CHARACTERS_PER_TOKEN] for at in range(0, len(text), CHARACTERS_PER_TOKEN)]


def texts(messages: list[dict[str, Any]]) -> Iterator[str]:
    """The text parts of chat messages, in order."""
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            yield content
        elif isinstance(content, list):
            yield from (part["text"] for part in content if isinstance(part.get("text"), str))


def images(messages: list[dict[str, Any]]) -> int:
    """The number of parts of the messages that are not text."""
    contents = (message.get("content") for message in messages)
    return sum("text" not in part for content in contents if isinstance(content, list) for part in content)


def reserved(counting: str, *, prompt_tokens: int, max_output: int | None, n: int) -> int:
    """What a request costs on arrival. Without a maximum, nothing is reserved for its output.

    >>> reserved("max_output_or_characters", prompt_tokens=30, max_output=20, n=2)
    40
    >>> reserved("settled", prompt_tokens=30, max_output=20, n=2)
    70
    >>> reserved("actual_usage", prompt_tokens=30, max_output=20, n=2)
    30
    """
    output = max_output or 0
    if counting == "max_output_or_characters":
        return max(prompt_tokens, output * n)
    if counting == "prompt_plus_max_output":
        return prompt_tokens + output
    if counting == "actual_usage":
        return prompt_tokens
    return prompt_tokens + output * n


def settled(counting: str, at_arrival: int, *, total_tokens: int) -> int:
    """What a request has cost once it is answered.

    >>> settled("settled", 70, total_tokens=45), settled("prompt_plus_max_output", 50, total_tokens=45)
    (45, 50)
    """
    return total_tokens if counting in ("actual_usage", "settled") else at_arrival
