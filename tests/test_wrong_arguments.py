"""Any wrong argument either works or is refused with a message, in one of our own errors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai.errors import ParallelOpenAIError
from parallel_openai.local import simulator

WRONG: dict[str, Any] = {
    "an object": object(),
    "a text": "x",
    "no text": "",
    "a negative number": -1,
    "a fraction": 2.5,
    "NaN": float("nan"),
    "a flag": True,
    "a list": ["a"],
    "no list": [],
    "a dict": {"a": 1},
    "a tuple": (1, 2),
    "bytes": b"x",
    "a function": print,
    "another library's client": pd.Timestamp(0),
    "None": None,
}
CALLS: dict[str, Callable[..., Any]] = {
    call.__name__: call
    for call in (
        po.Client,
        po.process_dataframe,
        po.label_dataframe,
        po.embed_dataframe,
        po.preview,
        po.compare,
        po.evaluate,
        po.explain,
        po.review,
        po.to_jsonl,
        po.append_to_jsonl,
        po.save,
        po.load,
        po.read_journal,
        po.peek,
        po.process_api_requests_from_file,
        po.batch_status,
        po.collect_batches,
        po.cancel_batches,
    )
}
REQUEST = '{"model":"gpt-5-mini","messages":[{"role":"user","content":"Is it good?"}]}\n'


@pytest.fixture(scope="module")
def quick_server() -> Iterator[simulator.Server]:
    with simulator.serve() as running:
        yield running


@pytest.fixture
def good(quick_server: simulator.Server) -> dict[str, Any]:
    """Arguments that every call works with, by name."""
    client = po.Client(quick_server.base_url)
    df = pd.DataFrame({"text": ["A lamp.", "A shoe."], "gold": ["yes", "no"]})
    asked = {"model": "gpt-5-mini", "client": client, "progress": False}
    out = po.label_dataframe(df, "Is it good? {text}", labels=["yes", "no"], save_to="known.jsonl", **asked)
    po.save(out, "out.csv")
    with open("requests.jsonl", "w") as file:
        file.write(REQUEST)
    return {
        **asked,
        "base_url": quick_server.base_url,
        "df": df,
        "prompt": "Is it good? {text}",
        "prompts": {"one": "Is it good? {text}"},
        "labels": ["yes", "no"],
        "column": "text",
        "gold": "gold",
        "out": out,
        "row": 0,
        "requests_filepath": "requests.jsonl",
        "data": {"a": 1},
        "filename": "appended.jsonl",
    }


PATHS = {"load": "out.csv", "save": "saved.csv", "read_journal": "known.jsonl", "peek": "known.jsonl"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_argument_is_refused_with_a_sentence(name: str, good: dict[str, Any]) -> None:
    call = CALLS[name]
    taken = [
        each.name
        for each in inspect.signature(call).parameters.values()
        if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
    ]
    needed = {argument: good[argument] for argument in taken if argument in good}
    if "path" in taken:
        needed["path"] = PATHS.get(name, "exported.jsonl")
    if "save_to" in taken and name.endswith(("_status", "_batches")):
        needed["save_to"] = "known.jsonl"
    call(**needed)
    tried = [(argument, kind) for argument in taken for kind in WRONG]
    found = {f"{argument}={kind}": _foreign(call, {**needed, argument: WRONG[kind]}) for argument, kind in tried}
    assert {case: error for case, error in found.items() if error is not None} == {}


def _foreign(call: Callable[..., Any], arguments: dict[str, Any]) -> Exception | None:
    """The error that a call raises and that is none of ours."""
    try:
        call(**arguments)
    except Exception as error:
        return None if isinstance(error, ParallelOpenAIError) and str(error).strip() else error
    return None
