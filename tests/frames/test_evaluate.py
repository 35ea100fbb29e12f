"""`evaluate`: its figures agree with scikit-learn's and with calculations by hand."""

from __future__ import annotations

import enum
import html
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk
from statsmodels.stats.inter_rater import cohens_kappa

import parallel_openai as po
from parallel_openai.errors import ColumnNotFoundError, InvalidInputError
from parallel_openai.local.simulator import Server
from tests.frames.conftest import Verb

NAMES = ["alpha", "beta", "gamma", "delta"]
CLOSE = {"rel": 1e-12, "abs": 1e-12}


class Tone(enum.Enum):
    GOOD = "positive"
    BAD = "negative"


def random_labels(seed: int, rows: int = 500, missing: float = 0.0) -> pd.DataFrame:
    """Labels that are right more often than not, confident where they are."""
    dice = np.random.default_rng(seed)
    gold = dice.choice(NAMES, rows, p=[0.5, 0.3, 0.15, 0.05])
    label = np.where(dice.random(rows) < 0.6, gold, dice.choice(NAMES, rows)).astype(object)
    label[dice.random(rows) < missing] = None
    confidence = np.where(label == gold, dice.beta(5, 2, rows), dice.beta(3, 3, rows))
    return pd.DataFrame({"gold": gold, "label": label, "confidence": confidence})


@pytest.mark.parametrize("seed", range(5))
def test_metrics_equal_those_of_scikit_learn_on_random_labels(seed: int) -> None:
    out = random_labels(seed)
    found = po.evaluate(out, gold="gold", resamples=2)
    gold, label = out["gold"], out["label"]
    assert found.accuracy == found.accuracy_labelled == pytest.approx(sk.accuracy_score(gold, label), **CLOSE)
    assert (
        found.macro_f1 == found.macro_f1_labelled == pytest.approx(sk.f1_score(gold, label, average="macro"), **CLOSE)
    )
    assert found.micro_f1 == pytest.approx(sk.f1_score(gold, label, average="micro"), **CLOSE)
    precision, recall, f1, support = sk.precision_recall_fscore_support(gold, label, labels=sorted(NAMES))
    table = found.per_label.loc[sorted(NAMES)]
    for name, expected in (("precision", precision), ("recall", recall), ("f1", f1), ("gold", support)):
        assert table[name].tolist() == pytest.approx(expected.tolist(), **CLOSE)
    expected = sk.confusion_matrix(gold, label, labels=sorted(NAMES))
    assert found.confusion.loc[sorted(NAMES), sorted(NAMES)].to_numpy().tolist() == expected.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_rows_without_a_label_count_as_wrong_and_metrics_without_them_are_given_too(seed: int) -> None:
    out = random_labels(seed, missing=0.2)
    found = po.evaluate(out, gold="gold", resamples=2)
    filled, there = out["label"].fillna("none"), out["label"].notna()
    assert (found.rows, found.labelled) == (500, there.sum())
    assert found.accuracy == pytest.approx(sk.accuracy_score(out["gold"], filled), **CLOSE)
    assert found.macro_f1 == pytest.approx(sk.f1_score(out["gold"], filled, labels=NAMES, average="macro"), **CLOSE)
    gold, label = out["gold"][there], out["label"][there]
    assert found.accuracy_labelled == pytest.approx(sk.accuracy_score(gold, label), **CLOSE)
    assert found.macro_f1_labelled == pytest.approx(sk.f1_score(gold, label, average="macro"), **CLOSE)
    assert found.confusion["(none)"].sum() == (~there).sum()


