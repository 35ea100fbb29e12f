"""The review's face in a notebook: JupyterLab, Notebook 7, VS Code and Colab. The only door to anywidget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import anywidget
import traitlets

from parallel_openai.errors import ParallelOpenAIError

HERE = Path(__file__).parent


class Review(Protocol):
    """What the widget needs of a review: rows by their position in it, and where a choice is kept."""

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
    """Shows one row at a time and tells the review what was chosen. All that lasts is in the review."""

    _esm = HERE / "widget.js"
    _css = HERE / "widget.css"

    labels: Any = traitlets.List().tag(sync=True)
    multi = traitlets.Bool(False).tag(sync=True)
    item = traitlets.Dict().tag(sync=True)
    trouble = traitlets.Unicode("").tag(sync=True)

    def __init__(self, review: Review) -> None:
        super().__init__(labels=list(review.labels), multi=review.multi, item=review.item(review.first_open()))
        self._review = review
        self.on_msg(self._heed)

    def _heed(self, _: Any, message: dict[str, Any], __: Any) -> None:
        """What the page asks for: `choose`, `note`, `undo` or `go`, and the row it stands at."""
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
        except ParallelOpenAIError as error:  # a full disk, say: the row stays, and the page says why
            self.trouble = str(error)
        self.item = review.item(position)
