"""The frame comes back unchanged, with the answers added beside its rows."""

from __future__ import annotations

import asyncio
import datetime
import enum
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._frames.columns.answer_columns import COLUMNS
from parallel_openai.errors import ColumnExistsError, InvalidInputError
from parallel_openai.local.simulator import Server
from tests.frames.conftest import Verb, prompts


class Tone(enum.Enum):
    GOOD = 1


def arrow(values: list[Any], kind: str) -> Any:
    return pd.array(values, dtype=pd.ArrowDtype(getattr(pytest.importorskip("pyarrow"), kind)()))


COLUMNS_OF_EVERY_KIND: dict[str, Callable[[], Any]] = {
    "int": lambda: [1, 2, 3],
    "float": lambda: [1.0, float("nan"), float("inf")],
    "bool": lambda: [True, False, True],
    "int8": lambda: np.array([1, 2, 3], dtype="int8"),
    "str": lambda: ["a", None, "c"],
    "object str": lambda: pd.Series(["a", None, "c"], dtype=object),
    "string": lambda: pd.array(["a", None, "c"], dtype="string"),
    "string[python]": lambda: pd.array(["a", None, "c"], dtype="string[python]"),
    "Int64": lambda: pd.array([1, None, 3], dtype="Int64"),
    "Float64": lambda: pd.array([1.5, None, 3], dtype="Float64"),
    "boolean": lambda: pd.array([True, None, False], dtype="boolean"),
    "category": lambda: pd.Categorical(["a", None, "c"], categories=["c", "b", "a"], ordered=True),
    "datetime": lambda: pd.to_datetime(["2026-01-01", None, "2026-03-01"]),
    "datetime with zone": lambda: pd.to_datetime(["2026-01-01", None, "2026-03-01"]).tz_localize("Europe/Vienna"),
    "timedelta": lambda: pd.to_timedelta(["1h", None, "3h"]),
    "period": lambda: pd.period_range("2026-01", periods=3, freq="M"),
    "interval": lambda: pd.interval_range(0, 3),
    "sparse": lambda: pd.arrays.SparseArray([0.0, 0.0, 1.0]),
    "complex": lambda: [1j, 2j, 3j],
    "lists": lambda: [["a"], [], ["b", "c"]],
    "dicts": lambda: [{"a": 1}, {}, None],
    "arrays": lambda: pd.Series([np.array([1, 2]), np.array([]), None], dtype=object),
    "dates": lambda: [datetime.date(2026, 1, 1), None, datetime.date(2026, 1, 3)],
    "enums": lambda: [Tone.GOOD, None, Tone.GOOD],
    "mixed": lambda: pd.Series([1, "a", None], dtype=object),
    "lone surrogates": lambda: pd.Series(["\ud800", "b", "c"], dtype=object),
    "arrow string": lambda: arrow(["a", None, "c"], "string"),
    "arrow int": lambda: arrow([1, None, 3], "int32"),
    "arrow bool": lambda: arrow([True, None, False], "bool_"),
    "arrow date": lambda: arrow([datetime.date(2026, 1, 1), None, datetime.date(2026, 1, 3)], "date32"),
    "missing only": lambda: [None, None, None],
}


@pytest.mark.parametrize("kind", COLUMNS_OF_EVERY_KIND)
def test_a_column_of_any_dtype_is_unchanged(ask: Verb, kind: str) -> None:
    df = pd.DataFrame({"text": ["a", "b", "c"], "x": COLUMNS_OF_EVERY_KIND[kind]()})
    before = df.copy(deep=True)
    out = ask(df, "text", metadata="x")
    assert out["status"].tolist() == ["succeeded"] * 3
    pd.testing.assert_frame_equal(out[["text", "x"]], before)
    pd.testing.assert_frame_equal(df, before)


