"""A run's report as a figure; matplotlib is imported when one is asked for."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from parallel_openai._frames.reporting.report_html import used
from parallel_openai._progress.number_format import short
from parallel_openai.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from parallel_openai._frames.reporting.report import RunReport

Numbers = npt.NDArray[np.float64]

#: A burst at the start goes out at many times the limit; the picture is cut off above so many times it.
TALLEST = 2.0
#: Points that a line has at the most, and its colours: blue, orange and red of Okabe and Ito, told apart by everybody.
POINTS = 300
RATE, USED, REFUSED = "#0072b2", "#e69f00", "#d55e00"


def draw(report: RunReport) -> Figure:
    figure, axes = new_figure(2, 2, figsize=(11, 6.2))
    figure.suptitle(f"{report.rows:,} rows in {report.seconds:,.1f} s" + (" (simulated)" if report.simulated else ""))
    timeline = _coarser(report.timeline)
    _throughput(axes[0, 0], timeline, "sent", "requests", report)
    _throughput(axes[0, 1], timeline, "tokens_charged", "tokens", report)
    _latency(axes[1, 0], timeline, report)
    _time(axes[1, 1], report)
    return show_once(figure)


def new_figure(rows: int, columns: int, *, figsize: tuple[float, float]) -> tuple[Figure, Any]:
    """A figure and its axes.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise MissingDependencyError.of("Plots need", "matplotlib", error) from error
    figure, axes = pyplot.subplots(rows, columns, figsize=figsize, layout="constrained")
    return figure, axes


def show_once(figure: Figure) -> Figure:
    """The figure as a cell's value, which a notebook shows by itself."""
    import matplotlib
    from matplotlib import pyplot

    if "inline" in matplotlib.get_backend():  # it shows each open figure, and this one is shown as the cell's value
        pyplot.close(figure)
    return figure


def _coarser(timeline: pd.DataFrame) -> pd.DataFrame:
    """At most so many rows; each is the mean of those it stands for."""
    group = max(1, -(-len(timeline) // POINTS))
    return timeline.groupby(np.arange(len(timeline)) // group).mean().set_index(timeline.index[::group])


def _throughput(axes: Axes, timeline: pd.DataFrame, column: str, name: str, report: RunReport) -> None:
    axes.set_title(f"{name.capitalize()} per minute, {used(report.utilisation.get(name))}")
    axes.yaxis.set_major_formatter(lambda value, _: short(value))
    axes.set_xlabel("seconds")
    if timeline.empty:
        return
    minutes = timeline["width"].to_numpy() / 60
    if name not in report.limits and name == "tokens":  # what is charged can be told only where there is a limit
        column = "tokens_used"
    edges, rates = _edges(timeline), timeline[column].to_numpy() / minutes
    axes.stairs(rates, edges, fill=True, color=RATE, alpha=0.3)
    axes.stairs(rates, edges, color=RATE, label=column.removeprefix("tokens_"))
    if column == "sent" and timeline["refused"].any():
        axes.stairs(timeline["refused"].to_numpy() / minutes, edges, color=REFUSED, label="refused")
    if column == "tokens_charged":
        axes.stairs(timeline["tokens_used"].to_numpy() / minutes, edges, color=USED, label="used")
    limits = timeline[f"max_{name}_per_minute"].to_numpy()
    if not np.isnan(limits).all():
        axes.stairs(limits, edges, baseline=None, color="black", linestyle="--", label="limit")
    axes.set_ylim(0, _top(rates, limits))
    axes.set_xlim(edges[0], edges[-1])
    axes.legend(loc="best", frameon=False)


def _top(rates: Numbers, limits: Numbers) -> float:
    highest = max(float(rates.max()), 1.0)
    if np.isnan(limits).all():
        return 1.1 * highest
    return max(min(1.1 * highest, TALLEST * float(np.nanmax(limits))), 1.15 * float(np.nanmax(limits)))


def _latency(axes: Axes, timeline: pd.DataFrame, report: RunReport) -> None:
    axes.set_title("Seconds for an answer")
    axes.set_xlabel("seconds")
    seconds = timeline["seconds"].dropna()
    if seconds.empty:
        return
    axes.plot(seconds.index + timeline["width"].iloc[0] / 2, seconds, color=RATE, marker=".", label="mean")
    for name, style in (("p50", "-"), ("p90", "--"), ("p99", ":")):
        axes.axhline(report.latency[name], color="black", alpha=0.6, linewidth=1, linestyle=style, label=name)
    axes.set_ylim(0, None)
    axes.set_xlim(0, _edges(timeline)[-1])
    axes.legend(loc="best", frameon=False, ncols=4)


def _time(axes: Axes, report: RunReport) -> None:
    axes.set_title("Where the time went")
    axes.set_xlabel("seconds")
    spent = sorted(report.time_spent().items(), key=lambda pair: pair[1])
    bars = axes.barh([fill(cause, 20) for cause, _ in spent], [seconds for _, seconds in spent], color=RATE, height=0.5)
    axes.bar_label(bars, [f" {seconds:,.1f} s" for _, seconds in spent])
    axes.margins(x=0.15, y=0.3 / len(spent))


def _edges(timeline: pd.DataFrame) -> Numbers:
    starts = timeline.index.to_numpy(dtype="float64")
    step = starts[1] - starts[0] if len(starts) > 1 else timeline["width"].iloc[0]
    edges: Numbers = np.append(starts, starts[-1] + step)
    return edges
