"""Annotators who label the same rows: figures of kept libraries, and the rows that differ."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai.errors import InvalidInputError
from parallel_openai.local.simulator import Server
from tests.frames.conftest import Verb
from tests.frames.test_label_columns import answer


def column(*labels: Any) -> pd.Series:
    return pd.Series(list(labels), dtype=object)


def test_two_annotators_agree_as_done_by_hand() -> None:
    # Half of each gives a; chance alone agrees in 1/2 of the rows, and they do in 6 of 8.
    found = po.agreement(column(*"aaaabbbb"), column(*"aaabbbba"))
    assert (found.same, found.cohen_kappa, found.fleiss_kappa) == (0.75, 0.5, 0.5)
    # Krippendorff's correction for few rows: 1 - (2 * 8 - 1) * 4 / (2 * 8 * 8).
    assert found.krippendorff_alpha == pytest.approx(1 - 15 * 4 / 128)
    assert found.annotators == ("a", "b")
    assert found.differences.to_dict("list") == {"a": ["a", "b"], "b": ["b", "a"]}
    assert found.differences.index.tolist() == [3, 7]


def test_of_more_than_two_each_pair_counts() -> None:
    found = po.agreement({"one": column(*"aabb"), "two": column(*"aabb"), "three": column(*"aaba")})
    assert found.pairs.loc["one", "two"] == 1
    assert found.pairs.loc["one", "three"] == found.pairs.loc["three", "two"] == 0.5
    assert found.cohen_kappa == pytest.approx(2 / 3)
    assert 0 < found.fleiss_kappa < 1
    assert found.differences.index.tolist() == [3]
    assert "Cohen&#x27;s kappa of each pair" in found._repr_html_()


def test_rows_that_one_has_left_out_count_where_they_can() -> None:
    found = po.agreement(column("a", "b", None, None), column("a", "b", "a", None), column("a", "b", "a", None))
    assert (found.rows, found.complete, found.same) == (3, 2, 1.0)
    assert found.krippendorff_alpha == found.cohen_kappa == found.fleiss_kappa == 1.0


def test_of_scores_the_distance_counts() -> None:
    near, far = column(1, 2, 3, 4, 4), column(1, 2, 3, 4, 1)
    steps = column(1, 2, 3, 4, 3)
    assert (
        po.agreement(steps, near, level="ordinal").cohen_kappa > po.agreement(steps, far, level="ordinal").cohen_kappa
    )
    ordinal = po.agreement(steps, near, level="ordinal")
    assert ordinal.level == "ordinal"
    assert ordinal.krippendorff_alpha > po.agreement(steps, near).krippendorff_alpha


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


def test_where_nobody_gives_a_second_label_nothing_beyond_chance_can_be_told() -> None:
    found = po.agreement(column("a", "a"), column("a", "a"))
    assert found.same == 1.0
    assert np.isnan([found.cohen_kappa, found.fleiss_kappa, found.krippendorff_alpha]).all()


def test_people_see_the_figures_in_two_lines() -> None:
    told = str(po.agreement(column(*"aaaabbbb").rename("model"), column(*"aaabbbba").rename("person")))
    assert told == (
        "model, person on 8 rows: 75.0% labelled the same by all\n"
        "Cohen's kappa 0.500, Fleiss' kappa 0.500, Krippendorff's alpha 0.531 (nominal)"
    )


@pytest.mark.parametrize(
    ("annotators", "options", "sentence"),
    [
        ([column("a")], {}, "two annotators or more, not 1"),
        ([column("a"), ["a"]], {}, "must be a frame of labels"),
        ([column("a"), column("a", "b")], {}, "not about the same rows"),
        ([column("a"), column("a").rename(index={0: 5})], {}, "not about the same rows"),
        ([column("a", None), column(None, "a")], {}, "no row that all annotators"),
        ([column("a"), column("b")], {"level": "ordinal"}, "must be numbers"),
        ([column("a"), column("b")], {"level": "ratio"}, "level must be"),
    ],
    ids=["one", "list", "length", "index", "nothing in common", "words", "level"],
)
def test_what_cannot_be_compared_is_said(annotators: Any, options: Any, sentence: str) -> None:
    with pytest.raises(InvalidInputError, match=sentence):
        po.agreement(*annotators, **options)


def test_without_the_libraries_the_error_says_how_to_get_them() -> None:
    code = (
        "import sys; sys.modules['krippendorff'] = None\n"
        "import pandas as pd, parallel_openai as po\n"
        "try: po.agreement(pd.Series(['a']), pd.Series(['b']))\n"
        "except po.errors.MissingDependencyError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert "krippendorff is not installed: pip install 'parallel-openai[evaluate]'" in done.stdout
