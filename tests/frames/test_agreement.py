"""Agreement between annotators of the same rows: figures checked against libraries, and the rows that differ."""

from __future__ import annotations

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
from parallel_openai.errors import InvalidInputError
from parallel_openai.local.simulator import Server
from tests.frames.conftest import Verb
from tests.frames.labelling import answer


def column(*labels: Any) -> pd.Series:
    return pd.Series(list(labels), dtype=object)


def test_cohens_kappa_of_two_annotators_equals_a_calculation_by_hand() -> None:
    # Half of each gives a; chance alone agrees in 1/2 of the rows, and they do in 6 of 8.
    found = po.agreement(column(*"aaaabbbb"), column(*"aaabbbba"))
    assert (found.same, found.cohen_kappa, found.fleiss_kappa) == (0.75, 0.5, 0.5)
    # Krippendorff's correction for few rows: 1 - (2 * 8 - 1) * 4 / (2 * 8 * 8).
    assert found.krippendorff_alpha == pytest.approx(1 - 15 * 4 / 128)
    assert found.annotators == ("a", "b")
    assert found.differences.to_dict("list") == {"a": ["a", "b"], "b": ["b", "a"]}
    assert found.differences.index.tolist() == [3, 7]


def test_kappa_of_several_annotators_is_the_mean_over_all_pairs() -> None:
    found = po.agreement({"one": column(*"aabb"), "two": column(*"aabb"), "three": column(*"aaba")})
    assert found.pairs.loc["one", "two"] == 1
    assert found.pairs.loc["one", "three"] == found.pairs.loc["three", "two"] == 0.5
    assert found.cohen_kappa == pytest.approx(2 / 3)
    assert 0 < found.fleiss_kappa < 1
    assert found.differences.index.tolist() == [3]
    assert "Cohen's kappa of each pair" in html.unescape(found._repr_html_())


def test_a_row_that_one_annotator_skipped_still_counts_for_the_others() -> None:
    found = po.agreement(column("a", "b", None, None), column("a", "b", "a", None), column("a", "b", "a", None))
    assert (found.rows, found.complete, found.same) == (3, 2, 1.0)
    assert found.krippendorff_alpha == found.cohen_kappa == found.fleiss_kappa == 1.0


def test_kappa_of_scores_is_weighted_by_distance() -> None:
    near, far = column(1, 2, 3, 4, 4), column(1, 2, 3, 4, 1)
    steps = column(1, 2, 3, 4, 3)
    assert (
        po.agreement(steps, near, level="ordinal").cohen_kappa > po.agreement(steps, far, level="ordinal").cohen_kappa
    )
    ordinal = po.agreement(steps, near, level="ordinal")
    assert ordinal.level == "ordinal"
    assert ordinal.krippendorff_alpha > po.agreement(steps, near, level="nominal").krippendorff_alpha


def test_kappa_of_numbers_is_weighted_by_value_and_not_by_rank() -> None:
    one, other = column(1, 2, 10, 1, 10), column(2, 2, 10, 1, 1)
    found = po.agreement(one, other)
    values = [1, 2, 10]
    table = sk.confusion_matrix(one.tolist(), other.tolist(), labels=values)
    assert found.level == "ordinal"
    assert found.cohen_kappa == pytest.approx(
        cohens_kappa(table, weights=np.array(values), wt="quadratic", return_results=False)
    )
    assert found.cohen_kappa != pytest.approx(sk.cohen_kappa_score(one.tolist(), other.tolist(), weights="quadratic"))


LOW_TO_HIGH = ["low", "middle", "high", "top"]


def ordered(*labels: Any, order: list[str] = LOW_TO_HIGH) -> pd.Series:
    return pd.Series(pd.Categorical(labels, order, ordered=True))


def test_ordered_categories_are_weighted_by_position_counting_unused_ones() -> None:
    one, other = ("low", "middle", "top", "top", "low"), ("middle", "middle", "top", "low", "low")
    found = po.agreement(ordered(*one), column(*other))
    places = [[LOW_TO_HIGH.index(label) for label in labels] for labels in (one, other)]
    expected = sk.cohen_kappa_score(*places, labels=range(4), weights="quadratic")
    assert (found.level, found.cohen_kappa) == ("ordinal", pytest.approx(expected))
    assert po.agreement(ordered(*one), column(*other), level="nominal").cohen_kappa != pytest.approx(expected)


@pytest.mark.parametrize(
    ("one", "other", "level"),
    [
        (pd.Series([1, 2, 2]), pd.Series([1.0, 2.0, 1.0]), "ordinal"),
        (pd.Series([1, 2, 2]), column("1", "2", "1"), "ordinal"),
        (pd.Series([1, 2, 2], dtype="category"), pd.Series([1, 2, None], dtype="Int64"), "ordinal"),
        (pd.Series([1, 2, 2]), column("1", "2", "unclear"), "nominal"),
        (column("1", "2", "2"), column("1", "2", "1"), "nominal"),
        (column(True, False, True), column(True, False, False), "nominal"),
        (ordered("low", "high", "top"), ordered("low", "high", "low", order=LOW_TO_HIGH[::-1]), "nominal"),
        (ordered("low", "high", "top"), column("low", "high", "none"), "nominal"),
        (pd.Series(["a", "b", "b"], dtype="category"), column("a", "b", "a"), "nominal"),
    ],
    ids=["floats", "texts", "missing", "a word", "only texts", "bools", "two orders", "unknown", "unordered"],
)
def test_the_level_is_ordinal_if_the_labels_have_an_order(one: Any, other: Any, level: str) -> None:
    assert po.agreement(one, other).level == level