@pytest.mark.parametrize("kind", COLUMNS_OF_EVERY_KIND)
def test_a_column_of_any_dtype_can_be_used_in_a_prompt(ask: Verb, kind: str) -> None:
    df = pd.DataFrame({"x": COLUMNS_OF_EVERY_KIND[kind]()})
    out = ask(df, "What is {x}?")
    refused = {"missing_prompt"} | ({"invalid_prompt"} if kind == "lone surrogates" else set())
    assert set(out["error_code"].dropna()) <= refused
    pd.testing.assert_frame_equal(out[["x"]], df)


@pytest.mark.parametrize("kind", COLUMNS_OF_EVERY_KIND)
def test_a_prompt_function_sees_none_for_missing_values_of_any_dtype(ask: Verb, kind: str) -> None:
    values = pd.Series(COLUMNS_OF_EVERY_KIND[kind]())
    out = ask(pd.DataFrame({"x": values}), lambda row: str(row.x is None))
    assert prompts(out) == [str(missing) for missing in values.isna().tolist()]


INDEXES: dict[str, Callable[[], Any]] = {
    "shuffled": lambda: [2, 0, 1],
    "duplicate labels": lambda: ["a", "a", "b"],
    "all the same": lambda: [0, 0, 0],
    "missing labels": lambda: [None, None, "a"],
    "dates": lambda: pd.DatetimeIndex(["2026-01-03", "2026-01-01", "2026-01-01"], name="day"),
    "dates with zone": lambda: pd.date_range("2026-01-01", periods=3, tz="UTC"),
    "MultiIndex": lambda: pd.MultiIndex.from_tuples([("a", 1), ("a", 1), ("b", 2)], names=["x", None]),
    "categories": lambda: pd.CategoricalIndex(["b", "a", "b"]),
    "intervals": lambda: pd.interval_range(0, 3),
    "range": lambda: pd.RangeIndex(10, 4, -2, name="n"),
}


@pytest.mark.parametrize("kind", INDEXES)
def test_any_index_is_unchanged_and_each_answer_is_in_its_row(ask: Verb, kind: str) -> None:
    df = pd.DataFrame({"text": ["first", "second", "third"]}, index=INDEXES[kind]())
    out = ask(df, "text")
    pd.testing.assert_index_equal(out.index, df.index, exact=True)
    assert [answer.split()[1] for answer in out["response"]] == ["first", "second", "third"]


@pytest.mark.parametrize("kind", INDEXES)
def test_a_prompt_function_sees_the_index_label(ask: Verb, kind: str) -> None:
    df = pd.DataFrame({"text": ["first", "second", "third"]}, index=INDEXES[kind]())
    assert prompts(ask(df, lambda row: f"{row.text} {row.name}")) == [
        f"{text} {label}" for text, label in zip(df["text"], df.index.tolist(), strict=True)
    ]


def test_the_new_columns_follow_the_old_ones_in_a_fixed_order(ask: Verb, reviews: pd.DataFrame) -> None:
    assert list(ask(reviews, "text")) == ["text", "stars", "response", *COLUMNS]


def test_the_new_columns_have_types_that_hold_missing_values(ask: Verb, reviews: pd.DataFrame) -> None:
    kinds = ask(reviews, "text").dtypes.astype(str)
    assert {name for name in kinds.index if kinds[name] in ("string", "str")} >= {"response", "error", "request_id"}
    assert kinds[["prompt_tokens", "completion_tokens", "attempts"]].tolist() == ["Int64"] * 3
    assert kinds[["status", "cost_usd", "seconds"]].tolist() == ["category", "float64", "float64"]


def test_the_new_columns_show_what_the_server_reported(ask: Verb, server: Server) -> None:
    row = ask(pd.DataFrame({"text": ["Hi."]}), "text").iloc[0]
    stats = server.stats()
    assert row["response"].startswith("(simulated) Hi.")
    assert (row["prompt_tokens"], row["completion_tokens"]) == (stats["prompt_tokens"], stats["completion_tokens"])
    assert (row["finish_reason"], row["model"], row["attempts"]) == ("stop", "gpt-4o-mini (simulated)", 1)
    assert row["request_id"].startswith("req_simulated")
    assert 0 < row["seconds"] < 10
    assert 0 < row["cost_usd"] < 0.001


