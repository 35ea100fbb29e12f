"""`compare`: the same rows with several prompts and models."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from pydantic import BaseModel
from statsmodels.stats import contingency_tables, multitest

import parallel_openai as po
from parallel_openai._labels.evaluation.compare import _add_gains
from parallel_openai._labels.evaluation.metrics import holm, mcnemar, paired_gain
from parallel_openai.errors import ColumnNotFoundError, InvalidInputError, QuotaExceededError
from parallel_openai.local.simulator import Server
from tests.frames.labelling import answer

TONES = ["positive", "negative"]
PROMPTS = {"v1": "Happy? {text}", "v2": "Sentiment? {text}"}
Compare = Callable[..., po.Comparison]


@pytest.fixture
def compare(client: po.Client) -> Compare:
    return partial(po.compare, labels=TONES, model="gpt-4o-mini", client=client, progress=False)


@pytest.fixture
def rows() -> pd.DataFrame:
    texts = ["A great lamp.", "Awful.", "Great value.", "Terrible, broke."]
    return pd.DataFrame({"text": texts, "gold": ["positive", "negative", "negative", None]}, index=list("abcd"))


def says(server: Server, matching: str, label: str) -> None:
    server.script([answer({"label": label})], matching=matching)


def test_each_variant_has_a_row_in_the_table_and_a_frame(compare: Compare, rows: pd.DataFrame, server: Server) -> None:
    says(server, "Sentiment? Great value.", "negative")
    found = compare(rows, PROMPTS, labels=iter(TONES), gold="gold")
    assert list(found.table.index) == ["v1", "v2"]
    assert found.table["accuracy"].tolist() == pytest.approx([2 / 3, 1.0])
    assert found.table["same"].tolist() == [1.0, 0.75]
    assert found.table["gain"].tolist() == pytest.approx([np.nan, 1 / 3], nan_ok=True)
    assert found.table.loc["v2", ["p_value", "p_adjusted"]].tolist() == [1.0, 1.0]
    assert found.table["cost_usd"].gt(0).all()
    assert found.frames["v2"]["label"].tolist() == ["positive", "negative", "negative", "negative"]
    assert found.evaluations["v2"].accuracy == 1.0
    assert (found.ended, found.simulated) == ("finished", True)


def test_changed_rows_show_the_labels_of_all_variants_side_by_side(
    compare: Compare, rows: pd.DataFrame, server: Server
) -> None:
    says(server, "Sentiment? Great value.", "negative")
    changed = compare(rows, PROMPTS).changed
    assert changed.index.tolist() == ["c"]
    assert changed.columns.tolist() == ["text", "gold", "v1", "v2"]
    assert changed.loc["c", ["v1", "v2"]].tolist() == ["positive", "negative"]


def test_each_prompt_is_run_with_each_model(compare: Compare, rows: pd.DataFrame) -> None:
    found = compare(rows, PROMPTS, model=None, models=["gpt-4o-mini", "gpt-5-mini"])
    assert list(found.table.index) == ["v1 · gpt-4o-mini", "v1 · gpt-5-mini", "v2 · gpt-4o-mini", "v2 · gpt-5-mini"]
    assert found.frames["v2 · gpt-5-mini"]["model"].str.startswith("gpt-5-mini").all()
    assert found.table["accuracy"].isna().all()


def test_known_answers_are_not_requested_again_by_a_comparison(
    compare: Compare, rows: pd.DataFrame, server: Server, client: po.Client
) -> None:
    compare(rows, PROMPTS)
    assert server.stats()["received"] == 8
    again = compare(rows, {**PROMPTS, "v2": "Tone? {text}"})
    assert server.stats()["received"] == 12
    assert again.table["cost_usd"].gt(0).all()
    # The better one on all rows knows those of the comparison.
    more = pd.concat([rows, rows.assign(text="Another, great.")[:1]])
    po.label_dataframe(more, PROMPTS["v1"], labels=TONES, model="gpt-4o-mini", client=client, progress=False)
    assert server.stats()["received"] == 13


def test_variants_may_differ_in_more_than_the_prompt(compare: Compare, rows: pd.DataFrame) -> None:
    reasoned = {"prompt": "{text}", "explain": True, "system": "Think."}
    found = compare(rows, {"plain": "{text}", "reasoned": reasoned}, confidence="logprobs", prefix="llm_")
    assert "llm_label_reason" in found.frames["reasoned"]
    assert "llm_label_reason" not in found.frames["plain"]
    assert found.table["confidence"].between(0.8, 1).all()
    assert found.table.loc["reasoned", "completion_tokens"] > found.table.loc["plain", "completion_tokens"]


def test_a_field_of_several_can_be_compared(compare: Compare, rows: pd.DataFrame) -> None:
    class Review(BaseModel):
        urgent: bool
        tone: Literal["positive", "negative"]

    found = compare(rows, PROMPTS, labels=Review, label="tone", gold="gold")
    assert found.table["accuracy"].tolist() == pytest.approx([2 / 3, 2 / 3])
    assert found.evaluations["v1"].label == "tone"


def test_lists_of_labels_are_compared_as_sets(compare: Compare, rows: pd.DataFrame, server: Server) -> None:
    server.script([answer({"labels": ["a", "b"]})], matching="Happy? Awful.")
    server.script([answer({"labels": ["b", "a"]})], matching="Sentiment? Awful.")
    found = compare(rows[1:2].drop(columns="gold"), PROMPTS, labels=["a", "b"], multi=True)
    assert found.changed.empty


def test_a_comparison_stops_at_its_budget(compare: Compare, rows: pd.DataFrame, server: Server) -> None:
    found = compare(rows, PROMPTS, budget_usd=1e-5, max_tokens=16, samples=1)
    assert found.ended == "budget"
    assert sum(found.table["cost_usd"].fillna(0)) <= 1e-5
    assert "ended early: budget" in str(found)
    assert "ended early: budget" in found._repr_html_()
    assert "no label" in found._repr_html_()


def test_variants_after_the_budget_is_used_up_are_left_out(compare: Compare, rows: pd.DataFrame) -> None:
    whole = compare(rows, {"v1": "Happy? {text}"}, max_tokens=5).table["cost_usd"].iloc[0]
    worst = compare(rows, {"v1": "Joyful? {text}", "v2": "Sad? {text}"}, max_tokens=5, budget_usd=whole * 1.7)
    assert worst.ended == "budget"
    assert worst.table["cost_usd"].sum() <= whole * 1.7


def test_the_deadline_of_a_comparison_covers_all_its_variants(
    compare: Compare, rows: pd.DataFrame, client: po.Client
) -> None:
    now = 1000.0
    client.clock = lambda: now

    def asks(question: str, row: Any) -> str:
        nonlocal now
        now += 0.5
        return f"{question} {row.text}"

    found = compare(rows, {name: partial(asks, name) for name in ("v1", "v2", "v3")}, deadline=3.0)
    assert {name: out["status"].eq("succeeded").all() for name, out in found.frames.items()} == {
        "v1": True,
        "v2": False,
    }
    assert (found.ended, found.frames["v2"]["error_code"].iloc[-1]) == ("deadline", "deadline")
    assert found.frames["v2"]["error"].iloc[-1].startswith("The deadline of 3 s came before the answer.")


def test_a_variant_may_have_an_earlier_deadline_than_the_comparison(compare: Compare, rows: pd.DataFrame) -> None:
    found = compare(rows, {"v1": "Happy? {text}", "v2": {"prompt": "Sad? {text}", "deadline": 1e-9}}, deadline=60)
    assert list(found.frames["v2"]["error_code"]) == ["deadline"] * 4
    with pytest.raises(InvalidInputError, match="deadline must be a number above 0"):
        compare(rows, PROMPTS, deadline=-1)


@pytest.mark.parametrize("gold", [None, "gold"])
def test_a_deadline_that_is_over_at_once_returns_the_first_variants_frame(
    compare: Compare, rows: pd.DataFrame, gold: str | None
) -> None:
    found = compare(rows, PROMPTS, deadline=1e-12, gold=gold)
    assert found.ended == "deadline"
    assert {code for out in found.frames.values() for code in out["error_code"]} == {"deadline"}


def test_a_variants_deadline_is_checked_before_any_variant_is_sent(
    compare: Compare, rows: pd.DataFrame, server: Server
) -> None:
    with pytest.raises(InvalidInputError, match="deadline must be a number above 0 or None, not '5'"):
        compare(rows, {"v1": "Happy? {text}", "v2": {"prompt": "Sad? {text}", "deadline": "5"}}, deadline=60)
    assert server.stats(charged=False)["received"] == 0


def test_an_empty_frame_is_compared_without_a_warning(compare: Compare, rows: pd.DataFrame) -> None:
    assert compare(rows.head(0), PROMPTS, gold=None).table["same"].isna().all()


def test_the_gain_has_a_confidence_interval(compare: Compare, server: Server) -> None:
    rows = pd.DataFrame({"text": [f"Great {n}." for n in range(40)], "gold": "negative"})
    for n in range(20):
        says(server, f"Sentiment? Great {n}.", "negative")
    found = compare(rows, PROMPTS, gold="gold")
    gain, low, high = found.table.loc["v2", ["gain", "gain_low", "gain_high"]]
    assert gain == 0.5
    assert (low, high) == pytest.approx((20 / 42 - 1.96 * 0.0841, 20 / 42 + 1.96 * 0.0841), abs=0.001)
    assert found.table.loc["v2", "p_value"] == pytest.approx(2 / 2**20)
    assert "Different from v1 by more than chance (McNemar, exact): v2 (p = 1.9e-06)." in str(found)


def test_equal_variants_rarely_differ_significantly_however_many_are_compared() -> None:
    dice = np.random.default_rng(0)
    found = 0
    for _ in range(200):
        right = {f"v{n}": dice.random(60) < 0.7 for n in range(12)}
        lines: dict[str, dict[str, Any]] = {name: {} for name in right}
        _add_gains(lines, right)
        found += any(line["p_adjusted"] < 0.05 for name, line in lines.items() if name != "v0")
    assert found <= 0.05 * 200


def test_the_tests_agree_with_those_of_statsmodels() -> None:
    dice = np.random.default_rng(2)
    for _ in range(20):
        better, worse = dice.integers(0, 40, 2).tolist()
        table = [[5, better], [worse, 7]]
        assert mcnemar(better, worse) == pytest.approx(contingency_tables.mcnemar(table, exact=True).pvalue, abs=1e-9)
    chances = dice.random(12) ** 3
    assert holm(chances.tolist()) == pytest.approx(multitest.multipletests(chances, method="holm")[1].tolist())


def test_the_interval_of_the_gain_has_its_coverage_with_few_rows_too() -> None:
    dice = np.random.default_rng(1)
    for rows, before, after in ((5, 0.9, 0.9), (8, 0.5, 0.95), (20, 0.6, 0.7), (60, 0.95, 0.97)):
        held = 0
        for _ in range(500):
            old, new = dice.random(rows) < before, dice.random(rows) < after
            _, low, high = paired_gain(int((new & ~old).sum()), int((old & ~new).sum()), rows)
            held += low <= after - before <= high
        assert held >= 0.92 * 500


def test_few_shot_examples_of_any_variant_are_excluded_from_all_evaluations(
    compare: Compare, rows: pd.DataFrame
) -> None:
    shown = {"prompt": "Tone? {text}", "examples": rows[:1].assign(label="positive")}
    with pytest.warns(UserWarning, match="1 of the 4 rows have the same prompt as an example"):
        found = compare(rows, {"v1": "Happy? {text}", "v2": shown}, gold="gold")
    assert [each.rows for each in found.evaluations.values()] == [2, 2]
    assert [each.examples for each in found.evaluations.values()] == [1, 1]
    assert found.table["accuracy"].tolist() == [0.5, 0.5]


def test_the_html_shows_variants_and_changed_rows(compare: Compare, rows: pd.DataFrame, server: Server) -> None:
    says(server, "Sentiment? <b>Great", "negative")
    rows.loc["c", "text"] = "<b>Great</b> value. " + "x" * 200
    found = compare(rows, PROMPTS, gold="gold")
    html = found._repr_html_()
    assert "SIMULATED" in html
    assert "1 row labelled differently" in html
    assert "no label" not in html
    assert "<b>Great" not in html
    assert "No variant differs from v1 by more than chance (McNemar, exact)." in html
    assert "2 variants on 4 rows, 1 labelled differently (simulated)" in str(found)
    assert "All variants give every row the same label" in compare(rows[:2], PROMPTS)._repr_html_()


@pytest.mark.parametrize(
    ("prompts", "options", "error", "sentence"),
    [
        ("{text}", {}, InvalidInputError, "prompts must be prompts by their names"),
        ({}, {}, InvalidInputError, "prompts must be prompts by their names"),
        (PROMPTS, {"model": None}, InvalidInputError, "Pass model="),
        (PROMPTS, {"models": ["a", "b"]}, InvalidInputError, "Pass model="),
        (PROMPTS, {"model": None, "models": "gpt-4o-mini"}, InvalidInputError, "Pass model="),
        (PROMPTS, {"gold": "right"}, ColumnNotFoundError, "gold="),
        ({"v1": {"system": "Be brief."}}, {}, InvalidInputError, "needs its 'prompt'"),
        ({"v1": {"prompt": "{text}", "labels": ["a", "b"]}}, {}, InvalidInputError, "same for all variants"),
        (PROMPTS, {"labels": None}, InvalidInputError, "Pass labels="),
    ],
    ids=["text", "none", "no model", "both", "one text", "gold", "no prompt", "labels", "no labels"],
)
def test_invalid_comparisons_are_refused_before_anything_is_sent(
    compare: Compare, rows: pd.DataFrame, server: Server, prompts: Any, options: Any, error: Any, sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        compare(rows, prompts, **options)
    assert server.stats()["received"] == 0


def test_acompare_gives_the_same_result(compare: Compare, rows: pd.DataFrame, client: po.Client) -> None:
    options: dict[str, Any] = {"labels": TONES, "model": "gpt-4o-mini", "client": client, "progress": False}
    awaited = asyncio.run(po.acompare(rows, PROMPTS, gold="gold", **options))
    pd.testing.assert_frame_equal(awaited.table, compare(rows, PROMPTS, gold="gold").table)


def test_a_server_that_refuses_ends_the_comparison_with_its_error(
    compare: Compare, rows: pd.DataFrame, server: Server
) -> None:
    server.set(insufficient_quota_after=2)
    with pytest.raises(QuotaExceededError):
        compare(rows, PROMPTS)


def test_compares_own_arguments_exist_in_label_dataframe() -> None:
    own = set(inspect.signature(po.compare).parameters) - {"prompts", "models", "label", "options"}
    assert own <= set(inspect.signature(po.label_dataframe).parameters)
