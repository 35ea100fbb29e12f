"""The same call on its own result replaces the columns that it added, and never the user's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from pydantic import BaseModel

import parallel_openai as po
from parallel_openai.errors import ColumnExistsError
from parallel_openai.local.simulator import Server
from tests.frames.conftest import Verb, prompts

LABELS = ["positive", "negative"]


class Note(BaseModel):
    choice: Literal["a", "b"]
    note: str


class Mail(BaseModel):
    topic: Literal["order", "other"]
    urgent: bool


Call = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.fixture(
    params=[
        "process",
        "label",
        "embed",
        "fields",
        "class",
        "samples",
        "logprobs",
        "prefix",
        "explode",
        "levels",
        "again",
    ]
)
def call(request: pytest.FixtureRequest, client: po.Client, ask: Verb, label: Verb) -> Call:
    embed: dict[str, Any] = {"model": "text-embedding-3-small", "client": client, "progress": False}
    calls: dict[str, Call] = {
        "process": lambda df: ask(df, "Hm? {text}"),
        "label": lambda df: label(df, "{text}", labels=LABELS),
        "embed": lambda df: po.embed_dataframe(df, "text", **embed),
        "fields": lambda df: ask(df, "{text}", response_format=Note),
        "class": lambda df: label(df, "{text}", labels=Mail),
        "samples": lambda df: label(df, "{text}", labels=LABELS, samples=3),
        "logprobs": lambda df: label(df, "{text}", labels=LABELS, confidence="logprobs"),
        "prefix": lambda df: label(df, "{text}", labels=LABELS, prefix="a b_"),
        "explode": lambda df: ask(df, "{text}", n=3, explode=True),
        "levels": lambda df: ask(df if df.columns.nlevels == 2 else deep(df), "{text}"),
        "again": lambda df: asyncio.run(
            po.aprocess_dataframe(df, lambda row: f"{dict(row)}", model="m", client=client)
        ),
    }
    return calls[request.param]


def deep(df: pd.DataFrame) -> pd.DataFrame:
    return df.set_axis(pd.MultiIndex.from_tuples([(name, "") for name in df.columns]), axis=1)


def test_the_same_call_again_gives_the_same_frame_and_sends_nothing(
    call: Call, reviews: pd.DataFrame, server: Server
) -> None:
    once = call(reviews)
    sent = server.stats()["received"]
    twice = call(call(once))
    assert server.stats()["received"] == sent
    pd.testing.assert_frame_equal(twice, once)


def test_rows_may_be_sorted_dropped_or_repeated_between_calls(call: Call, reviews: pd.DataFrame) -> None:
    once = call(reviews)
    pd.testing.assert_frame_equal(call(once.iloc[::-1]), call(reviews.iloc[::-1]))
    if not any("choice" in str(name) for name in once.columns) or "note" in once:
        pd.testing.assert_frame_equal(call(once[1:]), call(reviews[1:]))


def test_a_call_with_another_prompt_replaces_the_columns_of_the_first(label: Verb, reviews: pd.DataFrame) -> None:
    once = label(reviews, "{text}", labels=LABELS, samples=2, explain=True)
    out = label(once, "Once more: {text}", labels=["a", "b"])
    assert list(out) == list(label(reviews, "Once more: {text}", labels=["a", "b"]))
    assert set(out["label"].cat.categories) == {"a", "b"}


def test_columns_of_calls_with_another_prefix_are_kept(label: Verb, ask: Verb, reviews: pd.DataFrame) -> None:
    both = ask(label(reviews, "{text}", labels=LABELS), "Hm? {text}", prefix="p_")
    again = label(both, "{text}", labels=LABELS)
    pd.testing.assert_frame_equal(again[both.columns], both)
    pd.testing.assert_frame_equal(ask(again, "Hm? {text}", prefix="p_")[both.columns], both)
    with pytest.raises(ColumnExistsError, match="'status'"):
        ask(both, "Hm? {text}")


def test_result_columns_may_be_dropped_or_renamed_between_calls(label: Verb, reviews: pd.DataFrame) -> None:
    once = label(reviews, "{text}", labels=LABELS)
    left = once.drop(columns=["seconds", "error"]).rename(columns={"label": "mine"})
    out = label(left, "{text}", labels=LABELS)
    assert list(out) == ["text", "stars", "mine", *list(once)[2:]]
    assert out["mine"].tolist() == once["label"].tolist() == out["label"].tolist()


OWN: dict[str, Callable[[pd.DataFrame], Any]] = {
    "a label corrected": lambda df: df.loc.__setitem__((1, "label"), next(x for x in LABELS if x != df["label"][1])),
    "labels swapped": lambda df: df.__setitem__("label", np.roll(df["label"], 1)),
    "a label taken out": lambda df: df.loc.__setitem__((1, "label"), None),
    "labels of one's own": lambda df: df.__setitem__("label", ["a", "b", "c"]),
    "a column of that name again": lambda df: (df.pop("label"), df.__setitem__("label", 1)),
    "a cost of one's own": lambda df: df.__setitem__("cost_usd", df["cost_usd"] + 1),
    "a text of one's own": lambda df: df.__setitem__("error", "seen"),
    "an id of one's own": lambda df: df.__setitem__("request_id", ["a", "b", "c"]),
    "keys of one's own": lambda df: df.__setitem__("request_key", ["a", "b", "c"]),
    "no keys": lambda df: df.pop("request_key"),
    "other votes": lambda df: df["votes"][0].append("x"),
    "no attrs": lambda df: df.attrs.clear(),
    "a second column of that name": lambda df: df.insert(0, "label", 1, allow_duplicates=True),
}


@pytest.mark.parametrize("own", OWN)
def test_a_column_with_the_users_own_values_is_never_overwritten(
    label: Verb, reviews: pd.DataFrame, server: Server, own: str
) -> None:
    df = label(reviews, "{text}", labels=LABELS, samples=2)
    assert df["label"].nunique() == 2
    OWN[own](df)
    sent = server.stats()["received"]
    with pytest.raises(ColumnExistsError, match="already has"):
        label(df, "{text} Another?", labels=LABELS)
    assert server.stats()["received"] == sent


def test_a_users_own_vector_is_never_overwritten(client: po.Client, reviews: pd.DataFrame) -> None:
    embed: dict[str, Any] = {"model": "text-embedding-3-small", "client": client, "progress": False}
    out = po.embed_dataframe(reviews, "text", **embed)
    out["embedding"] = [vector * np.float32(2) for vector in out["embedding"]]
    with pytest.raises(ColumnExistsError, match="'embedding'"):
        po.embed_dataframe(out, "text", **embed)


@pytest.mark.parametrize(
    "reading",
    [
        {"prompt": "Translate: {response}"},
        {"prompt": "response"},
        {"prompt": "{text}", "system": "Before: {[response]!r}"},
        {"prompt": "{text}", "metadata": "model"},
    ],
)
def test_a_call_that_reads_what_it_would_replace_is_refused(ask: Verb, reviews: pd.DataFrame, reading: Any) -> None:
    out = ask(reviews, "Hm? {text}")
    with pytest.raises(ColumnExistsError, match=r"'response'.*only if nothing in it was changed"):
        ask(out, **reading)
    assert "t_response" in ask(out, **reading, prefix="t_")


def test_the_gold_column_is_not_replaced(label: Verb, client: po.Client, reviews: pd.DataFrame) -> None:
    out = label(reviews, "{text}", labels=LABELS)
    with pytest.raises(ColumnExistsError, match="'label'"):
        label(out, "{text}?", labels=LABELS, gold="label")
    common: dict[str, Any] = {"model": "gpt-4o-mini", "client": client, "progress": False}
    with pytest.raises(ColumnExistsError, match="'topic'"):
        po.compare(label(reviews, "{text}", labels=Mail), {"v": "{text}"}, labels=Mail, gold="topic", **common)
    found = po.compare(out, {"v1": "{text}", "v2": "{text}?"}, labels=LABELS, **common)
    assert [list(frame) for frame in found.frames.values()] == [list(out)] * 2


def test_a_prompt_function_does_not_see_the_result_columns_of_an_earlier_call(ask: Verb, reviews: pd.DataFrame) -> None:
    out = ask(reviews, lambda row: f"{list(row)}")
    assert prompts(ask(out, lambda row: f"{list(row)}")) == ["['text', 'stars']"] * 3


def test_values_whose_repr_raises_do_not_lose_the_frame(ask: Verb, reviews: pd.DataFrame) -> None:
    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError("never")

    out = ask(reviews, "text", parse=lambda text: Odd())
    assert out["status"].tolist() == ["succeeded"] * 3
    assert ask(out, "text")["response"].dtype == "string"


def test_columns_of_an_earlier_session_are_replaced_too(label: Verb, reviews: pd.DataFrame, tmp_path: Path) -> None:
    po.save(label(reviews, "{text}", labels=LABELS), tmp_path / "out.parquet")
    back = po.load(tmp_path / "out.parquet")
    back = back.iloc[::-1]
    assert label(back, "{text}", labels=LABELS)["label"].tolist() == back["label"].tolist()


def test_preview_ignores_replaced_columns_as_the_call_does(ask: Verb, client: po.Client, reviews: pd.DataFrame) -> None:
    def prompt(row: Any) -> str:
        return f"{dict(row)}"

    out = ask(reviews, prompt)
    seen = po.preview(out, prompt, model="gpt-4o-mini", client=client)
    assert (seen.known, seen.requests) == (3, 0)
