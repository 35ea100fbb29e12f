"""The intervals of `evaluate`: they are those of statsmodels, and hold the true value as often as they say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.proportion import proportion_confint

import parallel_openai as po
from tests.frames.test_evaluate import random_labels


def few(right: int, wrong: int) -> po.Evaluation:
    rows = right + wrong
    gold = [("a", "b")[n % 2] for n in range(rows)]
    given = gold[:right] + [{"a": "b", "b": "a"}[label] for label in gold[right:]]
    return po.evaluate(pd.DataFrame({"gold": gold, "label": given}), gold="gold")


def test_intervals_of_few_rows_cover_the_true_value() -> None:
    for right, wrong in ((5, 0), (0, 4), (3, 1), (60, 2)):
        found = few(right, wrong)
        expected = proportion_confint(right, right + wrong, method="wilson")
        assert found.intervals["accuracy"] == pytest.approx(expected, abs=1e-9)
        low, high = found.intervals["macro_f1"]
        assert low <= found.macro_f1 <= high
        assert high - low > 0.1
    assert few(5, 0).intervals["accuracy"] == pytest.approx((0.5655, 1.0), abs=1e-4)
    assert "accuracy   1.000 (0.566 to 1.000)" in str(few(5, 0))


def test_the_metrics_of_each_label_have_intervals_of_their_own_rows() -> None:
    out = pd.DataFrame({"gold": list("aaabbbbbc"), "label": list("aaabbbbaa")})
    table = po.evaluate(out, gold="gold").per_label
    found = table.loc["a", ["recall_low", "recall_high"]].tolist()
    assert found == pytest.approx(proportion_confint(3, 3, method="wilson"))
    found = table.loc["a", ["precision_low", "precision_high"]].tolist()
    assert found == pytest.approx(proportion_confint(3, 5, method="wilson"))
    # c was never given: nothing is known of its precision.
    assert table.loc["c", ["precision_low", "precision_high"]].tolist() == [0, 1]
    share = np.array(proportion_confint(4, 5, method="wilson"))
    assert table.loc["b", ["f1_low", "f1_high"]].tolist() == pytest.approx(2 * share / (1 + share))
    assert (table["f1_low"] <= table["f1"]).all()
    assert (table["f1"] <= table["f1_high"]).all()


@pytest.mark.parametrize(("rows", "share"), [(4, 0.9), (10, 0.97), (40, 0.6), (100, 0.97)])
def test_intervals_have_their_stated_coverage(rows: int, share: float) -> None:
    dice = np.random.default_rng(0)
    held = {"accuracy": 0, "macro_f1": 0}
    for _ in range(100):
        gold = dice.choice(["a", "b"], rows)
        given = np.where(dice.random(rows) < share, gold, np.where(gold == "a", "b", "a"))
        found = po.evaluate(pd.DataFrame({"gold": gold, "label": given}), gold="gold", resamples=200)
        for name in held:
            low, high = found.intervals[name]
            held[name] += low <= share <= high
    assert min(held.values()) >= 88


def test_bootstrap_intervals_depend_only_on_the_seed_and_contain_the_estimate() -> None:
    out = random_labels(0)
    first, again, other = (po.evaluate(out, gold="gold", seed=seed) for seed in (1, 1, 2))
    assert first.intervals == again.intervals != other.intervals
    low, high = first.intervals["accuracy"]
    assert low < first.accuracy < high
    pd.testing.assert_frame_equal(first.per_label, again.per_label)


def test_intervals_are_as_wide_as_in_theory() -> None:
    gold = np.array(["a", "b"] * 200)
    label = gold.copy()
    label[:80] = "c"
    found = po.evaluate(pd.DataFrame({"gold": gold, "label": label}), gold="gold", resamples=4000)
    low, high = found.intervals["accuracy"]
    assert found.accuracy == 0.8
    assert high - low == pytest.approx(2 * 1.96 * (0.8 * 0.2 / 400) ** 0.5, rel=0.08)
