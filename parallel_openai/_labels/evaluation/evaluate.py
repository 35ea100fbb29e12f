"""`evaluate`: labels beside the right ones, and what that says about the rest."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from parallel_openai._arguments import check_count
from parallel_openai._frames.columns.table import check_frame, has_column, last_run_of
from parallel_openai._labels.evaluation import metrics
from parallel_openai._labels.label_pairs import (
    NO_LABEL,
    Kind,
    LabelColumns,
    Paired,
    label_columns,
    label_order,
    pair,
    shown_rows,
)
from parallel_openai._printable import printable
from parallel_openai._progress.number_format import dollars
from parallel_openai.errors import InvalidInputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def evaluate(
    out: pd.DataFrame,
    gold: Hashable | None = None,
    *,
    label: Hashable | None = None,
    confidence: Hashable | None = None,
    bins: int = 10,
    resamples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Compare labels with the right ones.

    Args:
        out: what `label_dataframe` gave, or any frame with a column of labels.
        gold: the column with the right labels; None: the one that `label_dataframe` was told. Rows where it is empty
            or blank are left out, and so are those whose prompt stands among the few-shot examples that the model was
            shown. Labels are compared as texts, so that `Tone.GOOD` and its value, or 1 and 1.0, are the same.
            Several labels a row are lists.
        label: the column of the labels; None: that of the run (`label`, or the first field).
        confidence: the column with the confidence; None: that of the run, where there is one.
        bins: equal steps of confidence that calibration is counted in.
        resamples: how often the rows are drawn anew, with replacement, for the interval of macro F1.
        seed: of these draws, so that the same frame gives the same intervals.

    Returns:
        The figures: attributes, frames, a page in a notebook, and `plot()`. See `Evaluation`.

    Raises:
        ColumnNotFoundError, InvalidInputError: a column is missing, or no gold label is one of the labels.

    >>> out = pd.DataFrame({"label": ["a", "a", "b", None], "gold": ["a", "b", "b", "b"]})
    >>> found = evaluate(out, gold="gold")
    >>> found.accuracy, found.accuracy_labelled, found.macro_f1
    (0.5, 0.6666666666666666, 0.5833333333333333)
    >>> found.confusion.loc["b"].to_dict()
    {'a': 1, 'b': 1, '(none)': 1}
    """
    check_frame(out)
    for name, number in (("bins", bins), ("resamples", resamples)):
        check_count(number, name)
    check_count(seed, "seed", least=0)
    gold = _gold(out) if gold is None else gold
    return evaluate_without(out, shown_rows(out, label), gold, label, confidence, bins, resamples, seed)


