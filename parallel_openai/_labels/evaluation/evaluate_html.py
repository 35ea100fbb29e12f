"""An evaluation as HTML for a notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from parallel_openai._display.html import facts_in_a_row, name, number, table, wrap
from parallel_openai._labels.label_pairs import NO_LABEL
from parallel_openai._progress.number_format import dollars

if TYPE_CHECKING:
    from parallel_openai._labels.evaluation.evaluate import Evaluation

#: Labels that the tables show, the most frequent ones; and the size of a chart.
MOST_LABELS = 12
WIDTH, HEIGHT = 240, 170
_BLUE, _GREY = "#3b82f6", "rgba(128,128,128,.35)"


def page(found: Evaluation) -> str:
    return wrap(
        [_head(found), _facts(found), _views(found), _labels(found), _confusion(found), _charts(found), _notes(found)]
    )


def _head(found: Evaluation) -> str:
    mark = '<span class="po-mark">SIMULATED answers</span>' if found.simulated else ""
    return (
        f'<div class="po-head">{mark}{escape(str(found.label))} against {escape(str(found.gold))}: '
        f"{found.accuracy:.1%} of {found.rows:,} rows are right</div>"
    )


def _facts(found: Evaluation) -> str:
    low, high = found.intervals["accuracy"]
    facts = [
        (f"accuracy ({low:.1%} to {high:.1%})", f"{found.accuracy:.1%}"),
        ("macro F1 ({:.2f} to {:.2f})".format(*found.intervals["macro_f1"]), f"{found.macro_f1:.2f}"),
        ("always guessing the most frequent", f"{found.majority:.1%}"),
    ]
    if found.kappa == found.kappa:
        facts.append(("kappa" + (", by the square of the distance" if found.ordinal else ""), f"{found.kappa:.2f}"))
    if found.kind == "several":
        facts.append(("micro F1", f"{found.micro_f1:.2f}"))
    if found.mean_absolute_error == found.mean_absolute_error:
        facts += [("off on the mean", f"{found.mean_absolute_error:.2f}"), ("Spearman", f"{found.spearman:.2f}")]
    if found.ece == found.ece:
        facts.append(("calibration error (ECE)", f"{found.ece:.3f}"))
    if not found.coverage.empty and found.coverage["coverage"].iloc[-1] >= 0.5:
        facts.append(("accuracy of the most confident half", f"{found.accuracy_at(0.5):.1%}"))
    if found.cost_per_correct > 0:
        facts.append(("for each right label", dollars(found.cost_per_correct)))
    return facts_in_a_row(facts)


def _views(found: Evaluation) -> str:
    """With the rows that have no label, and without: shown where it makes a difference."""
    without = found.rows - found.labelled
    if not without:
        return ""
    why = f"{found.failed:,} failed, {without - found.failed:,} left out or not asked"
    rows = [
        (
            f"all rows; the {without:,} without a label ({why}) count as wrong",
            found.rows,
            found.accuracy,
            found.macro_f1,
        ),
        ("rows with a label only", found.labelled, found.accuracy_labelled, found.macro_f1_labelled),
    ]
    cells = [
        (escape(what), number(f"{count:,}"), number(f"{accuracy:.1%}"), number(f"{f1:.3f}"))
        for what, count, accuracy, f1 in rows
    ]
    return table("Rows without a label", ("", number("rows"), number("accuracy"), number("macro F1")), cells)


def _labels(found: Evaluation) -> str:
    shown = found.per_label.loc[_most_frequent(found)]
    rows = [
        (
            name(str(row.Index)),
            *(number(f"{getattr(row, figure):.2f}") for figure in ("precision", "recall", "f1")),
            _range(float(row.f1), float(row.f1_low), float(row.f1_high)),  # type: ignore[arg-type]  # they are floats
            number(f"{row.gold:,}"),
            number(f"{row.given:,}"),
        )
        for row in shown.itertuples()
    ]
    head = ("label", *map(number, ("precision", "recall", "F1")), "F1, 95% interval", *map(number, ("gold", "given")))
    return table("Each label", head, rows) + _left_out(found)


def _most_frequent(found: Evaluation) -> list[str]:
    """In the order of the labels."""
    frequent = set(found.per_label["gold"].sort_values(ascending=False, kind="stable").index[:MOST_LABELS])
    return [label for label in found.labels if label in frequent]


def _left_out(found: Evaluation) -> str:
    more = len(found.labels) - MOST_LABELS
    text = f"{more} less frequent labels are in .per_label and .confusion"
    return f'<div class="po-dim">{text}</div>' if more > 0 else ""


def _range(middle: float, low: float, high: float) -> str:
    """A bar from 0 to 1 with its interval."""
    return (
        f'<svg width="120" height="12" role="img" aria-label="{low:.2f} to {high:.2f}" style="margin-top:3px">'
        f'<line x1="0" y1="6" x2="120" y2="6" stroke="{_GREY}"/>'
        f'<rect x="{120 * low:.1f}" y="2" width="{max(120 * (high - low), 1):.1f}" height="8" fill="{_BLUE}" '
        f'fill-opacity=".35"/><rect x="{120 * middle - 1:.1f}" y="1" width="2" height="10" fill="{_BLUE}"/></svg>'
    )


def _confusion(found: Evaluation) -> str:
    if found.kind == "several":
        head = ("label", *map(number, ("rightly given", "missed", "wrongly given")))
        rows = [
            (name(label), *(number(f"{count:,}") for count in found.confusion.loc[label]))
            for label in _most_frequent(found)
        ]
        return table("Where they differ", head, rows)
    labels = _most_frequent(found)
    across = [*labels, *([NO_LABEL] if NO_LABEL in found.confusion else [])]
    cells = found.confusion.loc[labels, across]
    shares = cells.div(np.maximum(found.confusion.loc[labels].sum(axis=1), 1), axis=0)
    rows = [
        (
            name(label),
            *(_cell(int(count), share) for count, share in zip(cells.loc[label], shares.loc[label], strict=True)),
        )
        for label in labels
    ]
    head = ("gold, down; given, across", *(number(label[:24]) for label in across))
    return table("Confusion", head, rows)


def _cell(count: int, share: float) -> str:
    """A count, the more blue the more of its line it is."""
    style = f"background:rgba(59,130,246,{0.65 * share:.2f});display:block;padding:1px 6px;text-align:right"
    return f'<span style="{style}">{count:,}</span>'


def _charts(found: Evaluation) -> str:
    if found.calibration.empty:
        return ""
    return f'<div class="po-charts">{_calibration(found.calibration)}{_coverage(found)}</div>'


def _calibration(bins: pd.DataFrame) -> str:
    dots, most = "", bins["rows"].max()
    for row in bins.itertuples():
        x, y = _at(row.confidence, row.accuracy)  # type: ignore[arg-type]  # they are floats
        radius = 3 + 7 * float(np.sqrt(row.rows / most))
        dots += (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{_BLUE}" fill-opacity=".55" stroke="{_BLUE}">'
            f"<title>{row.rows:,} rows: confidence {row.confidence:.2f}, accuracy {row.accuracy:.2f}</title></circle>"
        )
    line = f'<line x1="0" y1="{HEIGHT}" x2="{WIDTH}" y2="0" stroke="currentColor" stroke-dasharray="4 3" opacity=".6"/>'
    return _chart("Accuracy by confidence", line + dots, "confidence", "as sure as right on the dashed line")


def _coverage(found: Evaluation) -> str:
    steps = found.coverage
    steps = steps.iloc[:: max(1, len(steps) // WIDTH)]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(_at, steps["coverage"], steps["accuracy"]))
    _, level = _at(0, found.accuracy_labelled)
    shapes = (
        f'<line x1="0" y1="{level:.1f}" x2="{WIDTH}" y2="{level:.1f}" stroke="currentColor" stroke-dasharray="4 3" '
        f'opacity=".6"/><polyline points="{points}" fill="none" stroke="{_BLUE}" stroke-width="1.6"/>'
    )
    return _chart("Accuracy of the most confident rows", shapes, "share of the rows", "all labelled rows: dashed line")


def _at(x: float, y: float) -> tuple[float, float]:
    return WIDTH * x, HEIGHT * (1 - y)


def _chart(title: str, shapes: str, below: str, note: str) -> str:
    frame = (
        f'<rect x="0" y="0" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="{_GREY}"/>'
        f'<text x="-4" y="8" text-anchor="end" font-size="10" fill="currentColor">1</text>'
        f'<text x="-4" y="{HEIGHT}" text-anchor="end" font-size="10" fill="currentColor">0</text>'
    )
    return (
        f'<div style="margin-left:14px"><h4>{escape(title)}</h4><svg width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">{frame}{shapes}</svg><div class="po-dim" style="display:flex;'
        f'justify-content:space-between;width:{WIDTH}px"><span>0</span><span>{escape(below)}</span><span>1</span></div>'
        f'<div class="po-dim">{escape(note)}</div></div>'
    )


def _notes(found: Evaluation) -> str:
    notes = []
    if found.examples:
        notes.append(f"{found.examples:,} rows are left out, since the model was shown them as examples.")
    if found.strange_gold:
        told = ", ".join(f"{text!r} in {count:,}" for text, count in list(found.strange_gold.items())[:8])
        notes.append(f"Gold labels that are none of the labels, so never right: {told} rows.")
    return "".join(f'<div class="po-advice">{escape(note)}</div>' for note in notes)
