"""The review's widget for JupyterLab, Notebook 7, VS Code and Colab. The only module that imports anywidget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import anywidget
import traitlets

from parallel_openai.errors import ParallelOpenAIError

HERE = Path(__file__).parent


class Review(Protocol):
    """The part of a review that the widget uses."""

    @property
    def labels(self) -> Sequence[Any]: ...
    @property
    def multi(self) -> bool: ...
    def item(self, position: int) -> dict[str, Any]: ...
    def first_open(self) -> int: ...
    def next_after(self, position: int) -> int: ...
    def within(self, position: int) -> int: ...
    def choose(self, position: int, label: Any, *, note: str = "") -> None: ...


class ReviewWidget(anywidget.AnyWidget):  # type: ignore[misc,unused-ignore]
    """Shows one row at a time and passes choices to the review, which holds all lasting state."""

    _esm = HERE / "widget.js"
    _css = HERE / "widget.css"

    labels: Any = traitlets.List().tag(sync=True)
    multi = traitlets.Bool(False).tag(sync=True)
    item = traitlets.Dict().tag(sync=True)
    trouble = traitlets.Unicode("").tag(sync=True)

    def __init__(self, review: Review) -> None:
        super().__init__(labels=list(review.labels), multi=review.multi, item=review.item(review.first_open()))
        self._review = review
        self.on_msg(self._on_message)

    def _on_message(self, _: Any, message: dict[str, Any], __: Any) -> None:
        """Handle a message of the page: `choose`, `note`, `undo` or `go`, for the row at a position."""
        review, position = self._review, int(message["at"])
        self.trouble = ""
        try:
            if message["do"] == "choose":
                review.choose(position, message["label"], note=message["note"])
                position = review.next_after(position)
            elif message["do"] == "note":
                review.choose(position, message["label"], note=message["note"])
            elif message["do"] == "undo":
                review.choose(position, None, note=message["note"])
            else:
                position = review.within(int(message["to"]))
        except ParallelOpenAIError as error:  # such as a full disk: stay at the row and show why
            self.trouble = str(error)
        self.item = review.item(position)
