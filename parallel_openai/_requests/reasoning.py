"""What a model thought before it answered, where a server puts it at the head of the answer's text."""

from __future__ import annotations

import re

#: As DeepSeek's, Qwen's and other open models write them, if the server does not take them off.
_HEAD = re.compile(r"\s*<(think|thinking|reasoning)>(.*?)</\1>\s*", re.DOTALL)


def part_thoughts(text: str) -> tuple[str | None, str]:
    """The thoughts at a text's head, None without any, and what follows them.

    >>> part_thoughts("<think>It says it leaks.</think> negative")
    ('It says it leaks.', 'negative')
    >>> part_thoughts("Write <think> first.")
    (None, 'Write <think> first.')
    """
    head = _HEAD.match(text)
    return (None, text) if head is None else (head[2].strip(), text[head.end() :])