@pytest.mark.parametrize("seed", range(3))
def test_metrics_of_multi_label_rows_equal_those_of_scikit_learn(seed: int) -> None:
    dice = np.random.default_rng(seed)
    gold, given = (dice.random((200, 4)) < 0.4 for _ in range(2))
    out = pd.DataFrame({"gold": _lists(gold), "label": _lists(given)})
    found = po.evaluate(out, gold="gold", resamples=2)
    order = [NAMES.index(name) for name in found.labels]
    gold, given = gold[:, order], given[:, order]
    assert found.kind == "several"
    assert found.accuracy == pytest.approx(sk.accuracy_score(gold, given), **CLOSE)
    assert found.micro_f1 == pytest.approx(sk.f1_score(gold, given, average="micro"), **CLOSE)
    assert found.macro_f1 == pytest.approx(sk.f1_score(gold, given, average="macro"), **CLOSE)
    assert found.per_label["f1"].tolist() == pytest.approx(sk.f1_score(gold, given, average=None).tolist(), **CLOSE)
    [[_, only_given], [only_gold, both]] = sk.multilabel_confusion_matrix(gold, given)[0].tolist()
    assert f"micro F1   {found.micro_f1:.3f}" in str(found)
    assert "micro F1" in found._repr_html_()
    assert found.confusion.iloc[0].to_dict() == {"both": both, "only_gold": only_gold, "only_given": only_given}


def test_a_failed_row_is_not_right_if_its_gold_is_an_empty_list() -> None:
    out = pd.DataFrame({"gold": [[], ["a"]], "label": [None, ["a"]], "cost_usd": [0.1, 0.1]})
    found = po.evaluate(out, gold="gold")
    assert (found.accuracy, found.cost_per_correct) == (0.5, 0.2)
    assert po.evaluate(out.assign(label=[[], ["a"]]), gold="gold").accuracy == 1.0


def _lists(chosen: np.ndarray[Any, Any]) -> pd.Series:
    return pd.Series([[name for name, has in zip(NAMES, row, strict=True) if has] for row in chosen])


def test_scores_are_compared_as_numbers_too() -> None:
    out = pd.DataFrame({"gold": [1, 2, 3, 4, 5], "label": pd.array([2, 2, 3, 5, None], dtype="Int64")})
    out.attrs["parallel_openai"] = {"answer": "label", "labels": {"label": {"kind": "score", "labels": list("12345")}}}
    found = po.evaluate(out, gold="gold")
    assert (found.accuracy, found.accuracy_labelled, found.mean_absolute_error) == (0.4, 0.5, 0.5)
    # Ranks 1.5, 1.5, 3, 4 against 1, 2, 3, 4.
    assert found.spearman == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    assert list(found.confusion.columns) == ["1", "2", "3", "4", "5", "(none)"]
    assert "0.500 mean absolute error, Spearman 0.949" in str(found)
    assert "Spearman" in found._repr_html_()
    with pytest.raises(InvalidInputError, match="must be a number, not 'much'"):
        po.evaluate(out.assign(gold=[1, 2, 3, 4, "much"]), gold="gold")


def test_kappa_measures_agreement_beyond_chance() -> None:
    gold, given = list("aabbab"), list("aabbba")
    found = po.evaluate(pd.DataFrame({"gold": gold, "label": given}), gold="gold")
    assert (found.kappa, found.ordinal) == (pytest.approx(sk.cohen_kappa_score(gold, given)), False)
    assert "kappa      0.333" in str(found)
    scores = pd.DataFrame({"gold": [1, 2, 10, 2, 1], "label": [1, 2, 10, 1, 10]})
    squared = po.evaluate(scores, gold="gold")
    table = sk.confusion_matrix(scores["gold"], scores["label"], labels=[1, 2, 10])
    expected = cohens_kappa(table, weights=np.array([1, 2, 10]), wt="quadratic", return_results=False)
    assert (squared.kappa, squared.ordinal) == (pytest.approx(expected), True)
    assert "weighted by squared distance" in squared._repr_html_()
    steps = pd.Categorical(["low", "top", "low"], ["low", "middle", "top"], ordered=True)
    assert po.evaluate(pd.DataFrame({"label": steps, "gold": ["low", "top", "middle"]}), gold="gold").ordinal
    lists = pd.DataFrame({"gold": [["a"], ["b", "a"], []], "label": [["a"], ["a", "b"], []]})
    assert po.evaluate(lists, gold="gold").kappa == 1.0


@pytest.mark.parametrize("blank", ["", "  ", "\t", None, float("nan")], ids=repr)
def test_a_blank_gold_cell_counts_as_missing(blank: Any) -> None:
    out = pd.DataFrame({"label": ["a", "b", "a"], "gold": pd.Series(["a", "b", blank], dtype=object)})
    found = po.evaluate(out, gold="gold")
    assert (found.rows, found.accuracy, found.strange_gold) == (2, 1.0, {})


