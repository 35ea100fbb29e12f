"""Escape control characters in text for a terminal, a log or an exception.

A server's message, a model's or column's name and a cell may contain anything, such as escape sequences that set the
window's title or a line break that forges a second line of the log. Data in frames and files is not changed.
"""

from __future__ import annotations

import re

# C0 and C1 controls, bidirectional controls (Unicode's Bidi_Control), line and paragraph separators, and lone
# surrogates, which cannot be encoded.
_CONTROLS = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_IN_TEXT = re.compile(f"[{_CONTROLS}]")
_IN_A_LINE = re.compile(f"[\n\t{_CONTROLS}]")


def printable(text: str) -> str:
    r"""The text as a single line without control characters.

    >>> print(printable("\x1b]0;owned\x07 first\nERROR second"))
    \x1b]0;owned\x07 first\nERROR second
    """
    return text if text.isprintable() else _IN_A_LINE.sub(_escaped, text)


def printable_lines(text: str) -> str:
    r"""The same for text of our own, which keeps its line breaks and tabs.

    >>> print(printable_lines("two\nlines\r"))
    two
    lines\r
    """
    return text if text.isprintable() else _IN_TEXT.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()
