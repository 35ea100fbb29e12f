"""Text for a terminal, a log or an exception: what would move the cursor or turn the writing about is shown, not done.

A server's words, a model's name, a column's name and a cell may hold anything, such as escape sequences that set the
window's title or a line break that makes a second line of the log. Data in frames and files stays as it is.
"""

from __future__ import annotations

import re

# C0 and C1 controls, the marks and overrides of writing direction (Unicode's Bidi_Control), line and paragraph
# separators, and halves of surrogate pairs, which no terminal takes.
_ACTIVE = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_IN_LINES = re.compile(f"[{_ACTIVE}]")
_IN_A_LINE = re.compile(f"[\n\t{_ACTIVE}]")


def printable(text: str) -> str:
    r"""One line that does nothing but stand there.

    >>> print(printable("\x1b]0;owned\x07 first\nERROR second"))
    \x1b]0;owned\x07 first\nERROR second
    """
    return text if text.isprintable() else _IN_A_LINE.sub(_shown, text)


def printable_lines(text: str) -> str:
    r"""The same for a text of ours, whose line breaks and tabs are meant.

    >>> print(printable_lines("two\nlines\r"))
    two
    lines\r
    """
    return text if text.isprintable() else _IN_LINES.sub(_shown, text)


def _shown(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
