"""Figures of merit, counted from right and given labels; they need neither scikit-learn nor statsmodels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

#: Resamples that are drawn at a time, so that many rows do not fill the memory.
_AT_ONCE = 50
#: How often an interval holds what it is about, and the normal distribution's quantile for that.
LEVEL = 0.95
_QUANTILE = NormalDist().inv_cdf((1 + LEVEL) / 2)
#: Rows that have to be right, and that have to be wrong, for resampling to tell how far a figure may be off.
_ENOUGH = 10


@dataclass(frozen=True)
class Pairs:
    """Right and given labels of rows, those that look the same together.

    Attributes:
        gold: which labels are right, one line for each kind of row and one column for each label.
        given: which labels were given; none where there is no label.
        right: whether what was given is what is right.
        counts: how many rows look so.
    """

    gold: Bools
    given: Bools
    right: Bools
    counts: Floats

    @classmethod
    def of_codes(cls, gold: npt.NDArray[np.int64], given: npt.NDArray[np.int64], labels: int) -> Pairs:
        """Of rows with one label each, by the labels' numbers; -1 where none was given."""
        kinds, counts = np.unique(np.stack([gold, given]), axis=1, return_counts=True)
        numbers = np.arange(labels)
        return cls(
            kinds[0][:, None] == numbers, kinds[1][:, None] == numbers, kinds[0] == kinds[1], counts.astype("float64")
        )

    @classmethod
    def of_sets(cls, gold: Bools, given: Bools, answered: Bools) -> Pairs:
        """Of rows with several labels each, one line for a row."""
        return cls(gold, given, (gold == given).all(axis=1) & answered, np.ones(len(gold)))


@dataclass(frozen=True)
class Scores:
    """What comes of pairs, or of many resamples of them (then each has one more axis, the first).

    Precision is 0 where a label was never given, recall where it is never right, F1 where both.
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
    """The scores of pairs; `counts` are other counts of the same pairs, several sets of them in lines.

    Macro F1 is the mean over the labels that are right or given anywhere.

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
    """Part of a whole, 0 where there is nothing."""
    whole = np.asarray(whole, dtype="float64")
    shares: Floats = np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)
    return shares


def bootstrap(pairs: Pairs, resamples: int, seed: int) -> Floats:
    """Macro F1 of so many resamples of the rows, drawn with replacement."""
    return np.concatenate(
        [score(pairs, counts).macro_f1 for counts in _draws(pairs, resamples, np.random.default_rng(seed))]
    )


def _draws(pairs: Pairs, resamples: int, dice: np.random.Generator) -> Iterator[Floats]:
    """To draw rows is to draw how many there are of each kind."""
    rows = int(pairs.counts.sum())
    for begin in range(0, resamples, _AT_ONCE):
        drawn = dice.multinomial(rows, pairs.counts / rows, size=min(_AT_ONCE, resamples - begin))
        yield drawn.astype("float64")


def wilson(part: Floats, whole: Floats) -> tuple[Floats, Floats]:
    """Where 95 % of the intervals hold the share that `part` of `whole` was drawn from; 0 to 1 where `whole` is 0.

    The score interval (Wilson 1927; Brown, Cai and DasGupta 2001), for independent rows, good from few of them on and
    for shares of 0 and 1.

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
    """Of each label's precision, recall and F1.

    Of the rows in which a label is right or given, the share J in which it is both makes F1 = 2 J / (1 + J), which
    grows with J; so F1's interval is that of J, carried over.
    """
    low, high = wilson(scores.both, scores.gold + scores.given - scores.both)
    return {
        "precision": wilson(scores.both, scores.given),
        "recall": wilson(scores.both, scores.gold),
        "f1": (2 * low / (1 + low), 2 * high / (1 + high)),
    }


def macro_f1_interval(pairs: Pairs, scores: Scores, resamples: int, seed: int) -> tuple[float, float]:
    """Where the middle 95 % of the resamples' macro F1 lie (the percentile bootstrap, Efron 1979).

    With fewer than ten right or ten wrong rows resampling tells too little (of five rows that are all right, each
    resample is all right too); then it is the mean of the intervals of the labels' F1, which is rather too wide.
    """
    right = float(pairs.counts @ pairs.right)
    if min(right, pairs.counts.sum() - right) < _ENOUGH:
        occurs = (scores.gold + scores.given) > 0
        low, high = label_intervals(scores)["f1"]
        return float(low[occurs].mean()), float(high[occurs].mean())
    low, high = np.quantile(bootstrap(pairs, resamples, seed), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def paired_gain(better: int, worse: int, rows: int) -> tuple[float, float, float]:
    """How many more rows are right, as a share, with the 95 % interval of Bonett and Price (2012) for paired shares,
    which adds one row of each kind and so holds for few rows too.

    Args:
        better, worse: rows that only the new one has right, and that only the old one has.
        rows: all of them.
    """
    up, down = (better + 1) / (rows + 2), (worse + 1) / (rows + 2)
    reach = _QUANTILE * math.sqrt((up + down - (up - down) ** 2) / (rows + 2))
    return (better - worse) / rows, max(-1.0, up - down - reach), min(1.0, up - down + reach)


def mcnemar(better: int, worse: int) -> float:
    """How likely pairs differ at least so much if neither is better: the exact, two-sided test (McNemar 1947), for any
    number of rows; it looks at those that only one of the two has right.

    >>> mcnemar(6, 0), mcnemar(3, 3)
    (0.03125, 1.0)
    """
    rows, fewer = better + worse, min(better, worse)
    logs = [math.lgamma(rows + 1) - math.lgamma(k + 1) - math.lgamma(rows - k + 1) for k in range(fewer + 1)]
    return min(1.0, round(2 * math.fsum(math.exp(each - rows * math.log(2)) for each in logs), 12))


def holm(chances: Sequence[float]) -> list[float]:
    """Such probabilities where several are looked at together: after Holm (1979), for any dependence among them.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(chances, kind="stable")
    raised = np.maximum.accumulate(np.asarray(chances)[order] * np.arange(len(order), 0, -1))
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(raised, 1.0)
    return [float(each) for each in adjusted]


