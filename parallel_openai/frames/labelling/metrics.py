"""Figures of merit, counted from right and given labels. They agree with scikit-learn's, which need not be there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

#: Resamples that are drawn at a time, so that many rows do not fill the memory.
_AT_ONCE = 50
#: The share of the resamples that an interval holds.
LEVEL = 0.95


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
        gold=gold,
        given=given,
    )


def _share(part: Floats, whole: Floats) -> Floats:
    """Part of a whole, 0 where there is nothing."""
    whole = np.asarray(whole, dtype="float64")
    shares: Floats = np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)
    return shares


def bootstrap(pairs: Pairs, resamples: int, seed: int) -> Scores:
    """The scores of so many resamples of the rows, drawn with replacement."""
    parts = [score(pairs, counts) for counts in _draws(pairs, resamples, np.random.default_rng(seed))]
    return Scores(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in Scores.__annotations__})


def _draws(pairs: Pairs, resamples: int, dice: np.random.Generator) -> Iterator[Floats]:
    """To draw rows is to draw how many there are of each kind."""
    rows = int(pairs.counts.sum())
    for begin in range(0, resamples, _AT_ONCE):
        drawn = dice.multinomial(rows, pairs.counts / rows, size=min(_AT_ONCE, resamples - begin))
        yield drawn.astype("float64")


def interval(resampled: Floats) -> tuple[Floats, Floats]:
    """Where the middle 95 % of the resamples lie."""
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def calibration_bins(confidence: Floats, right: Bools, bins: int) -> list[tuple[float, float, int, float, float]]:
    """Rows by confidence in equal steps: from (open), to (closed), how many, their mean confidence and accuracy.

    >>> calibration_bins(np.array([0.9, 0.8, 0.2]), np.array([True, False, False]), 2)
    [(0.0, 0.5, 1, 0.2, 0.0), (0.5, 1.0, 2, 0.85, 0.5)]
    """
    number = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
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