def test_a_missing_value_in_a_list_of_gold_labels_is_not_a_label() -> None:
    gold = [["a", float("nan")], ["b", None, ""], [], [None]]
    out = pd.DataFrame({"label": [["a"], ["b"], [], ["a"]], "gold": pd.Series(gold)})
    found = po.evaluate(out, gold="gold")
    assert (found.rows, found.accuracy) == (3, 1.0)


def test_booleans_written_as_words_work_as_gold(label: Verb, reviews: pd.DataFrame) -> None:
    out = label(reviews, "{text}", labels=[True, False])
    for written in (str, lambda value: str(value).upper(), lambda value: str(value).lower(), bool):
        gold = out["label"].map(written).astype(object)
        assert po.evaluate(out.assign(gold=gold), gold="gold").accuracy == 1.0


def test_the_two_runs_of_a_frame_labelled_twice_are_evaluated_separately(label: Verb, server: Server) -> None:
    df = pd.DataFrame({"text": ["A great lamp.", "Awful.", "So so."], "gold": ["good", "bad", "good"]})
    one = label(df, "{text}", labels=["good", "bad"], confidence="logprobs")
    server.set(fault_refusal=1)
    both = label(one, "Score: {text}", scale=(1, 5), prefix="b_", confidence="logprobs")
    first, alone = po.evaluate(both, gold="gold", label="label"), po.evaluate(one, gold="gold")
    assert str(first) == str(alone)
    assert (first.ece, first.cost_usd, first.failed) == (alone.ece, alone.cost_usd, 0)
    assert po.agreement(one, both, label="label").same == 1.0
    assert po.review(both, label="label").labels == ["good", "bad"]
    with pytest.raises(InvalidInputError, match="No gold label"):
        po.evaluate(both.assign(b_label=pd.array([1, 2, 3], dtype="Int64")), gold="gold")
    answered = po.process_dataframe(
        both, "{text}", model="gpt-4o-mini", prefix="c_", progress=False, client=po.Client(server.base_url)
    )
    assert str(po.evaluate(answered, gold="gold", label="label")) == str(alone)


@pytest.mark.parametrize("samples", [1, 2])
def test_rows_used_as_examples_are_left_out_with_a_note(label: Verb, samples: int) -> None:
    df = pd.DataFrame({"text": ["A great lamp.", "Awful.", "Great.", "Bad."], "gold": ["good", "bad", "bad", "bad"]})
    examples = df[:2].rename(columns={"gold": "label"})
    with pytest.warns(UserWarning, match="2 of the 4 rows have the same prompt as an example"):
        out = label(df, "{text}", labels=["good", "bad"], examples=examples, samples=samples)
    found = po.evaluate(out.sort_values("text"), gold="gold")
    assert (found.rows, found.examples) == (2, 2)
    assert "2 more left out: they are few-shot examples" in str(found)
    assert "2 more left out" in found._repr_html_()
    with pytest.raises(InvalidInputError, match="are among the few-shot examples"):
        po.evaluate(out[:2], gold="gold")


def test_calibration_uses_bins_of_equal_width() -> None:
    out = pd.DataFrame({"gold": list("aaaaa"), "label": list("aabab"), "confidence": [0.95, 0.91, 0.55, 0.6, 0.1]})
    found = po.evaluate(out, gold="gold", bins=10)
    assert found.calibration.to_dict("list") == {
        "low": [0.0, 0.5, 0.9],
        "high": [0.1, 0.6, 1.0],
        "rows": [1, 2, 2],
        "confidence": [0.1, 0.575, 0.93],
        "accuracy": [0.0, 0.5, 1.0],
    }
    assert found.ece == pytest.approx((1 * 0.1 + 2 * 0.075 + 2 * 0.07) / 5)