def evaluate_without(
    out: pd.DataFrame,
    shown: metrics.Bools,
    gold: Hashable,
    label: Hashable | None,
    confidence: Hashable | None = None,
    bins: int = 10,
    resamples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """`evaluate`, with the rows given that the model was shown as examples."""
    columns = label_columns(out, label, confidence)
    paired = pair(out, columns, gold, shown)
    return _evaluation(out, columns, paired, gold, bins, resamples, seed)


def _gold(out: pd.DataFrame) -> Hashable:
    told = last_run_of(out).get("gold")
    if told is None:
        raise InvalidInputError("Pass gold=, the name of the column with the right labels.")
    return tuple(told) if isinstance(told, list) else told  # JSON made a list of a tuple


@dataclass(frozen=True)
class Evaluation:
    """How good labels are. `print` it for the figures in short; a notebook shows it as a page; `plot` draws it.

    A row without a label (failed, left out as doubtful, or not asked yet) counts as wrong; what ends in `_labelled` is
    about the rows that have one.

    Attributes:
        rows: rows with a gold label.
        labelled: of these, rows with a label.
        failed: of these, rows whose request failed.
        accuracy, accuracy_labelled: the share of rows that are right; of several labels, all of them.
        macro_f1, macro_f1_labelled: the mean of the labels' F1.
        micro_f1: F1 over all labels together; differs from accuracy where a row has several labels or none.
        examples: rows with a gold label that are left out, since the model was shown them as examples.
        kappa: Cohen's kappa, agreement with the gold labels beyond chance, of the rows that have a label. Where labels
            are numbers or ordered categories a difference weighs by its square (`ordinal` is True then).
        intervals: 95 % intervals: Wilson's for `accuracy`; for `macro_f1` the middle of the resamples, or with fewer
            than ten right or ten wrong rows the mean of the labels' intervals.
        majority: the share of the most frequent gold label: what guessing it always would get right.
        per_label: for each label `precision`, `recall` and `f1` with `_low` and `_high` of their intervals, and how
            many rows have it in `gold` and in `given`.
        confusion: rows by gold label (down) and label given (across); of several labels, for each how often it was
            rightly given (`both`), missed (`only_gold`), wrongly given (`only_given`).
        ece: how far accuracy is from confidence, over the bins; NaN where no confidence is known.
        calibration: the bins: `low` to `high`, `rows`, their mean `confidence` and their `accuracy`.
        coverage: what is left where the least confident are left out: `coverage` (the share of `rows`), `rows`,
            `confidence` (of the least confident left) and `accuracy`.
        mean_absolute_error, spearman: of scores; else NaN.
        cost_usd, cost_per_correct: dollars in all, and for each right label; NaN where prices are not known.
        mistakes: the rows with a label that is not right, the most confident first.
        strange_gold: gold labels that are none of the question's, and how often.
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
    per_label: pd.DataFrame = field(repr=False, compare=False)
    confusion: pd.DataFrame = field(repr=False, compare=False)
    ece: float
    calibration: pd.DataFrame = field(repr=False, compare=False)
    coverage: pd.DataFrame = field(repr=False, compare=False)
    mean_absolute_error: float
    spearman: float
    cost_usd: float
    cost_per_correct: float
    mistakes: pd.DataFrame = field(repr=False, compare=False)
    strange_gold: Mapping[str, int]
    simulated: bool

    def accuracy_at(self, coverage: float) -> float:
        """The accuracy of the most confident share of the rows; of equally confident ones, on the mean.

        Raises:
            InvalidInputError: it is not above 0 and up to 1, or so many rows have no confidence.

        >>> out = pd.DataFrame({"label": list("abab"), "gold": list("abba"), "confidence": [0.9, 0.8, 0.6, 0.5]})
        >>> evaluate(out, gold="gold").accuracy_at(0.5)
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
        """A figure: confusion, F1 of each label, calibration, and coverage against accuracy.

        Raises:
            MissingDependencyError: matplotlib is not installed.
        """
        from parallel_openai._labels.evaluation.evaluate_plot import draw

        return draw(self)

    def __str__(self) -> str:
        return "\n".join(map(printable, _lines(self)))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from parallel_openai._labels.evaluation.evaluate_html import page

        return page(self)


def _evaluation(
    out: pd.DataFrame,
    columns: LabelColumns,
    paired: Paired,
    gold: Hashable,
    bins: int,
    resamples: int,
    seed: int,
) -> Evaluation:
    known, order = paired.has_gold, label_order([out[columns.label]], paired.labels)
    answered = known & paired.has_label
    pairs = paired.pairs(known)
    scores = metrics.score(pairs)
    labelled = metrics.score(paired.pairs(answered)) if answered.any() else None
    right, rows = paired.right, int(known.sum())
    sure = _confidence(out, columns)
    told = answered & ~np.isnan(sure)
    steps = (
        [
            (count / rows, count, least, accuracy)
            for count, least, accuracy in metrics.coverage_steps(sure[told], right[told])
        ]
        if told.any()
        else []
    )
    cost = _cost(out, columns, known)
    return Evaluation(
        gold=gold,
        label=columns.label,
        kind=paired.kind,
        labels=paired.labels,
        rows=rows,
        labelled=int(answered.sum()),
        failed=_failed(out, columns, known & ~paired.has_label),
        accuracy=float(scores.accuracy),
        accuracy_labelled=float(labelled.accuracy) if labelled else np.nan,
        macro_f1=float(scores.macro_f1),
        macro_f1_labelled=float(labelled.macro_f1) if labelled else np.nan,
        micro_f1=float(scores.micro_f1),
        examples=paired.without,
        kappa=paired.kappa(answered, order),
        ordinal=order is not None and paired.kind != "several",
        intervals={
            "accuracy": _accuracy_interval(pairs),
            "macro_f1": metrics.macro_f1_interval(pairs, scores, resamples, seed),
        },
        majority=_majority(paired),
        per_label=_per_label(paired, scores),
        confusion=_confusion(paired, pairs, scores),
        ece=metrics.calibration_error(sure[told], right[told], bins) if told.any() else np.nan,
        calibration=pd.DataFrame(
            metrics.calibration_bins(sure[told], right[told], bins),
            columns=["low", "high", "rows", "confidence", "accuracy"],
        ),
        coverage=pd.DataFrame(steps, columns=["coverage", "rows", "confidence", "accuracy"]),
        **_of_scores(paired, answered),
        cost_usd=cost,
        cost_per_correct=cost / int(right.sum()) if right.any() else np.nan,
        mistakes=_mistakes(out, answered & ~right, sure),
        strange_gold=paired.strange,
        simulated=bool(columns.run.get("simulated")),
    )


def _confidence(out: pd.DataFrame, columns: LabelColumns) -> metrics.Floats:
    if columns.confidence is None:
        return np.full(len(out), np.nan)
    return out[columns.confidence].to_numpy(dtype="float64", na_value=np.nan)


def _beside(out: pd.DataFrame, columns: LabelColumns, name: str) -> pd.Series[Any] | None:
    """A column of the run, where the frame still has it."""
    column = columns.prefix + name
    return out[column] if has_column(out, column) else None


def _cost(out: pd.DataFrame, columns: LabelColumns, rows: metrics.Bools) -> float:
    cost = _beside(out, columns, "cost_usd")
    if cost is None:
        return np.nan
    spent = cost.to_numpy(dtype="float64", na_value=np.nan)[rows]
    return float(np.nansum(spent)) if not np.isnan(spent).all() else np.nan


def _failed(out: pd.DataFrame, columns: LabelColumns, rows: metrics.Bools) -> int:
    status = _beside(out, columns, "status")
    return 0 if status is None else int((rows & (status == "failed").to_numpy(dtype=bool)).sum())


def _majority(paired: Paired) -> float:
    kinds = pd.Series([tuple(sorted(texts)) for texts, has in zip(paired.gold, paired.has_gold, strict=True) if has])
    return float(kinds.value_counts(normalize=True).iloc[0])


def _accuracy_interval(pairs: metrics.Pairs) -> tuple[float, float]:
    low, high = metrics.wilson(pairs.counts @ pairs.right, pairs.counts.sum())
    return float(low), float(high)


def _per_label(paired: Paired, scores: metrics.Scores) -> pd.DataFrame:
    columns: dict[str, Any] = {}
    for name, (low, high) in metrics.label_intervals(scores).items():
        columns |= {name: getattr(scores, name), f"{name}_low": low, f"{name}_high": high}
    counts = {"gold": scores.gold.astype("int64"), "given": scores.given.astype("int64")}
    return pd.DataFrame({**columns, **counts}, index=pd.Index(paired.labels, name="label"))


def _confusion(paired: Paired, pairs: metrics.Pairs, scores: metrics.Scores) -> pd.DataFrame:
    names = pd.Index(paired.labels, name="gold")
    if paired.kind == "several":
        both = pairs.counts @ (pairs.gold & pairs.given)
        columns = {"both": both, "only_gold": scores.gold - both, "only_given": scores.given - both}
        return pd.DataFrame(columns, index=names.rename("label")).astype("int64")
    cells = pairs.gold.T @ (pairs.given * pairs.counts[:, None])
    matrix = pd.DataFrame(cells.astype("int64"), index=names, columns=pd.Index(paired.labels, name="label"))
    none = pairs.gold.T @ (pairs.counts * ~pairs.given.any(axis=1))
    return matrix.assign(**{NO_LABEL: none.astype("int64")}) if none.any() else matrix


def _of_scores(paired: Paired, rows: metrics.Bools) -> dict[str, float]:
    """How far scores are from the right ones."""
    if paired.kind != "score" or not rows.any():
        return {"mean_absolute_error": np.nan, "spearman": np.nan}
    chosen: list[int] = np.flatnonzero(rows).tolist()
    gold, given = (
        pd.Series([float(texts[row][0]) for row in chosen], dtype="float64") for texts in (paired.gold, paired.given)
    )
    constant = gold.nunique() < 2 or given.nunique() < 2
    return {
        "mean_absolute_error": float((gold - given).abs().mean()),
        "spearman": np.nan if constant else float(gold.rank().corr(given.rank())),
    }


def _mistakes(out: pd.DataFrame, rows: metrics.Bools, sure: metrics.Floats) -> pd.DataFrame:
    wrong = np.flatnonzero(rows)
    return out.iloc[wrong[np.argsort(-np.nan_to_num(sure[wrong], nan=-1.0), kind="stable")]]


def _lines(found: Evaluation) -> list[str]:
    """The figures in short."""
    mark = " (simulated)" if found.simulated else ""
    low, high = found.intervals["accuracy"]
    lines = [
        f"{found.rows:,} rows with a gold label, {found.labelled:,} of them labelled{mark}",
        f"accuracy   {found.accuracy:.3f} ({low:.3f} to {high:.3f}); always guessing the most frequent: "
        f"{found.majority:.3f}",
        "macro F1   {:.3f} ({:.3f} to {:.3f})".format(found.macro_f1, *found.intervals["macro_f1"]),
    ]
    if found.examples:
        lines.insert(1, f"{found.examples:,} more left out: the model was shown them as examples")
    if found.kappa == found.kappa:
        lines.append(f"kappa      {found.kappa:.3f}" + (", by the square of the distance" if found.ordinal else ""))
    if found.labelled < found.rows:
        lines.append(
            f"labelled rows only: accuracy {found.accuracy_labelled:.3f}, macro F1 {found.macro_f1_labelled:.3f}"
        )
    if found.kind == "several":
        lines.append(f"micro F1   {found.micro_f1:.3f} (accuracy: all labels of a row right)")
    if found.mean_absolute_error == found.mean_absolute_error:
        lines.append(f"scores     {found.mean_absolute_error:.3f} off on the mean, Spearman {found.spearman:.3f}")
    if found.ece == found.ece:
        lines.append(f"ECE        {found.ece:.3f}")
    if not found.coverage.empty and found.coverage["coverage"].iloc[-1] >= 0.5:
        lines.append(f"most confident half: accuracy {found.accuracy_at(0.5):.3f}")
    if found.cost_per_correct > 0:
        lines.append(f"cost       {dollars(found.cost_usd)}, {dollars(found.cost_per_correct)} for each right label")
    if found.strange_gold:
        lines.append(f"gold labels that are none of the labels: {', '.join(map(repr, found.strange_gold))}")
    return lines
