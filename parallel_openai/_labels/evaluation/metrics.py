"""Metrics of gold and given labels, without scikit-learn or statsmodels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

#: Resamples drawn at a time, which bounds the memory.
_CHUNK = 50
#: Confidence level of the intervals, and the normal quantile for it.
LEVEL = 0.95
_QUANTILE = NormalDist().inv_cdf((1 + LEVEL) / 2)
#: Right and wrong rows below which the bootstrap is unreliable.
_MIN_FOR_BOOTSTRAP = 10


@dataclass(frozen=True)
class Pairs:
    """Gold and given labels, with identical rows counted together."""

    gold: Bools  # which labels are right, one line per distinct row and one column per label
    given: Bools  # which labels were given; all False without a label
    right: Bools  # whether the given labels are the right ones
    counts: Floats  # the number of rows like each line

    @classmethod
    def of_codes(cls, gold: npt.NDArray[np.int64], given: npt.NDArray[np.int64], labels: int) -> Pairs:
        """From rows with one label each, as label numbers; -1 if none was given."""
        kinds, counts = np.unique(np.stack([gold, given]), axis=1, return_counts=True)
        numbers = np.arange(labels)
        return cls(
            kinds[0][:, None] == numbers, kinds[1][:, None] == numbers, kinds[0] == kinds[1], counts.astype("float64")
        )

    @classmethod
    def of_sets(cls, gold: Bools, given: Bools, answered: Bools) -> Pairs:
        """From rows with several labels each, one line per row."""
        return cls(gold, given, (gold == given).all(axis=1) & answered, np.ones(len(gold)))


@dataclass(frozen=True)
class Scores:
    """Scores of pairs, or of many resamples of them, which are then the first axis.

    Precision is 0 if a label was never given, recall if it is never right, F1 if both.
    """

    accuracy: Floats
    precision: Floats
    recall: Floats
    f1: Floats
    macro_f1: Floats
    micro_f1: Floats
    both: Floats
    gold: Floats
    given: Floats


def score(pairs: Pairs, counts: Floats | None = None) -> Scores:
    """Score pairs; `counts` replaces their counts, with one resample per line.

    Macro F1 is the mean over the labels that occur in gold or given labels.

    >>> pairs = Pairs.of_codes(np.array([0, 0, 1, 1]), np.array([0, 1, 1, -1]), labels=2)
    >>> scores = score(pairs)
    >>> float(scores.accuracy), scores.precision.tolist(), scores.recall.tolist()
    (0.5, [1.0, 0.5], [0.5, 0.5])
    """
    weights = pairs.counts if counts is None else counts
    both = weights @ (pairs.gold & pairs.given).astype("float64")
    given, gold = weights @ pairs.given.astype("float64"), weights @ pairs.gold.astype("float64")
    f1 = _share(2 * both, given + gold)
    occurs = (given + gold) > 0
    return Scores(
        accuracy=_share(weights @ pairs.right.astype("float64"), weights.sum(axis=-1)),
        precision=_share(both, given),
        recall=_share(both, gold),
        f1=f1,
        macro_f1=_share((f1 * occurs).sum(axis=-1), occurs.sum(axis=-1)),
        micro_f1=_share(2 * both.sum(axis=-1), (given + gold).sum(axis=-1)),
        both=both,
        gold=gold,
        given=given,
    )


def _share(part: Floats, whole: Floats) -> Floats:
    """`part / whole`, 0 if `whole` is 0."""
    whole = np.asarray(whole, dtype="float64")
    shares: Floats = np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)
    return shares


def bootstrap(pairs: Pairs, resamples: int, seed: int) -> Floats:
    """Macro F1 of resamples of the rows, drawn with replacement."""
    rng, rows = np.random.default_rng(seed), int(pairs.counts.sum())
    chunks = []
    for begin in range(0, resamples, _CHUNK):  # drawing rows is drawing how many there are of each distinct row
        counts = rng.multinomial(rows, pairs.counts / rows, size=min(_CHUNK, resamples - begin))
        chunks.append(score(pairs, counts.astype("float64")).macro_f1)
    return np.concatenate(chunks)


def wilson(part: Floats, whole: Floats) -> tuple[Floats, Floats]:
    """The 95 % score interval of the proportion `part / whole`; 0 to 1 if `whole` is 0.

    For independent rows; reliable for few rows and for proportions of 0 and 1 too (Wilson 1927; Brown, Cai and
    DasGupta 2001).

    >>> low, high = wilson(np.array([5.0, 0.0]), np.array([5.0, 0.0]))
    >>> low.round(3).tolist(), high.round(3).tolist()
    ([0.566, 0.0], [1.0, 1.0])
    """
    rows = np.maximum(whole, 1.0)
    share, square = part / rows, _QUANTILE**2
    middle = (share + square / (2 * rows)) / (1 + square / rows)
    reach = _QUANTILE / (1 + square / rows) * np.sqrt(share * (1 - share) / rows + square / (4 * rows**2))
    low, high = np.clip(middle - reach, 0, 1), np.clip(middle + reach, 0, 1)
    return np.where((whole > 0) & (part > 0), low, 0.0), np.where((whole > 0) & (part < whole), high, 1.0)


def label_intervals(scores: Scores) -> dict[str, tuple[Floats, Floats]]:
    """The intervals of each label's precision, recall and F1.

    F1 = 2 J / (1 + J), with J (Jaccard) the share of rows with the label in gold or given that have it in both. As F1
    grows with J, its interval is that of J, transformed.
    """
    low, high = wilson(scores.both, scores.gold + scores.given - scores.both)
    return {
        "precision": wilson(scores.both, scores.given),
        "recall": wilson(scores.both, scores.gold),
        "f1": (2 * low / (1 + low), 2 * high / (1 + high)),
    }


def macro_f1_interval(pairs: Pairs, scores: Scores, resamples: int, seed: int) -> tuple[float, float]:
    """The 95 % interval of macro F1 by the percentile bootstrap (Efron 1979).

    With fewer than ten right or ten wrong rows the bootstrap is too narrow (if all rows are right, so are those of
    every resample). It is then the mean of the labels' F1 intervals, which is conservative.
    """
    right = float(pairs.counts @ pairs.right)
    if min(right, pairs.counts.sum() - right) < _MIN_FOR_BOOTSTRAP:
        occurs = (scores.gold + scores.given) > 0
        low, high = label_intervals(scores)["f1"]
        return float(low[occurs].mean()), float(high[occurs].mean())
    low, high = np.quantile(bootstrap(pairs, resamples, seed), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def paired_gain(better: int, worse: int, rows: int) -> tuple[float, float, float]:
    """The difference of two paired proportions, and its 95 % interval (Bonett and Price 2012, who add one row of each
    kind, so that it holds for few rows too).

    Args:
        better, worse: rows that only the new variant has right, and only the old one.
        rows: the number of all rows.
    """
    up, down = (better + 1) / (rows + 2), (worse + 1) / (rows + 2)
    reach = _QUANTILE * math.sqrt((up + down - (up - down) ** 2) / (rows + 2))
    return (better - worse) / rows, max(-1.0, up - down - reach), min(1.0, up - down + reach)


def mcnemar(better: int, worse: int) -> float:
    """The p-value of the exact, two-sided McNemar test (1947), on the rows that only one of two variants has right.

    >>> mcnemar(6, 0), mcnemar(3, 3)
    (0.03125, 1.0)
    """
    rows, fewer = better + worse, min(better, worse)
    logs = [math.lgamma(rows + 1) - math.lgamma(k + 1) - math.lgamma(rows - k + 1) for k in range(fewer + 1)]
    return min(1.0, round(2 * math.fsum(math.exp(each - rows * math.log(2)) for each in logs), 12))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for multiple comparisons after Holm (1979), whatever their dependence.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    raised = np.maximum.accumulate(np.asarray(p_values)[order] * np.arange(len(order), 0, -1))
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(raised, 1.0)
    return [float(each) for each in adjusted]


def kappa(table: Floats, values: Floats | None = None) -> float:
    """Cohen's kappa (1960) of two annotators; NaN if both always give the same single label.

    Args:
        table: counts of rows by the labels of the one (down) and of the other (across).
        values: the labels' positions if they have an order; disagreement is then weighted by the square of the
            distance (Cohen 1968).

    >>> kappa(np.array([[2.0, 0.0], [1.0, 1.0]]))
    0.5
    """
    weights = 1.0 - np.eye(len(table)) if values is None else (values[:, None] - values) ** 2
    expected = weights * np.outer(table.sum(axis=1), table.sum(axis=0))
    if not expected.sum():
        return math.nan
    return float(1 - (weights * table).sum() * table.sum() / expected.sum())


def calibration_bins(confidence: Floats, right: Bools, bins: int) -> list[tuple[float, float, int, float, float]]:
    """Bins of equal width, without empty ones: low (open), high (closed), rows, mean confidence, accuracy.

    >>> calibration_bins(np.array([0.9, 0.8, 0.2]), np.array([True, False, False]), 2)
    [(0.0, 0.5, 1, 0.2, 0.0), (0.5, 1.0, 2, 0.85, 0.5)]
    >>> [bin[1] for bin in calibration_bins(np.arange(1, 101) / 100, np.ones(100, dtype=bool), 100)][6:9]
    [0.07, 0.08, 0.09]
    """
    # Rounded, because 0.07 * 100 is 7.000000000000001, which would fall into the eighth bin.
    number = np.clip(np.ceil((confidence * bins).round(9)).astype(int) - 1, 0, bins - 1)
    rows = []
    for each in np.unique(number):
        held = number == each
        mean, accuracy = float(confidence[held].mean().round(12)), float(right[held].mean())
        rows.append((int(each) / bins, (int(each) + 1) / bins, int(held.sum()), mean, accuracy))
    return rows


def calibration_error(confidence: Floats, right: Bools, bins: int) -> float:
    """Expected calibration error: the distance of accuracy and confidence in each bin, averaged over rows.

    >>> calibration_error(np.array([0.9, 0.8, 0.2]), np.array([True, False, False]), 2)
    0.3
    """
    found = calibration_bins(confidence, right, bins)
    return float(round(sum(rows * abs(accuracy - mean) for _, _, rows, mean, accuracy in found) / len(right), 12))


def coverage_steps(confidence: Floats, right: Bools) -> list[tuple[int, float, float]]:
    """For each confidence from the highest down: rows with at least that confidence, the confidence, their accuracy.

    >>> coverage_steps(np.array([0.5, 0.9, 0.5]), np.array([True, True, False]))
    [(1, 0.9, 1.0), (3, 0.5, 0.6666666666666666)]
    """
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence, hits = confidence[order], np.cumsum(right[order])
    ends = np.flatnonzero(np.append(np.diff(sorted_confidence) != 0, True))
    return [(int(end) + 1, float(sorted_confidence[end]), float(hits[end] / (end + 1))) for end in ends]
