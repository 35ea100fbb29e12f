"""Split reasoning off the head of an answer's text."""

from __future__ import annotations

import re

#: The tags of DeepSeek, Qwen and other open models, if the server does not parse them.
_HEAD = re.compile(r"\s*<(think|thinking|reasoning)>(.*?)</\1>\s*", re.DOTALL)


def part_thoughts(text: str) -> tuple[str | None, str]:
    """The reasoning at the head of an answer (None without any), and the rest.

    >>> part_thoughts("<think>It says it leaks.</think> negative")
    ('It says it leaks.', 'negative')
    >>> part_thoughts("Write <think> first.")
    (None, 'Write <think> first.')
    """
    head = _HEAD.match(text)
    return (None, text) if head is None else (head[2].strip(), text[head.end() :])