@pytest.mark.parametrize("seed", range(5))
def test_kappa_agrees_with_scikit_learn(seed: int) -> None:
    dice = np.random.default_rng(seed)
    one, other = (pd.Series(dice.integers(0, 5, 60)) for _ in range(2))
    plain, squared = (po.agreement(one, other, level=level) for level in ("nominal", "ordinal"))
    assert plain.cohen_kappa == pytest.approx(sk.cohen_kappa_score(one, other))
    assert squared.cohen_kappa == pytest.approx(sk.cohen_kappa_score(one, other, weights="quadratic"))


def test_a_label_with_a_comma_is_not_two_labels() -> None:
    assert po.agreement(column(["a, b"], ["c"]), column(["a", "b"], ["c"])).same == 0.5


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (column(True, False), column("True", "False")),
        (pd.Series([True, False]), column("TRUE", "false")),
        (pd.Series([True, None], dtype="boolean"), column("True", " ")),
        (pd.Series([True, False], dtype="category"), column(np.True_, np.False_)),
    ],
    ids=["texts", "of a sheet", "blank", "numpy"],
)
def test_booleans_and_their_words_are_the_same_label(one: pd.Series, other: pd.Series) -> None:
    found = po.agreement(one, other)
    assert (found.same, found.rows) == (1.0, one.notna().sum())


def test_rows_with_duplicate_index_labels_are_matched_by_position_with_a_warning() -> None:
    one = pd.Series(["a", "b", "a"], index=[0, 0, 1])
    with pytest.warns(UserWarning, match="has duplicate labels"):
        assert po.agreement(one, one).same == 1.0
    with pytest.raises(InvalidInputError, match="rows are not the same"):
        po.agreement(one, one.iloc[::-1])


def test_frames_are_compared_by_their_labels(label: Verb, reviews: pd.DataFrame, server: Server) -> None:
    server.script([answer({"label": "negative"})], matching="Tone? Great")
    options: dict[str, Any] = {"labels": ["positive", "negative"], "samples": 1}
    one = label(reviews, "Mood? {text}", **options)
    other = label(reviews, "Tone? {text}", model="gpt-5-mini", prefix="x_", **options)
    found = po.agreement(one, other.iloc[::-1])
    assert found.annotators == ("gpt-4o-mini", "gpt-5-mini")
    assert found.same == pytest.approx(2 / 3)
    assert list(found.differences.columns) == ["text", "stars", "gpt-4o-mini", "gpt-5-mini"]
    assert found.differences["text"].tolist() == ["Great value."]
    assert "Great value." in found._repr_html_()


def test_scores_of_frames_are_ordinal(label: Verb, reviews: pd.DataFrame) -> None:
    one, other = (label(reviews, f"{what} {{text}}", scale=(1, 5)) for what in ("Rate", "Score"))
    assert po.agreement(one, other).level == "ordinal"


def test_the_variants_of_a_comparison_are_annotators(client: po.Client, reviews: pd.DataFrame) -> None:
    compared = po.compare(
        reviews,
        {"v1": "Happy? {text}", "v2": "Tone? {text}"},
        labels=["positive", "negative"],
        model="gpt-4o-mini",
        client=client,
        progress=False,
    )
    assert po.agreement(compared.frames).annotators == ("v1", "v2")


def test_lists_of_labels_agree_whatever_their_order() -> None:
    found = po.agreement(column(["a", "b"], ["a"], []), column(["b", "a"], ["b"], []))
    assert found.same == pytest.approx(2 / 3)


def test_kappa_is_nan_if_all_labels_are_the_same() -> None:
    found = po.agreement(column("a", "a"), column("a", "a"))
    assert found.same == 1.0
    assert np.isnan([found.cohen_kappa, found.fleiss_kappa, found.krippendorff_alpha]).all()


def test_the_display_shows_the_coefficients_and_the_rows_that_differ() -> None:
    told = str(po.agreement(column(*"aaaabbbb").rename("model"), column(*"aaabbbba").rename("person")))
    assert told.splitlines() == [
        "model, person on 8 rows: 75.0% labelled the same by all",
        "  Cohen's kappa         0.500",
        "  Fleiss' kappa         0.500",
        "  Krippendorff's alpha  0.531 nominal",
        "",
        "2 rows labelled differently",
        "     model  person",
        "  3  a      b",
        "  7  b      a",
    ]


@pytest.mark.parametrize(
    ("annotators", "options", "sentence"),
    [
        ([column("a")], {}, "two annotators or more, not 1"),
        ([column("a"), ["a"]], {}, "must be a frame of labels"),
        ([column("a"), column("a", "b")], {}, "rows are not the same"),
        ([column("a"), column("a").rename(index={0: 5})], {}, "rows are not the same"),
        ([column("a", None), column(None, "a")], {}, "no row that all annotators"),
        ([column("a"), column("b")], {"level": "ordinal"}, "must be numbers"),
        ([column("a"), column("b")], {"level": "ratio"}, "level must be"),
    ],
    ids=["one", "list", "length", "index", "nothing in common", "words", "level"],
)
def test_incomparable_labels_are_refused_with_the_reason(annotators: Any, options: Any, sentence: str) -> None:
    with pytest.raises(InvalidInputError, match=sentence):
        po.agreement(*annotators, **options)


def test_agreement_without_its_libraries_says_how_to_install_them() -> None:
    code = (
        "import sys; sys.modules['krippendorff'] = None\n"
        "import pandas as pd, parallel_openai as po\n"
        "try: po.agreement(pd.Series(['a']), pd.Series(['b']))\n"
        "except po.errors.MissingDependencyError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert "needs krippendorff, which is not installed: pip install statsmodels krippendorff" in done.stdout
