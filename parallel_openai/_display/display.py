"""Base class of results that render as text and as HTML."""

from __future__ import annotations

from parallel_openai._display.blocks import Block
from parallel_openai._display.html import to_html
from parallel_openai._display.text import to_text


class Display:
    """A result that is rendered from its `blocks`."""

    def blocks(self) -> list[Block]:
        """The contents, for text, HTML and figures."""
        raise NotImplementedError

    def __str__(self) -> str:
        return to_text(self.blocks())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return to_html(self.blocks())
