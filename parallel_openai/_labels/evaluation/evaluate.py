"""`evaluate`: compare labels with gold labels."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd

from parallel_openai._arguments import check_count
from parallel_openai._frames.columns.run_info import last_run_of
from parallel_openai._frames.columns.table import check_frame, has_column, numbers_of
from parallel_openai._labels.evaluation import metrics
from parallel_openai._labels.evaluation.evaluation_result import Evaluation
from parallel_openai._labels.label_pairs import (
    NO_LABEL,
    LabelColumns,
    Paired,
    example_rows,
    label_columns,
    label_order,
    pair,
)
from parallel_openai.errors import InvalidInputError


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
    """Compare labels with the right ones: accuracy, F1, kappa, calibration, cost and mistakes.

    Args:
        out: what `label_dataframe` returned, or any frame with a column of labels.
        gold: the column with the right labels; None: the one passed to `label_dataframe`. Rows without a gold label
            are left out, and so are rows with the prompt of a few-shot example. Labels are compared as strings, so
            that `Tone.GOOD` and its value, or 1 and 1.0, are equal. Several labels per row are lists.
        label: the column of the labels; None: that of the run (`label`, or the first field).
        confidence: the column with the confidence; None: that of the run, if there is one.
        bins: number of equal-width bins of confidence for calibration.
        resamples: number of bootstrap resamples for the interval of macro F1.
        seed: of the bootstrap, so that the same frame gives the same intervals.

    Returns:
        The metrics as attributes and frames, shown in a notebook or by `print` and `plot()`. See `Evaluation`.

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
    return evaluate_without(out, example_rows(out, label), gold, label, confidence, bins, resamples, seed)


def evaluate_without(
    out: pd.DataFrame,
    excluded: metrics.Bools,
    gold: Hashable,
    label: Hashable | None,
    confidence: Hashable | None = None,
    bins: int = 10,
    resamples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """`evaluate` without the rows `excluded`, and without checks."""
    columns = label_columns(out, label, confidence)
    paired = pair(out, columns, gold, excluded)
    known, order = paired.has_gold, label_order([out[columns.label]], paired.labels)
    answered = known & paired.has_label
    pairs = paired.pairs(known)
    scores = metrics.score(pairs)
    labelled = metrics.score(paired.pairs(answered)) if answered.any() else None
    right, rows = paired.right, int(known.sum())
    confidences = _confidences(out, columns)
    has_confidence = answered & ~np.isnan(confidences)
    known_confidence, known_right = confidences[has_confidence], right[has_confidence]
    coverage = (
        [(count / rows, count, *step) for count, *step in metrics.coverage_steps(known_confidence, known_right)]
        if has_confidence.any()
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
        examples=paired.excluded,
        kappa=paired.kappa(answered, order),
        ordinal=order is not None and paired.kind != "several",
        intervals={
            "accuracy": _accuracy_interval(pairs),
            "macro_f1": metrics.macro_f1_interval(pairs, scores, resamples, seed),
        },
        majority=_majority(paired),
        per_label=_per_label(paired, scores),
        confusion=_confusion(paired, pairs, scores),
        ece=metrics.calibration_error(known_confidence, known_right, bins) if has_confidence.any() else np.nan,
        calibration=pd.DataFrame(
            metrics.calibration_bins(known_confidence, known_right, bins),
            columns=["low", "high", "rows", "confidence", "accuracy"],
        ),
        coverage=pd.DataFrame(coverage, columns=["coverage", "rows", "confidence", "accuracy"]),
        **_of_scores(paired, answered),
        cost_usd=cost,
        cost_per_correct=cost / int(right.sum()) if right.any() else np.nan,
        mistakes=_mistakes(out, answered & ~right, confidences),
        strange_gold=paired.unknown,
        simulated=columns.run.simulated,
    )


def _gold(out: pd.DataFrame) -> Hashable:
    gold: Hashable = last_run_of(out).gold
    if gold is None:
        raise InvalidInputError("Pass gold=, the name of the column with the right labels.")
    return gold


def _confidences(out: pd.DataFrame, columns: LabelColumns) -> metrics.Floats:
    if columns.confidence is None:
        return np.full(len(out), np.nan)
    return numbers_of(out, columns.confidence)


def _cost(out: pd.DataFrame, columns: LabelColumns, rows: metrics.Bools) -> float:
    column = columns.prefix + "cost_usd"
    if not has_column(out, column):
        return np.nan
    spent = numbers_of(out, column)[rows]
    return float(np.nansum(spent)) if not np.isnan(spent).all() else np.nan


def _failed(out: pd.DataFrame, columns: LabelColumns, rows: metrics.Bools) -> int:
    column = columns.prefix + "status"
    return int((rows & out[column].isin(["failed"]).to_numpy()).sum()) if has_column(out, column) else 0


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


def _mistakes(out: pd.DataFrame, rows: metrics.Bools, confidence: metrics.Floats) -> pd.DataFrame:
    wrong = np.flatnonzero(rows)
    return out.iloc[wrong[np.argsort(-np.nan_to_num(confidence[wrong], nan=-1.0), kind="stable")]]
