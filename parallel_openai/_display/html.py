"""Render blocks as self-contained HTML in the notebook's colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parallel_openai._display.blocks import Axis, Block, Curve, Number
from parallel_openai._printable import printable_lines

if TYPE_CHECKING:
    from jinja2 import Template

#: Size of a chart in pixels; the most characters of a name without wrapping, and of a `Code`.
WIDTH, HEIGHT, NAME, CODE = 240, 120, 32, 6000


def to_html(blocks: Sequence[Block]) -> str:
    return _template().render(blocks=blocks)


@lru_cache(1)
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=_printable_only,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(WIDTH=WIDTH, HEIGHT=HEIGHT, NAME=NAME, CODE=CODE)
    environment.globals.update(points=_points, share=_share, right_columns=_right_columns)
    environment.filters["kind"] = lambda block: type(block).__name__
    return environment.get_template("page.html")


def _printable_only(value: Any) -> Any:
    # Terminal escapes are harmless in HTML, but bidirectional control characters reorder text there too.
    return printable_lines(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _right_columns(rows: Sequence[Sequence[str]]) -> set[int]:
    return {number for row in rows for number, cell in enumerate(row) if isinstance(cell, Number)}


def _share(length: float, most: float) -> str:
    return f"{100 * min(1.0, max(0.0, length / most)):.1f}%"


def _position(value: float, axis: Axis) -> float:
    """A value's position on an axis, clipped to 0..1."""
    return min(1.0, max(0.0, (value - axis.low) / ((axis.high - axis.low) or 1.0)))


def _points(curve: Curve, x: Axis, y: Axis) -> list[tuple[str, str]]:
    across, up = list(curve.x), list(curve.y)
    if curve.form in ("area", "steps"):
        across = [edge for pair in pairwise(across) for edge in pair]
        up = [level for level in up for _ in range(2)]
    known = [(one, other) for one, other in zip(across, up, strict=True) if not math.isnan(other)]
    return [(f"{WIDTH * _position(one, x):.1f}", f"{HEIGHT * (1 - _position(other, y)):.1f}") for one, other in known]
