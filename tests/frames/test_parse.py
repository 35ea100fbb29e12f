"""Errors in the user's `parse` function fail the row, and the paid answer is kept."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai.errors import InvalidInputError
from parallel_openai.local.simulator import Server
from tests.frames.conftest import Verb, codes, journal_of
from tests.frames.test_repair import ONE, says
from tests.frames.test_resume import received


def test_parse_converts_the_response(ask: Verb, server: Server, reviews: pd.DataFrame) -> None:
    server.script([says("1.5")] * 3)
    out = ask(reviews, "text", parse=float)
    assert out["response"].tolist() == [1.5, 1.5, 1.5]
    assert out["response"].dtype == "Float64"


@pytest.mark.parametrize(
    ("text", "parse", "dtype"),
    [
        ("5", int, "Int64"),
        ("5", str, "string"),
        ("5", bool, "boolean"),
        ("[1, 2]", json.loads, "object"),
        ("5", lambda text: 10**30, "object"),
    ],
    ids=["int", "str", "bool", "list", "huge"],
)
def test_parsed_values_of_one_type_become_a_column_of_that_type(
    ask: Verb, server: Server, text: str, parse: Any, dtype: str
) -> None:
    server.script([says(text)])
    out = ask(pd.DataFrame({"text": ["A lamp.", None]}), "text", parse=parse)
    assert out["response"].dtype == dtype
    assert out["response"][0] == parse(text)
    assert pd.isna(out["response"][1])


def test_parsed_values_of_several_types_become_an_object_column(
    ask: Verb, server: Server, reviews: pd.DataFrame
) -> None:
    server.script([says("1"), says('"a"'), says("[1]")])
    out = ask(reviews, "text", parse=json.loads)
    assert sorted(map(str, out["response"])) == ["1", "[1]", "a"]


def test_a_parser_that_raises_fails_its_row_with_the_tracebacks_last_line(ask: Verb, reviews: pd.DataFrame) -> None:
    def parse(text: str) -> str:
        if "terrible" in text:
            raise KeyError("stars")
        return text[:3]

    out = ask(reviews, "text", parse=parse)
    assert out["status"].tolist() == ["succeeded", "failed", "succeeded"]
    assert codes(out) == [None, "parse_error", None]
    assert out["error"][1] == "parse raised KeyError: 'stars'"
    assert out["prompt_tokens"].notna().all()
    assert len(journal_of(out).read_bytes().splitlines()) == 3


@pytest.mark.parametrize("raised", [SystemExit(2), GeneratorExit(), asyncio.CancelledError("late")], ids=repr)
def test_system_exit_and_cancellation_raised_by_parse_fail_only_the_row(
    ask: Verb, reviews: pd.DataFrame, server: Server, raised: BaseException
) -> None:
    def stumble(value: Any) -> Any:
        raise raised

    out = ask(reviews, "text", parse=stumble)
    assert codes(out) == ["parse_error"] * 3
    assert codes(ask(reviews, stumble)) == ["prompt_error"] * 3
    assert ask(reviews, "text")["status"].tolist() == ["succeeded"] * 3
    assert received(server) == 3  # the answers were kept


def test_system_exit_in_one_run_does_not_affect_another(ask: Verb, reviews: pd.DataFrame) -> None:
    """Where it comes from code that nobody expects to raise it, as that of a key."""

    def leave() -> str:
        sys.exit("No token today.")

    with po.Client("http://127.0.0.1:9/v1", leave) as client, pytest.raises(SystemExit, match="No token today"):
        ask(reviews, "text", client=client)
    assert ask(reviews, "text")["status"].tolist() == ["succeeded"] * 3


async def _answer(value: Any) -> Any:
    return value


@pytest.mark.parametrize(
    "arguments", [{"prompt": _answer}, {"prompt": "text", "parse": _answer}], ids=["prompt", "parse"]
)
def test_an_asynchronous_function_is_refused_before_anything_is_sent(
    ask: Verb, reviews: pd.DataFrame, server: Server, arguments: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInputError, match=r"(prompt|parse)= is an `async def`"):
        ask(reviews, **arguments)
    assert received(server) == 0


def test_a_corrected_parser_reads_the_known_answer(ask: Verb, reviews: pd.DataFrame, server: Server) -> None:
    for parse in (float, lambda text: text.no_such_thing):
        assert set(codes(ask(reviews, "text", parse=parse))) == {"parse_error"}
    out = ask(reviews, "text", parse=str.upper)
    assert out["status"].tolist() == ["succeeded"] * 3
    assert out["response"][0].startswith("(SIMULATED) A WONDERFUL LAMP")
    assert received(server) == 3


def test_a_prompt_function_that_raises_shows_the_tracebacks_last_line(ask: Verb, reviews: pd.DataFrame) -> None:
    out = ask(reviews, lambda row: row.text + 1 if row.stars == 1 else row.text)
    assert codes(out) == [None, "prompt_error", None]
    assert out["error"][1] == 'The prompt function raised TypeError: can only concatenate str (not "int") to str'


def test_an_invalid_answer_is_not_parsed(ask: Verb, server: Server) -> None:
    server.script([says("half an ans", "length")])
    out = ask(ONE, "text", parse=lambda text: 1 / 0)
    assert codes(out) == ["truncated"]
    assert out["response"].isna().all()


def test_with_repair_a_value_error_is_shown_to_the_model(ask: Verb, server: Server) -> None:
    server.script([says("five"), says("5")])
    out = ask(ONE, "text", parse=int, repair=True)
    assert out["response"].tolist() == [5]
    told = json.loads(journal_of(out).read_bytes().splitlines()[-1])[3]["sent"]["messages"][-1]["content"]
    assert "ValueError: invalid literal for int() with base 10: 'five'" in told


def test_with_repair_a_bug_in_the_parser_sends_nothing_again(ask: Verb, server: Server) -> None:
    out = ask(ONE, "text", parse=lambda text: 1 / 0, repair=True)
    assert out["error"].tolist() == ["parse raised ZeroDivisionError: division by zero"]
    assert received(server) == 1


def test_samples_are_parsed_one_by_one(ask: Verb, server: Server) -> None:
    server.script([says("1"), says("2")])
    assert sorted(ask(ONE, "text", parse=int, samples=2)["response"][0]) == [1, 2]