def test_the_coverage_curve_drops_the_least_confident_rows_first() -> None:
    out = pd.DataFrame({"gold": list("aaaa"), "label": list("aaab"), "confidence": [0.9, 0.7, 0.7, 0.2]})
    found = po.evaluate(out, gold="gold")
    assert found.coverage["rows"].tolist() == [1, 3, 4]
    assert found.coverage["accuracy"].tolist() == [1.0, 1.0, 0.75]
    assert (found.accuracy_at(0.75), found.accuracy_at(1)) == (1.0, 0.75)
    # Of four rows as confident as each other, half of a half is right.
    even = pd.DataFrame({"gold": list("aaaa"), "label": list("aabb"), "confidence": 0.5})
    assert po.evaluate(even, gold="gold").accuracy_at(0.5) == 0.5
    with pytest.raises(InvalidInputError, match="up to 1 here"):
        found.accuracy_at(1.5)


def test_mistakes_are_listed_with_the_most_confident_first() -> None:
    out = random_labels(0)
    wrong = po.evaluate(out, gold="gold").mistakes
    assert (wrong["gold"] != wrong["label"]).all()
    assert wrong["confidence"].is_monotonic_decreasing
    assert len(wrong) == (out["gold"] != out["label"]).sum()


def test_a_run_is_evaluated_by_its_own_columns(label: Verb, server: Server) -> None:
    texts = ["A wonderful lamp, great.", "It broke, terrible.", "Awful.", None, "Great."]
    df = pd.DataFrame({"text": texts, "gold": ["positive", "negative", "positive", "negative", None]})
    out = label(df, "{text}", labels=Tone, confidence="logprobs", prefix="llm_")
    found = po.evaluate(out, gold="gold")
    assert (found.label, found.labels) == ("llm_label", ("positive", "negative"))
    assert (found.rows, found.labelled, found.failed) == (4, 3, 1)
    assert found.accuracy == 0.5
    assert len(found.coverage) == 3
    assert found.simulated
    assert found.cost_usd == pytest.approx(out["llm_cost_usd"][:3].sum())
    assert found.cost_per_correct == pytest.approx(found.cost_usd / 2)
    assert "(simulated)" in str(found)
    assert "SIMULATED" in found._repr_html_()


def test_a_field_of_several_is_evaluated_with_its_confidence(label: Verb, reviews: pd.DataFrame) -> None:
    import pydantic

    Review = pydantic.create_model("Review", tone=(Tone, ...), urgent=(bool, ...))
    out = label(
        reviews.assign(gold=["positive", "negative", "negative"]), "{text}", labels=Review, confidence="logprobs"
    )
    assert po.evaluate(out, gold="gold").accuracy == pytest.approx(2 / 3)
    found = po.evaluate(out.assign(right=out["urgent"]), gold="right", label="urgent")
    assert (found.accuracy, found.labels) == (1.0, ("true", "false"))
    assert found.coverage["confidence"].tolist() == sorted(out["urgent_confidence"], reverse=True)


@pytest.mark.parametrize(
    ("label", "gold"),
    [
        ([Tone.GOOD, Tone.BAD], ["positive", "negative"]),
        ([1, 2], [1.0, 2.0]),
        ([True, False], [np.True_, np.False_]),
        (["1", "2"], [1, 2]),
        ([["a", "b"], []], [("b", "a"), np.array([])]),
    ],
    ids=["members", "numbers", "truth", "texts", "lists"],
)
def test_labels_match_gold_in_any_spelling(label: list[Any], gold: list[Any]) -> None:
    out = pd.DataFrame({"label": pd.Series(label, dtype=object), "gold": pd.Series(gold, dtype=object)})
    assert po.evaluate(out, gold="gold").accuracy == 1.0


def test_gold_labels_that_are_none_of_the_labels_are_reported() -> None:
    label = pd.Categorical(["a", "b", "a"], categories=["a", "b", "c"])
    found = po.evaluate(pd.DataFrame({"label": label, "gold": ["a", "b", "mixed"]}), gold="gold")
    assert found.strange_gold == {"mixed": 1}
    assert found.accuracy == pytest.approx(2 / 3)
    assert "'mixed'" in str(found)
    assert "'mixed' in 1" in html.unescape(found._repr_html_())
    assert found.labels == ("a", "b", "c", "mixed")
    # Nobody has c; the mean is over the others.
    expected = sk.f1_score(["a", "b", "mixed"], ["a", "b", "a"], average="macro")
    assert found.macro_f1 == pytest.approx(expected, **CLOSE)


