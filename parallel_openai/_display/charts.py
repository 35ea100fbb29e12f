"""Draw blocks with matplotlib, which is imported on use."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from parallel_openai._display.blocks import Bars, Block, Curve, Heading, Matrix, Picture, shortened
from parallel_openai._printable import printable
from parallel_openai._progress.number_format import short
from parallel_openai.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Figure

#: Okabe and Ito's blue, orange and red, which colour-blind people can distinguish.
_TONES = ("#0072b2", "#e69f00", "#d55e00")


def draw(blocks: Sequence[Block]) -> Figure:
    """Draw charts, bars and matrices, two in a row, under the heading."""
    try:
        import matplotlib
        from matplotlib import pyplot
    except ImportError as error:
        raise MissingDependencyError.of("Plots need", "matplotlib", error) from error
    drawn = [block for block in blocks if isinstance(block, (Picture, Bars, Matrix))]
    columns = 2 if len(drawn) > 1 else 1
    rows = max(1, -(-len(drawn) // columns))
    figure, grid = pyplot.subplots(
        rows, columns, figsize=(5.5 * columns, 3.4 * rows), layout="constrained", squeeze=False
    )
    for heading in [block for block in blocks if isinstance(block, Heading)][:1]:
        figure.suptitle(_plain(heading.text) + (" (simulated)" if heading.simulated else ""))
    for axes, block in zip(grid.flat, drawn, strict=False):
        axes.set_title(_plain(block.title))
        match block:
            case Picture():
                _picture(axes, block)
            case Bars():
                _bars(axes, block)
            case Matrix():
                _matrix(axes, block)
    for axes in list(grid.flat)[len(drawn) :]:
        axes.remove()
    if "inline" in matplotlib.get_backend():  # it would show the figure in addition to the cell's value
        pyplot.close(figure)
    return figure


def _picture(axes: Axes, picture: Picture) -> None:
    for curve in picture.curves:
        _curve(axes, curve)
    axes.set_xlabel(_plain(picture.x.name))
    axes.set_ylabel(_plain(picture.y.name))
    axes.set_xlim(picture.x.low, picture.x.high)
    axes.set_ylim(picture.y.low, picture.y.high)
    axes.yaxis.set_major_formatter(lambda value, _: short(value) if value >= 1000 else f"{value:g}")
    if len(picture.curves) > 1:
        axes.legend(loc="best", frameon=False)


def _curve(axes: Axes, curve: Curve) -> None:
    colour, dash = ("black", "--") if curve.tone is None else (_TONES[curve.tone], "-")
    if curve.form in ("area", "steps"):
        if curve.form == "area":
            axes.stairs(curve.y, curve.x, fill=True, color=colour, alpha=0.3)
        axes.stairs(curve.y, curve.x, baseline=None, color=colour, linestyle=dash, label=_plain(curve.name))
    elif curve.form == "dots":
        sizes = [20 + 380 * size**2 for size in curve.sizes]
        axes.scatter(curve.x, curve.y, s=sizes, color=colour, alpha=0.55, clip_on=False, label=_plain(curve.name))
    else:
        axes.plot(curve.x, curve.y, color=colour, linestyle=dash, label=_plain(curve.name))


def _bars(axes: Axes, block: Bars) -> None:
    bars = list(block.bars)[::-1]
    lengths = np.array([bar.length for bar in bars])
    names = [fill(_plain(shortened(bar.cells[0], 40)), 20) for bar in bars]
    ends = [bar.interval or (bar.length, bar.length) for bar in bars]
    reach = [np.maximum(lengths - [low for low, _ in ends], 0), np.maximum([high for _, high in ends] - lengths, 0)]
    has_intervals = any(bar.interval for bar in bars)
    error_bars = reach if has_intervals else None
    drawn = axes.barh(range(len(bars)), lengths, xerr=error_bars, color=_TONES[0], alpha=0.75, height=0.6, capsize=3)
    axes.set_yticks(range(len(bars)), names)
    axes.set_xlabel(_plain(block.unit))
    if has_intervals:
        axes.set_xlim(0, block.most)
    else:
        axes.bar_label(drawn, [f" {_plain(bar.cells[1])}" for bar in bars])
        axes.margins(x=0.15)


def _matrix(axes: Axes, matrix: Matrix) -> None:
    shades = np.array(matrix.shades, dtype="float64").reshape(len(matrix.down), len(matrix.across))
    axes.imshow(shades, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(matrix.across)), list(map(_short, matrix.across)), rotation=30, ha="right")
    axes.set_yticks(range(len(matrix.down)), list(map(_short, matrix.down)))
    axes.set_ylabel(_plain(matrix.corner[0]))
    axes.set_xlabel(_plain(matrix.corner[1]))
    for (down, across), shade in np.ndenumerate(shades):
        colour = "white" if shade > 0.5 else "black"
        axes.text(across, down, _plain(matrix.cells[down][across]), ha="center", va="center", color=colour)


def _short(name: str) -> str:
    return _plain(shortened(name.replace("_", " "), 18))


def _plain(text: str) -> str:
    """The text with dollars escaped, between which matplotlib expects a formula."""
    return printable(text).replace("$", r"\$")
