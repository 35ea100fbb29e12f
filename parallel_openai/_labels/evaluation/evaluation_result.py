"""`Evaluation`: the result of `evaluate`, and its rendering."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from parallel_openai._display.blocks import (
    Advice,
    Axis,
    Bar,
    Bars,
    Block,
    Curve,
    Fact,
    Facts,
    Heading,
    Matrix,
    Picture,
    Sentence,
    Table,
    counted,
    number,
    shortened,
)
from parallel_openai._display.charts import draw
from parallel_openai._display.display import Display
from parallel_openai._frames.columns.table import column_text
from parallel_openai._labels.label_pairs import NO_LABEL, Kind
from parallel_openai._progress.number_format import dollars
from parallel_openai.errors import InvalidInputError

if TYPE_CHECKING:
    from parallel_openai._display.charts import Figure

#: How many of the most frequent labels are shown, and points in a chart.
MOST_LABELS, _POINTS = 12, 240


@dataclass(frozen=True, repr=False)
class Evaluation(Display):
    """How good labels are; `print` it, let a notebook show it, or `plot` it.

    A row without a label (failed, abstained from, or not sent yet) counts as wrong, except in attributes that end in
    `_labelled`, which are for the rows with a label.

    Attributes:
        rows: rows with a gold label.
        labelled: of these, rows with a label.
        failed: of these, rows whose request failed.
        accuracy: the share of rows that are right; with several labels per row, all of them.
        accuracy_labelled: the same for the rows with a label.
        macro_f1: the mean of the labels' F1.
        macro_f1_labelled: the same for the rows with a label.
        micro_f1: F1 over all labels together; differs from accuracy if a row has several labels or none.
        examples: rows with a gold label that are left out because they are few-shot examples.
        kappa: Cohen's kappa with the gold labels, on the rows with a label. If labels are numbers or ordered
            categories it is weighted by the square of the distance (`ordinal` is then True).
        intervals: 95 % intervals: Wilson's for `accuracy`; for `macro_f1` the bootstrap's, or with fewer than ten right
            or ten wrong rows the mean of the labels' intervals.
        majority: the share of the most frequent gold label, which is the accuracy of always guessing it.
        per_label: for each label `precision`, `recall` and `f1` with `_low` and `_high` of their intervals, and the
            number of rows that have it in `gold` and in `given`.
        confusion: rows by gold label (down) and given label (across); with several labels per row, for each label how
            often it was rightly given (`both`), missed (`only_gold`) and wrongly given (`only_given`).
        ece: expected calibration error over the bins; NaN if no confidence is known.
        calibration: the bins: `low` to `high`, `rows`, their mean `confidence` and their `accuracy`.
        coverage: the most confident rows, for each lowest confidence: `coverage` (the share of `rows`), `rows`,
            `confidence` (the lowest) and `accuracy`.
        mean_absolute_error: of scores; otherwise NaN.
        spearman: the rank correlation of scores; otherwise NaN.
        cost_usd: dollars in all; NaN if prices are unknown.
        cost_per_correct: dollars per right label; NaN if prices are unknown.
        mistakes: the rows with a wrong label, the most confident first.
        strange_gold: gold labels that are not among the question's, and how often they occur.
        simulated: whether the answers came from the simulator.
    """

    gold: Hashable
    label: Hashable
    kind: Kind
    labels: tuple[str, ...]
    rows: int
    labelled: int
    failed: int
    accuracy: float
    accuracy_labelled: float
    macro_f1: float
    macro_f1_labelled: float
    micro_f1: float
    examples: int
    kappa: float
    ordinal: bool
    intervals: Mapping[str, tuple[float, float]]
    majority: float
    per_label: pd.DataFrame = field(compare=False)
    confusion: pd.DataFrame = field(compare=False)
    ece: float
    calibration: pd.DataFrame = field(compare=False)
    coverage: pd.DataFrame = field(compare=False)
    mean_absolute_error: float
    spearman: float
    cost_usd: float
    cost_per_correct: float
    mistakes: pd.DataFrame = field(compare=False)
    strange_gold: Mapping[str, int]
    simulated: bool

    def accuracy_at(self, coverage: float) -> float:
        """The accuracy of the most confident share of the rows; equally confident rows count with their mean.

        Raises:
            InvalidInputError: coverage is not above 0 and up to 1, or fewer rows than that have a confidence.

        >>> import parallel_openai as po
        >>> out = pd.DataFrame({"label": list("abab"), "gold": list("abba"), "confidence": [0.9, 0.8, 0.6, 0.5]})
        >>> po.evaluate(out, gold="gold").accuracy_at(0.5)
        1.0
        """
        wanted = coverage * self.rows
        steps = self.coverage
        if not 0 < coverage <= 1 or steps.empty or round(wanted, 9) > steps["rows"].iloc[-1]:
            most = 0 if steps.empty else steps["rows"].iloc[-1] / self.rows
            raise InvalidInputError(f"coverage must be above 0 and up to {most:g} here, not {coverage!r}.")
        rows, right = steps["rows"].to_numpy(), steps["rows"].to_numpy() * steps["accuracy"].to_numpy()
        return float(np.interp(wanted, [0, *rows], [0, *right]) / wanted)

    def plot(self) -> Figure:
        """Plot the confusion, F1 of each label, calibration, and accuracy by coverage.

        Raises:
            MissingDependencyError: matplotlib is not installed.
        """
        return draw(self.blocks())

    def blocks(self) -> list[Block]:
        frequent = set(self.per_label["gold"].sort_values(ascending=False, kind="stable").index[:MOST_LABELS])
        kept = [label for label in self.labels if label in frequent]
        more = len(self.labels) - len(kept)
        names = f"{column_text(self.label)} against {column_text(self.gold)}"
        right = round(self.accuracy * self.rows)
        left_out = f"{self.examples:,} more left out: they are few-shot examples"
        return [
            Heading(f"{names}: {right:,} of {self.rows:,} rows are right", self.simulated),
            Sentence(f"{counted(self.rows, 'row')} with a gold label, {self.labelled:,} of them labelled"),
            *([Sentence(left_out)] if self.examples else []),
            Facts(list(self._facts())),
            *([self._without_a_label()] if self.labelled < self.rows else []),
            self._confusion(kept),
            _each_label(self.per_label.loc[kept]),
            *([Sentence(f"{more} less frequent labels are in .per_label and .confusion")] if more else []),
            *([] if self.calibration.empty else [self._calibration(), self._coverage()]),
            *([Advice(self._strange())] if self.strange_gold else []),
        ]

    def _facts(self) -> Iterator[Fact]:
        low, high = self.intervals["accuracy"]
        several = ", all labels of a row right" if self.kind == "several" else ""
        yield Fact("accuracy", number(self.accuracy, ".3f"), f"({low:.3f} to {high:.3f}){several}")
        low, high = self.intervals["macro_f1"]
        yield Fact("macro F1", number(self.macro_f1, ".3f"), f"({low:.3f} to {high:.3f})")
        if self.kind == "several":
            yield Fact("micro F1", number(self.micro_f1, ".3f"))
        yield Fact("majority", number(self.majority, ".3f"), "always guessing the most frequent")
        if self.kappa == self.kappa:
            yield Fact("kappa", number(self.kappa, ".3f"), "weighted by squared distance" if self.ordinal else "")
        if self.mean_absolute_error == self.mean_absolute_error:
            note = f"mean absolute error, Spearman {self.spearman:.3f}"
            yield Fact("scores", number(self.mean_absolute_error, ".3f"), note)
        if self.ece == self.ece:
            yield Fact("ECE", number(self.ece, ".3f"), "calibration error")
        if not self.coverage.empty and self.coverage["coverage"].iloc[-1] >= 0.5:
            yield Fact("top half", number(self.accuracy_at(0.5), ".3f"), "accuracy of the most confident half")
        if self.cost_per_correct > 0:
            yield Fact("cost", dollars(self.cost_usd), f"in all, {dollars(self.cost_per_correct)} per right label")

    def _without_a_label(self) -> Table:
        without = self.rows - self.labelled
        why = f"{self.failed:,} failed, {without - self.failed:,} abstained or not sent"
        wrong = f"all rows; the {without:,} without a label ({why}) count as wrong"
        both = (
            (wrong, self.rows, self.accuracy, self.macro_f1),
            ("rows with a label only", self.labelled, self.accuracy_labelled, self.macro_f1_labelled),
        )
        rows = [(what, number(count), *(number(score, ".3f") for score in scores)) for what, count, *scores in both]
        return Table("Rows without a label", ("", "rows", "accuracy", "macro F1"), rows)

    def _confusion(self, kept: Sequence[str]) -> Matrix:
        counts = self.confusion.loc[list(kept)]
        shares = counts.div(np.maximum(counts.sum(axis=1), 1), axis=0)
        across = [*kept, *([NO_LABEL] if NO_LABEL in counts else [])]
        title, corner, names = "Confusion", ("gold", "given"), [shortened(label, 24) for label in across]
        if self.kind == "several":
            across, title, corner = list(counts.columns), "Where they differ", ("", "")
            names = ["rightly given", "missed", "wrongly given"]
        cells = [[number(int(count)) for count in row] for row in counts[across].to_numpy()]
        return Matrix(
            title, corner, [shortened(label, 40) for label in kept], names, cells, shares[across].to_numpy().tolist()
        )

    def _calibration(self) -> Picture:
        bins = self.calibration
        sizes = np.sqrt(bins["rows"] / bins["rows"].max()).tolist()
        curves = [
            Curve("as sure as right", "line", [0, 1], [0, 1], None),
            Curve("rows by confidence", "dots", bins["confidence"].tolist(), bins["accuracy"].tolist(), sizes=sizes),
        ]
        return Picture(f"Accuracy by confidence, ECE {self.ece:.3f}", _unit("confidence"), _unit("accuracy"), curves)

    def _coverage(self) -> Picture:
        steps = self.coverage.iloc[:: max(1, len(self.coverage) // _POINTS)]
        curves = [
            Curve("the most confident", "line", steps["coverage"].tolist(), steps["accuracy"].tolist()),
            Curve("all labelled rows", "line", [0, 1], [self.accuracy_labelled] * 2, None),
        ]
        return Picture("Accuracy of the most confident rows", _unit("share of the rows"), _unit("accuracy"), curves)

    def _strange(self) -> str:
        found = ", ".join(f"{text!r} in {count:,}" for text, count in list(self.strange_gold.items())[:8])
        return f"Gold labels that are not among the labels, so never right: {found} rows."


def _unit(name: str) -> Axis:
    return Axis(name, 0.0, 1.0, ("0", "1"))


def _each_label(labels: pd.DataFrame) -> Bars:
    bars = []
    for name, row in labels.iterrows():
        low, high = row["f1_low"], row["f1_high"]
        scores = [number(row[score], ".2f") for score in ("precision", "recall", "f1")]
        counts = [number(int(row["gold"])), number(int(row["given"]))]
        cells = (str(name), *scores, number(low, ".2f"), number(high, ".2f"), *counts)
        bars.append(Bar(cells, row["f1"], (low, high)))
    head = ("label", "precision", "recall", "F1", "from", "to", "gold", "given")
    return Bars("Each label, F1 with its 95% interval", head, bars, 1.0, "F1")