@pytest.mark.parametrize(
    ("columns", "options", "error", "sentence"),
    [
        ({"label": ["a"], "gold": ["a"]}, {"gold": "right"}, ColumnNotFoundError, "gold= names the column 'right'"),
        ({"gold": ["a"]}, {}, ColumnNotFoundError, "label= names the column 'label'"),
        ({"label": ["a"], "gold": ["a"]}, {"confidence": "sure"}, ColumnNotFoundError, "confidence="),
        ({"label": ["a"], "gold": [None]}, {}, InvalidInputError, "is empty"),
        ({"label": ["a", "b"], "gold": ["A", "B"]}, {}, InvalidInputError, "'A', 'B' there, 'a', 'b' here"),
        ({"label": [["a"], ["b"]], "gold": ["a", "b"]}, {}, InvalidInputError, "must hold lists of labels"),
        ({"label": pd.Categorical(["a"], ["a", "b"]), "gold": [["a"]]}, {}, InvalidInputError, "one label per row"),
        ({"label": ["a"], "gold": ["a"]}, {"bins": 0}, InvalidInputError, "bins must be"),
        ({"label": ["a"], "gold": ["a"]}, {"resamples": 1.5}, InvalidInputError, "resamples must be"),
    ],
    ids=["gold", "label", "confidence", "empty", "other names", "lists", "a list", "bins", "resamples"],
)
def test_invalid_arguments_of_evaluate_are_refused_with_the_reason(
    columns: Any, options: Any, error: Any, sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        po.evaluate(pd.DataFrame(columns), **{"gold": "gold", **options})


def test_a_frame_without_any_label_can_be_evaluated() -> None:
    found = po.evaluate(
        pd.DataFrame({"label": pd.Categorical([None, None], ["a", "b"]), "gold": ["a", "b"]}), gold="gold"
    )
    assert (found.accuracy, found.labelled) == (0.0, 0)
    assert np.isnan([found.accuracy_labelled, found.ece, found.cost_per_correct]).all()
    assert "0 of them labelled" in str(found)
    assert "<table" in found._repr_html_()


def test_the_html_is_self_contained() -> None:
    out = random_labels(1, missing=0.1).replace({"alpha": "<b>alpha</b>"})
    html = po.evaluate(out, gold="gold")._repr_html_()
    assert "http" not in html
    assert "<script" not in html
    assert "<b>alpha" not in html
    assert all(title in html for title in ("Each label", "Confusion", "Accuracy by confidence", "Rows without a label"))


def test_the_plot_shows_labels_with_any_text() -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    labels = ["costs $a^$", "a label that begins alike: 1", "a label that begins alike: 2"]
    out = pd.DataFrame({"$": labels, "$gold": labels})
    figure = po.evaluate(out, "$gold", label="$").plot()
    figure.canvas.draw()
    assert sorted(bar.get_y() + bar.get_height() / 2 for bar in figure.axes[1].patches) == [0, 1, 2]
    pyplot.close(figure)


@pytest.mark.parametrize("kind", ["one", "many labels", "several", "bare"])
def test_the_plot_is_drawn(kind: str) -> None:
    import matplotlib

    matplotlib.use("agg")
    out = random_labels(1, missing=0.1)
    if kind == "many labels":
        out = pd.DataFrame({"gold": [f"l{n % 30}" for n in range(90)], "label": [f"l{n % 29}" for n in range(90)]})
    if kind == "several":
        out = pd.DataFrame({"gold": [["a"], ["a", "b"]], "label": [["a"], ["b"]]})
    found = po.evaluate(out if kind != "bare" else out[["gold", "label"]], gold="gold")
    figure = found.plot()
    assert len(figure.axes) == (4 if kind == "one" else 2)  # without confidence there is none to draw
    figure.canvas.draw()
    matplotlib.pyplot.close(figure)
    assert found._repr_html_()


def test_evaluate_needs_no_optional_library() -> None:
    code = (
        "import sys, pandas as pd; import parallel_openai as po; "
        "po.evaluate(pd.DataFrame({'label': ['a'], 'gold': ['a']}), gold='gold')._repr_html_(); "
        "print([name for name in ('sklearn', 'scipy', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout == "[]\n"