@pytest.mark.parametrize("columns", [[], ["text"]], ids=["no columns", "one column"])
def test_a_frame_without_rows_gets_the_new_columns(ask: Verb, server: Server, columns: list[str]) -> None:
    out = ask(pd.DataFrame(columns=columns), "Summarise.")
    assert list(out) == [*columns, "response", *COLUMNS]
    assert len(out) == server.stats()["received"] == 0


def test_a_frame_without_rows_keeps_its_dtypes(ask: Verb, reviews: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(ask(reviews[:0], "text")[["text", "stars"]], reviews[:0])


def test_a_frame_without_columns_can_be_processed_with_a_prompt_function(ask: Verb) -> None:
    assert prompts(ask(pd.DataFrame(index=["a", "b"]), lambda row: f"Say {row.name}.")) == ["Say a.", "Say b."]


def test_with_several_column_levels_new_names_are_on_the_first(ask: Verb) -> None:
    columns = pd.MultiIndex.from_tuples([("review", "text"), ("review", "stars"), ("id", "")], names=["part", "field"])
    df = pd.DataFrame([["Hi.", 5, 1]], columns=columns)
    out = ask(df, "{review text} {review stars} {id}", metadata=[("review", "stars")])
    assert prompts(out) == ["Hi. 5 1"]
    pd.testing.assert_frame_equal(out[["review", "id"]], df)
    assert out.columns.names == ["part", "field"]


def test_a_column_of_several_levels_can_be_the_prompt(ask: Verb) -> None:
    df = pd.DataFrame([["Hi."]], columns=pd.MultiIndex.from_tuples([("review", "text", "en")]))
    assert ask(df, ("review", "text", "en"))["status"].tolist() == ["succeeded"]


@pytest.mark.parametrize(
    "columns",
    [
        pd.Index(["a", "b"], name="field"),
        pd.RangeIndex(2, name="n"),
        pd.date_range("2026-01-01", periods=2),
        pd.CategoricalIndex(["a", "b"], name="field"),
        pd.Index([1.5, None]),
    ],
    ids=["named", "range", "dates", "categories", "missing"],
)
def test_any_column_index_is_unchanged(ask: Verb, columns: Any) -> None:
    df = pd.DataFrame([["Hi.", 1], ["Ho.", 2]], columns=columns)
    out = ask(df, columns[0])
    assert out.columns[:2].tolist()[0] == columns[0]
    assert out.columns.name == columns.name
    assert out["status"].tolist() == ["succeeded"] * 2
    pd.testing.assert_frame_equal(out.iloc[:, :2].set_axis(["a", "b"], axis=1), df.set_axis(["a", "b"], axis=1))


def test_rows_with_the_same_prompt_share_one_request(ask: Verb, server: Server) -> None:
    out = ask(pd.DataFrame({"text": ["a", "b", "a", "a"]}), "text")
    assert server.stats()["received"] == 2
    assert out["response"][0] == out["response"][2] == out["response"][3]
    assert out["request_id"].nunique() == 2


def test_the_cost_of_shared_answers_is_counted_once(ask: Verb) -> None:
    out = ask(pd.DataFrame({"text": ["a", "a"]}), "text")
    assert out["cost_usd"][1] == 0
    assert out["cost_usd"].sum() == pytest.approx(out.attrs["parallel_openai"]["cost_usd"])


def test_each_sample_of_a_row_is_a_request_of_its_own(ask: Verb, server: Server) -> None:
    out = ask(pd.DataFrame({"text": ["a", "b"]}), "text", samples=3)
    assert server.stats()["received"] == 6
    assert [len(each) for each in out["response"]] == [3, 3]
    assert out["attempts"].tolist() == [3, 3]


def test_a_row_with_a_failed_sample_is_failed_and_keeps_the_others(ask: Verb, server: Server) -> None:
    server.script([400, 200])
    out = ask(pd.DataFrame({"text": ["a"]}), "text", samples=2)
    assert out["status"].tolist() == ["failed"]
    assert sum(each is not None for each in out["response"][0]) == 1


@pytest.mark.parametrize("taken", ["response", "status", "model", "cost_usd", "request_key"])
def test_a_column_that_would_be_overwritten_is_an_error(
    ask: Verb, reviews: pd.DataFrame, server: Server, taken: str
) -> None:
    with pytest.raises(ColumnExistsError, match=rf"already has '{taken}'.*prefix="):
        ask(reviews.assign(**{taken: 1}), "text")
    assert server.stats()["received"] == 0


def test_a_prefix_avoids_clashes_of_column_names(ask: Verb, reviews: pd.DataFrame) -> None:
    once = ask(reviews, "text")
    twice = ask(once, "text", prefix="again_")
    pd.testing.assert_frame_equal(twice[once.columns], once)
    assert twice["again_response"].tolist() == once["response"].tolist()


@pytest.mark.parametrize(
    ("thing", "sentence"),
    [
        (pd.Series(["a"]), r"not a Series. Use series.to_frame\(\)"),
        ([{"text": "a"}], "not a list"),
        (None, "not None"),
    ],
    ids=["series", "list", "none"],
)
def test_process_dataframe_refuses_anything_but_a_frame(ask: Verb, thing: Any, sentence: str) -> None:
    with pytest.raises(InvalidInputError, match=sentence):
        ask(thing, "text")


def test_the_frames_own_attrs_are_kept(ask: Verb, reviews: pd.DataFrame) -> None:
    reviews.attrs["source"] = "shop"
    assert ask(reviews, "text").attrs["source"] == "shop"
    assert reviews.attrs == {"source": "shop"}


def test_the_attrs_summarise_the_run(ask: Verb, reviews: pd.DataFrame) -> None:
    about = ask(reviews, "Hm? {text}").attrs["parallel_openai"]
    assert (about["rows"], about["succeeded"], about["failed"], about["requests_sent"]) == (3, 3, 0, 3)
    assert (about["prompt"], about["model"], about["ended"], about["simulated"]) == (
        "Hm? {text}",
        "gpt-4o-mini",
        "finished",
        True,
    )


def test_a_frame_of_answers_survives_a_parquet_file(ask: Verb, reviews: pd.DataFrame) -> None:
    pytest.importorskip("pyarrow")
    out = ask(reviews, "text", logit_bias={"50256": np.int64(-100)}, metadata=["stars"])
    out.to_parquet("out.parquet")
    again = pd.read_parquet("out.parquet")
    assert again.attrs["parallel_openai"] == out.attrs["parallel_openai"]
    assert again["response"].tolist() == out["response"].tolist()


def test_the_report_of_the_last_run_is_kept(ask: Verb, reviews: pd.DataFrame) -> None:
    ask(pd.concat([reviews, pd.DataFrame({"text": [None, None]})], ignore_index=True), "text")
    report = po.last_run()
    assert report is not None
    assert str(report).startswith("SIMULATED answers. 5 rows in ")
    assert "3 succeeded, 2 failed (missing_prompt 2)" in str(report)


def test_without_client_one_is_made_from_the_environment(
    server: Server, reviews: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    out = po.process_dataframe(reviews, "text", model="gpt-4o-mini", progress=False)
    assert out["status"].tolist() == ["succeeded"] * 3


def test_aprocess_dataframe_gives_the_same_result(client: po.Client, reviews: pd.DataFrame) -> None:
    options: dict[str, Any] = {"model": "gpt-4o-mini", "client": client, "progress": False}
    awaited = asyncio.run(po.aprocess_dataframe(reviews, "text", **options))
    pd.testing.assert_frame_equal(awaited, po.process_dataframe(reviews, "text", **options))


def test_twenty_thousand_rows_have_little_overhead(ask: Verb, client: po.Client) -> None:
    df = pd.DataFrame({"text": [f"Review {n % 50}" for n in range(20_000)], "n": range(20_000)})
    began = time.perf_counter()
    out = ask(df, "{text}")
    assert out["status"].eq("succeeded").all()
    assert time.perf_counter() - began < 8
