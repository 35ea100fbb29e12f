"""What shows itself: in a terminal as text, in a notebook as a page."""

from __future__ import annotations

from parallel_openai._display.blocks import Block
from parallel_openai._display.html import to_html
from parallel_openai._display.text import to_text


class Display:
    """A result that says in `blocks` what it shows."""

    def blocks(self) -> list[Block]:
        """What is shown, whether as text, as a page or as a figure."""
        raise NotImplementedError

    def __str__(self) -> str:
        return to_text(self.blocks())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return to_html(self.blocks())
