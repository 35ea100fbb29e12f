"""An evaluation as a figure; matplotlib is imported when one is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from parallel_openai._frames.reporting.report_plot import RATE, new_figure, show_once
from parallel_openai._labels.evaluation.evaluate_html import MOST_LABELS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from parallel_openai._labels.evaluation.evaluate import Evaluation


def draw(found: Evaluation) -> Figure:
    figure, axes = new_figure(2, 2, figsize=(11, 7.6))
    mark = " (simulated)" if found.simulated else ""
    names = _plain(f"{found.label} against {found.gold}")
    figure.suptitle(f"{names}: {found.accuracy:.1%} of {found.rows:,} rows are right{mark}")
    _confusion(axes[0, 0], found)
    _labels(axes[0, 1], found)
    _calibration(axes[1, 0], found)
    _coverage(axes[1, 1], found)
    return show_once(figure)


def _confusion(axes: Axes, found: Evaluation) -> None:
    axes.set_title("Confusion" if found.kind != "several" else "Where they differ")
    cells = found.confusion
    kept = found.per_label["gold"].sort_values(ascending=False, kind="stable").index[:MOST_LABELS]
    cells = cells.loc[[label for label in cells.index if label in kept]]
    if found.kind != "several":
        cells = cells[[label for label in cells.columns if label in kept or label not in found.labels]]
    counts = cells.to_numpy()
    shares = cells.div(np.maximum(cells.sum(axis=1), 1), axis=0).to_numpy()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(cells.shape[1]), list(map(_short, cells.columns)), rotation=30, ha="right")
    axes.set_yticks(range(cells.shape[0]), list(map(_short, cells.index)))
    axes.set_xlabel("given")
    axes.set_ylabel("gold")
    for (down, across), share in np.ndenumerate(shares):
        colour = "white" if share > 0.5 else "black"
        axes.text(across, down, f"{counts[down, across]:,}", ha="center", va="center", color=colour)


def _short(name: Any) -> str:
    text = str(name).replace("_", " ")
    return _plain(text if len(text) <= 18 else text[:17] + "…")


def _plain(text: str) -> str:
    """As it stands: matplotlib takes what is between two dollars for a formula."""
    return text.replace("$", r"\$")


def _labels(axes: Axes, found: Evaluation) -> None:
    axes.set_title("F1 of each label, with 95% interval")
    shown = found.per_label.sort_values("gold", ascending=False, kind="stable")[:MOST_LABELS][::-1]
    middle = shown["f1"].to_numpy()
    reach = [np.maximum(middle - shown["f1_low"], 0), np.maximum(shown["f1_high"] - middle, 0)]
    axes.barh(range(len(shown)), middle, xerr=reach, color=RATE, alpha=0.75, height=0.6, capsize=3)
    axes.set_yticks(range(len(shown)), list(map(_short, shown.index)))
    axes.set_xlim(0, 1)


def _calibration(axes: Axes, found: Evaluation) -> None:
    axes.set_title("Accuracy by confidence" + (f", ECE {found.ece:.3f}" if found.ece == found.ece else ""))
    axes.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1, alpha=0.6)
    bins = found.calibration
    if not bins.empty:
        sizes = 20 + 380 * bins["rows"] / bins["rows"].max()
        axes.plot(bins["confidence"], bins["accuracy"], color=RATE, linewidth=1)
        axes.scatter(bins["confidence"], bins["accuracy"], s=sizes, color=RATE, alpha=0.55)
    _unit_square(axes, "confidence", "accuracy")


def _coverage(axes: Axes, found: Evaluation) -> None:
    axes.set_title("Accuracy of the most confident rows")
    axes.plot(found.coverage["coverage"], found.coverage["accuracy"], color=RATE)
    axes.axhline(found.accuracy_labelled, color="black", linestyle="--", linewidth=1, alpha=0.6)
    _unit_square(axes, "share of the rows", "accuracy")


def _unit_square(axes: Axes, below: str, beside: str) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel(below)
    axes.set_ylabel(beside)
