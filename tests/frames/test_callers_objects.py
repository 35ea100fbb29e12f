"""Arguments are taken as they are when the call begins, even if the caller changes them afterwards."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._records import APIRequest
from parallel_openai.local import simulator
from tests.frames.conftest import Verb, asked, journal_of, prompts

ROWS = 12

#: What changes a frame in place goes one by one in later versions of pandas.
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")


@pytest.fixture
def slow() -> Iterator[po.Client]:
    """An account whose answers take a moment, so that a run is under way while its caller goes on."""
    with simulator.serve(latency=0.05) as server:
        yield po.Client(server.base_url, max_concurrent_requests=4)


def numbered(rows: int = ROWS) -> pd.DataFrame:
    return pd.DataFrame({"n": range(rows), "q": [f"Row {number}?" for number in range(rows)]})


def refilled(fill: Callable[[dict[str, Any], str], None]) -> Callable[[Any], dict[str, Any]]:
    """A prompt function that gives the same dict for each row."""
    body: dict[str, Any] = {}

    def ask(row: Any) -> dict[str, Any]:
        fill(body, row.q)
        return body

    return ask


def chat(body: dict[str, Any], text: str) -> None:
    body["messages"] = [{"role": "user", "content": text}]


def nested(body: dict[str, Any], text: str) -> None:
    body.setdefault("messages", [{"role": "user"}])[0]["content"] = [{"type": "text", "text": text}]


def items(body: dict[str, Any], text: str) -> None:
    body["input"] = [{"role": "user", "content": text}]


@pytest.mark.parametrize(
    ("endpoint", "fill", "where"),
    [
        ("chat.completions", chat, "messages"),
        ("chat.completions", nested, "messages"),
        ("responses", items, "input"),
    ],
)
def test_a_repair_keeps_its_rows_prompt_if_the_prompt_function_reuses_one_dict(
    client: po.Client, endpoint: str, fill: Any, where: str
) -> None:
    def parse(text: str) -> str:
        raise ValueError("never good")

    out = po.process_dataframe(
        numbered(), refilled(fill), model="gpt-4o-mini", endpoint=endpoint, parse=parse, repair=1, client=client,
        progress=False,
    )  # fmt: skip
    lines = [json.loads(line) for line in journal_of(out).read_bytes().splitlines()]
    sent = {line[3]["key"]: line[3]["sent"] for line in lines if "sent" in line[3]}
    for text, key in zip(out["q"], out["request_key"], strict=True):
        assert json.dumps(text)[1:-1] in json.dumps(sent[key][where][0])


def test_a_list_reused_for_every_row_and_the_system_message_is_copied_for_each_row(ask: Verb) -> None:
    shared: list[Any] = [{}]

    def prompt(row: Any) -> list[Any]:
        shared[0] = {"role": "user", "content": row.q}
        return shared

    def system(row: Any) -> list[Any]:
        shared[0] = {"type": "text", "text": f"About {row.n}."}
        return shared

    bodies = asked(ask(numbered(3), prompt, system=system))
    assert [body["messages"][0]["content"][0]["text"] for body in bodies] == ["About 0.", "About 1.", "About 2."]
    assert [body["messages"][1]["content"] for body in bodies] == ["Row 0?", "Row 1?", "Row 2?"]


def test_a_parse_function_that_reuses_one_dict_gives_each_row_its_own_value(ask: Verb) -> None:
    last: dict[str, Any] = {"seen": []}

    def parse(text: str) -> dict[str, Any]:
        last["seen"][:] = [text]
        return last

    df = numbered(4)
    out = ask(df, "q", parse=parse)
    plain = ask(df, "q")
    assert [value["seen"] for value in out["response"]] == [[text] for text in plain["response"]]


def test_a_request_does_not_share_its_body_with_the_caller() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi."}]}
    request = APIRequest(body)
    body["messages"][0]["content"] = "Bye."  # type: ignore[index]
    body["model"] = "other"
    assert request.request_json == {"model": "m", "messages": [{"role": "user", "content": "Hi."}]}


def test_metadata_is_written_as_it_was_when_its_request_was_made(ask: Verb) -> None:
    df = numbered(3)
    df["tags"] = [[number] for number in range(3)]

    def prompt(row: Any) -> str:
        return str(row.q)

    def parse(text: str) -> str:
        for tags in df["tags"]:
            tags.append("later")
        return text

    out = ask(df, prompt, metadata="tags", parse=parse)
    journal = [json.loads(line) for line in journal_of(out).read_bytes().splitlines()]
    assert sorted(line[2]["tags"][0] for line in journal) == [0, 1, 2]
    assert all(line[2]["tags"][1:] == [] for line in journal)


CHANGES: dict[str, Callable[[pd.DataFrame], Any]] = {
    "sorted": lambda df: df.sort_values("n", ascending=False, inplace=True, ignore_index=True),
    "a column replaced": lambda df: df.__setitem__("q", "Nothing?"),
    "cells written": lambda df: df.loc.__setitem__((slice(None), "q"), "Nothing?"),
    "numbers written": lambda df: df.iloc.__setitem__((slice(None), 0), -1),
    "rows dropped": lambda df: df.drop(index=[0, 1, ROWS - 1], inplace=True),
    "a row added": lambda df: df.loc.__setitem__(99, [99, "New?"]),
    "columns renamed": lambda df: df.rename(columns={"q": "n", "n": "q"}, inplace=True),
    "columns set": lambda df: setattr(df, "columns", ["a", "b"]),
    "the index set": lambda df: setattr(df, "index", range(100, 100 + ROWS)),
    "a column of ours added": lambda df: df.__setitem__("status", "mine"),
    "attrs written": lambda df: df.attrs["about"].append("later"),
}  # fmt: skip


async def meanwhile(work: Any, change: Callable[[], Any]) -> Any:
    task = asyncio.ensure_future(work)
    await asyncio.sleep(0.1)
    change()
    return await task


@pytest.mark.parametrize("how", CHANGES)
def test_changes_to_the_frame_during_a_run_do_not_affect_the_result(slow: po.Client, how: str) -> None:
    df = numbered()
    df.attrs["about"] = ["first"]
    before = df.copy(deep=True)
    before.attrs = {"about": ["first"]}
    work = po.aprocess_dataframe(df, "{q}", model="gpt-4o-mini", client=slow, progress=False)
    out = asyncio.run(meanwhile(work, lambda: CHANGES[how](df)))
    pd.testing.assert_frame_equal(out[["n", "q"]], before)
    assert prompts(out) == before["q"].tolist()
    assert out.attrs["about"] == ["first"]


@pytest.mark.parametrize("how", ["sorted", "cells written", "rows dropped"])
def test_changes_to_the_frame_during_a_run_do_not_affect_the_other_functions(slow: po.Client, how: str) -> None:
    before = numbered()
    common: dict[str, Any] = {"client": slow, "progress": False}

    async def all_of_them() -> None:
        df = numbered()
        labelled = po.alabel_dataframe(
            df, "{q}", labels=["a", "b"], model="gpt-4o-mini", samples=2, gold=None, **common
        )
        out = await meanwhile(labelled, lambda: CHANGES[how](df))
        pd.testing.assert_frame_equal(out[["n", "q"]], before)
        df = numbered()
        embedded = po.aembed_dataframe(df, "q", model="text-embedding-3-small", rows_per_request=1, **common)
        out = await meanwhile(embedded, lambda: CHANGES[how](df))
        pd.testing.assert_frame_equal(out[["n", "q"]], before)
        df = numbered()
        asked = {"v1": "{q}", "v2": "Once more: {q}"}
        compared = po.acompare(df, asked, labels=["a", "b"], model="gpt-4o-mini", **common)
        found = await meanwhile(compared, lambda: (CHANGES[how](df), asked.clear()))
        for out in found.frames.values():
            pd.testing.assert_frame_equal(out[["n", "q"]], before)
        assert list(found.frames) == ["v1", "v2"]

    asyncio.run(all_of_them())


def test_each_call_sees_the_frame_as_it_is_at_that_moment(slow: po.Client) -> None:
    df = numbered(2)

    async def several() -> list[pd.DataFrame]:
        calls = []
        for name in ("Ann", "Bob"):
            df["q"] = f"Who is {name}?"
            df["q"] += df["n"].astype(str)
            calls.append(
                po.aprocess_dataframe(
                    df, "q", model="gpt-4o-mini", save_to=f"{name}.jsonl", client=slow, progress=False
                )
            )
        return await asyncio.gather(*calls)

    first, second = asyncio.run(several())
    assert first["q"].tolist() == prompts(first) == ["Who is Ann?0", "Who is Ann?1"]
    assert second["q"].tolist() == prompts(second) == ["Who is Bob?0", "Who is Bob?1"]


def test_changes_to_parameters_during_a_run_have_no_effect(slow: po.Client) -> None:
    stop, extra = ["END"], {"metadata": {"team": "x"}}
    choices = {"a": "first", "b": "second"}
    work = po.alabel_dataframe(
        numbered(), "{q}", labels=choices, model="gpt-4o-mini", stop=stop, extra_body=extra, client=slow,
        progress=False,
    )  # fmt: skip

    def change() -> None:
        stop.append("MORE")
        extra["metadata"]["team"] = "y"
        choices.clear()

    bodies = asked(asyncio.run(meanwhile(work, change)))
    assert {json.dumps([body["stop"], body["metadata"]]) for body in bodies} == {'[["END"], {"team": "x"}]'}


def test_answers_are_checked_against_the_schema_that_was_sent(slow: po.Client) -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}
    work = po.aprocess_dataframe(
        numbered(), "{q}", response_format=schema, model="gpt-4o-mini", client=slow, progress=False
    )
    out = asyncio.run(meanwhile(work, lambda: schema["properties"].update(x={"type": "integer"})))
    assert out["status"].tolist() == ["succeeded"] * ROWS


def test_array_arguments_are_copied() -> None:
    body = {"model": "m", "input": np.array([1, 2, 3])}
    request = APIRequest(body, path="embeddings")
    body["input"][0] = 9  # type: ignore[index]
    assert request.request_json["input"] == [1, 2, 3]