def kappa(table: Floats, values: Floats | None = None) -> float:
    """Agreement beyond chance of two annotators (Cohen 1960); NaN where both always give the same single label.

    Args:
        table: how many rows have which label of the one (down) and of the other (across).
        values: where the labels lie, if they have an order; disagreement then weighs by the square of the distance
            (Cohen 1968).

    >>> kappa(np.array([[2.0, 0.0], [1.0, 1.0]]))
    0.5
    """
    weights = 1.0 - np.eye(len(table)) if values is None else (values[:, None] - values) ** 2
    expected = weights * np.outer(table.sum(axis=1), table.sum(axis=0))
    if not expected.sum():
        return math.nan
    return float(1 - (weights * table).sum() * table.sum() / expected.sum())


def calibration_bins(confidence: Floats, right: Bools, bins: int) -> list[tuple[float, float, int, float, float]]:
    """Rows by confidence in equal steps: from (open), to (closed), how many, their mean confidence and accuracy.

    >>> calibration_bins(np.array([0.9, 0.8, 0.2]), np.array([True, False, False]), 2)
    [(0.0, 0.5, 1, 0.2, 0.0), (0.5, 1.0, 2, 0.85, 0.5)]
    >>> [bin[1] for bin in calibration_bins(np.arange(1, 101) / 100, np.ones(100, dtype=bool), 100)][6:9]
    [0.07, 0.08, 0.09]
    """
    # Rounded, or 0.07 of 100 bins would come to 7.000000000000001, and stand in the eighth.
    number = np.clip(np.ceil((confidence * bins).round(9)).astype(int) - 1, 0, bins - 1)
    rows = []
    for each in np.unique(number):
        held = number == each
        mean, accuracy = float(confidence[held].mean().round(12)), float(right[held].mean())
        rows.append((int(each) / bins, (int(each) + 1) / bins, int(held.sum()), mean, accuracy))
    return rows


def calibration_error(confidence: Floats, right: Bools, bins: int) -> float:
    """How far accuracy is from confidence (ECE): over the bins, the mean of the distances by rows.

    >>> calibration_error(np.array([0.9, 0.8, 0.2]), np.array([True, False, False]), 2)
    0.3
    """
    found = calibration_bins(confidence, right, bins)
    return float(round(sum(rows * abs(accuracy - mean) for _, _, rows, mean, accuracy in found) / len(right), 12))


def coverage_steps(confidence: Floats, right: Bools) -> list[tuple[int, float, float]]:
    """The most confident rows first: how many there are from each confidence up, that confidence, their accuracy.

    >>> coverage_steps(np.array([0.5, 0.9, 0.5]), np.array([True, True, False]))
    [(1, 0.9, 1.0), (3, 0.5, 0.6666666666666666)]
    """
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence, hits = confidence[order], np.cumsum(right[order])
    ends = np.flatnonzero(np.append(np.diff(sorted_confidence) != 0, True))
    return [(int(end) + 1, float(sorted_confidence[end]), float(hits[end] / (end + 1))) for end in ends]
