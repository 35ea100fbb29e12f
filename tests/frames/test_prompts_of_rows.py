"""Each row's request: templates, columns of prompts, functions, system messages and parameters."""

from __future__ import annotations

import functools
import gc
import hashlib
import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

from parallel_openai import Client, process_dataframe, read_journal
from parallel_openai._frames.columns.table import Row
from parallel_openai.errors import ColumnNotFoundError, InvalidInputError, TemplateError
from parallel_openai.local.simulator import Server
from tests.frames.conftest import Verb, asked, codes, journal_of, prompts


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("Is it good? {text}", "Is it good? Fine."),
        ("{text} and {text}", "Fine. and Fine."),
        ("{{text}} {text}", "{text} Fine."),
        ("{price:.2f} for {text}", "3.50 for Fine."),
        ("{price:>8.1f}|{text}", "     3.5|Fine."),
        ("{text!r}", "'Fine.'"),
        ("{text!s:>7}", "  Fine."),
        ("{name!a}", "'Zo\\xeb'"),
        ("{first name}", "Ann"),
        ("{a.b} {c[0]}", "dotted indexed"),
        ("{7}", "seven"),
        ("{when:%d %B}", "02 March"),
        ("{tags}", '["a", "b"]'),
    ],
)
def test_a_template_is_filled_with_the_row(ask: Verb, template: str, text: str) -> None:
    row = {
        "text": "Fine.",
        "price": 3.5,
        "name": "Zoë",
        "first name": "Ann",
        "a.b": "dotted",
        "c[0]": "indexed",
        7: "seven",
        "when": pd.Timestamp("2026-03-02"),
        "tags": ["a", "b"],
    }
    assert prompts(ask(pd.DataFrame([row]), template)) == [text]


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{txt}", r"uses \{txt\}, but the columns are: text, stars"),
        ("{}", "empty field"),
        ("{text.upper}", "no attribute or item"),
        ("{text[0]}", "no attribute or item"),
        ("{text.__class__.__init__.__globals__}", "no attribute or item"),
        ("{stars:{text}}", "must not hold a field"),
        ("{text!x}", "one of !r, !s, !a"),
        ("{text", "cannot be read"),
        ("text}", "cannot be read"),
        ("Is it good?", "every row would ask the same"),
        ("txt", "is no column's name"),
    ],
)
def test_a_template_that_cannot_be_filled_stops_before_anything_is_sent(
    ask: Verb, reviews: pd.DataFrame, server: Server, template: str, sentence: str
) -> None:
    with pytest.raises(TemplateError, match=sentence):
        ask(reviews, template)
    assert server.stats()["received"] == 0


def test_a_template_without_fields_is_allowed_for_one_row(ask: Verb) -> None:
    assert prompts(ask(pd.DataFrame({"a": [1]}), "What is the capital of France?")) == [
        "What is the capital of France?"
    ]


def test_a_prompt_named_as_a_column_is_that_column(ask: Verb, reviews: pd.DataFrame) -> None:
    assert prompts(ask(reviews, "text")) == reviews["text"].tolist()


def test_a_column_with_braces_in_its_name_is_that_column(ask: Verb) -> None:
    df = pd.DataFrame({"{text}": ["the column"], "text": ["the field"]})
    assert prompts(ask(df, "{text}")) == ["the column"]


def test_a_prompt_column_may_have_any_name(ask: Verb) -> None:
    assert prompts(ask(pd.DataFrame({3: ["Hi."]}), 3)) == ["Hi."]


def test_text_in_a_prompt_column_is_not_a_template(ask: Verb) -> None:
    assert prompts(ask(pd.DataFrame({"prompt": ["What is {x}?"]}), "prompt")) == ["What is {x}?"]


def test_a_prompt_column_may_hold_messages(ask: Verb) -> None:
    messages = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Yes?"}]
    messages.append({"role": "user", "content": [{"type": "text", "text": "Go on."}]})
    [body] = asked(ask(pd.DataFrame({"chat": [messages]}), "chat"))
    assert body["messages"] == messages


def test_a_prompt_column_may_hold_one_message(ask: Verb) -> None:
    [body] = asked(ask(pd.DataFrame({"chat": [{"role": "user", "content": "Hi."}]}), "chat"))
    assert body["messages"] == [{"role": "user", "content": "Hi."}]


def test_messages_may_be_numpy_arrays_as_read_from_parquet(ask: Verb) -> None:
    parts = np.array([{"type": "text", "text": "Hi."}], dtype=object)
    messages = np.empty(1, dtype=object)
    messages[0] = {"role": "user", "content": parts}
    [body] = asked(ask(pd.DataFrame({"chat": [messages]}), "chat"))
    assert body["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Hi."}]}]


def test_a_request_body_takes_precedence_over_the_calls_arguments(ask: Verb) -> None:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi."}], "temperature": 0.5}
    [sent] = asked(ask(pd.DataFrame({"body": [body]}), "body", temperature=1, seed=3))
    assert sent == {**body, "seed": 3}


def test_request_bodies_may_bring_their_own_model(client: Client) -> None:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi."}]}
    out = process_dataframe(pd.DataFrame({"body": [body]}), "body", model=None, client=client, progress=False)
    assert asked(out) == [body]


def test_the_system_message_is_added_to_a_request_body(ask: Verb) -> None:
    body = {"messages": [{"role": "user", "content": "Hi."}]}
    [sent] = asked(ask(pd.DataFrame({"body": [body]}), "body", system="Be brief."))
    assert sent["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."}]


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, "missing_prompt"),
        (float("nan"), "missing_prompt"),
        (pd.NA, "missing_prompt"),
        (pd.NaT, "missing_prompt"),
        ("", "empty_prompt"),
        (" \n", "empty_prompt"),
        (5, "invalid_prompt"),
        (b"Hi.", "invalid_prompt"),
        ([], "invalid_prompt"),
        (["Hi."], "invalid_prompt"),
        ("\ud800", "invalid_prompt"),
        ({"messages": "Hi.", "stream": True}, "invalid_prompt"),
        ({"messages": "Hi.", "background": True}, "invalid_prompt"),
        ([{"role": "user", "content": {1, 2}}], "invalid_prompt"),
        pytest.param(object(), "invalid_prompt", id="object()"),
    ],
    ids=repr,
)
def test_a_prompt_that_cannot_be_sent_fails_its_row_only(ask: Verb, value: Any, code: str) -> None:
    out = ask(pd.DataFrame({"prompt": pd.Series(["Hi.", value, "Ho."], dtype=object)}), "prompt")
    assert out["status"].tolist() == ["succeeded", "failed", "succeeded"]
    assert out["error_code"][1] == code


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA], ids=repr)
def test_a_field_without_a_value_fails_its_row_only(ask: Verb, missing: Any) -> None:
    out = ask(pd.DataFrame({"text": pd.Series(["Hi.", missing], dtype=object)}), "Say: {text}")
    assert codes(out) == [None, "missing_prompt"]
    assert out["error"][1] == "The column 'text' is empty in this row (NaN or None)."


def test_a_format_spec_that_does_not_suit_fails_its_row_only(ask: Verb) -> None:
    out = ask(pd.DataFrame({"n": pd.Series([1, "one"], dtype=object)}), "{n:d}")
    assert codes(out) == [None, "invalid_prompt"]


def test_a_cell_whose_text_raises_fails_its_row_only(ask: Verb) -> None:
    class Shy:
        def __str__(self) -> str:
            raise LookupError("not now")

    out = ask(pd.DataFrame({"thing": pd.Series([Shy(), "a lamp"], dtype=object)}), "Describe {thing}")
    assert out["status"].tolist() == ["failed", "succeeded"]
    assert "not now" in out["error"][0]


def test_cells_may_be_arrays(ask: Verb) -> None:
    df = pd.DataFrame({"a": [np.array([1, 2]), np.array([3, 4])]})
    assert prompts(ask(df, "Sum up {a}")) == ["Sum up [1, 2]", "Sum up [3, 4]"]


@pytest.mark.parametrize(
    "function",
    [
        lambda row: f"{row['text']} {row['stars']} {row.name}",
        lambda row: f"{row.text} {row.stars} {row.name}",
        lambda row: "{text} {stars} ".format(**row) + str(row.name),
        functools.partial(lambda mark, row: f"{row.text} {row.stars}{mark}{row.name}", " "),
    ],
)
def test_a_prompt_function_sees_columns_and_the_index_label(ask: Verb, function: Any) -> None:
    assert prompts(ask(pd.DataFrame({"text": ["Hi."], "stars": [5]}, index=["r1"]), function)) == ["Hi. 5 r1"]


def test_a_prompt_function_gets_python_values(ask: Verb) -> None:
    df = pd.DataFrame({"n": [1], "x": pd.array([None], dtype="Int64"), "t": pd.to_datetime(["2026-01-01"])})
    out = ask(df, lambda row: f"{type(row.n).__name__} {row.x} {type(row.t).__name__}")
    assert prompts(out) == ["int None Timestamp"]


def test_a_prompt_function_may_return_messages_or_a_body(ask: Verb) -> None:
    def prompt(row: Row) -> Any:
        messages = [{"role": "user", "content": row.text}]
        return messages if row.text == "a" else {"messages": messages, "seed": 1}

    assert [body.get("seed") for body in asked(ask(pd.DataFrame({"text": ["a", "b"]}), prompt))] == [None, 1]


def test_a_prompt_function_that_raises_fails_its_row_only(ask: Verb, reviews: pd.DataFrame) -> None:
    out = ask(reviews, lambda row: f"{row.text} {12 // (row.stars - 1)}")
    assert out["status"].tolist() == ["succeeded", "failed", "succeeded"]
    assert out["error_code"][1] == "prompt_error"
    assert "ZeroDivisionError" in out["error"][1]


def test_a_missing_column_in_a_prompt_function_lists_the_columns(ask: Verb, reviews: pd.DataFrame) -> None:
    out = ask(reviews, lambda row: row.txt)
    assert out["error"][0] == (
        "The prompt function raised AttributeError: No column 'txt'; the row has ['text', 'stars']."
    )


def test_a_prompt_function_whose_error_is_invalid_unicode_fails_its_row(ask: Verb) -> None:
    def prompt(row: Row) -> str:
        raise ValueError(row.text)

    df = pd.DataFrame({"text": pd.Series(["\ud800"], dtype=object)})
    assert ask(df, prompt)["error_code"].tolist() == ["prompt_error"]


@pytest.mark.parametrize(
    "system",
    ["Stars: {stars}", "rules", lambda row: row.rules],
    ids=["template", "column", "function"],
)
def test_the_system_message_comes_first(ask: Verb, system: Any) -> None:
    df = pd.DataFrame({"text": ["Hi."], "stars": [5], "rules": ["Stars: 5"]})
    [body] = asked(ask(df, "text", system=system))
    assert body["messages"] == [{"role": "system", "content": "Stars: 5"}, {"role": "user", "content": "Hi."}]


def test_a_system_message_without_fields_is_allowed(ask: Verb, reviews: pd.DataFrame) -> None:
    bodies = asked(ask(reviews, "text", system="Be brief."))
    assert {body["messages"][0]["content"] for body in bodies} == {"Be brief."}


def test_a_row_whose_system_cell_is_empty_has_no_system_message(ask: Verb) -> None:
    [body] = asked(ask(pd.DataFrame({"text": ["Hi."], "rules": [None]}), "text", system="rules"))
    assert body["messages"] == [{"role": "user", "content": "Hi."}]


def test_a_system_message_that_is_not_text_fails_its_row(ask: Verb) -> None:
    out = ask(pd.DataFrame({"text": ["Hi."], "rules": [5]}), "text", system="rules")
    assert out["error"][0] == "The system message is a value of type int; it must be a string."


def test_parameters_go_into_the_body_as_they_are(ask: Verb, reviews: pd.DataFrame) -> None:
    params = {"temperature": 0.5, "max_completion_tokens": 20, "seed": 1, "logprobs": True, "top_logprobs": 2}
    body = asked(ask(reviews, "text", **params, response_format={"type": "text"}))[0]
    expected = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "A wonderful lamp."}], **params}
    assert body == {**expected, "response_format": {"type": "text"}}


def test_extra_body_carries_the_apis_own_metadata(ask: Verb, reviews: pd.DataFrame) -> None:
    out = ask(reviews, "text", extra_body={"metadata": {"team": "a"}}, metadata="stars")
    assert asked(out)[0]["metadata"] == {"team": "a"}
    assert out["status"].tolist() == ["succeeded"] * 3


def test_the_journal_holds_the_bodies_that_the_server_received(
    ask: Verb, reviews: pd.DataFrame, server: Server
) -> None:
    out = ask(reviews, "text")
    written = [line.split(b',{"id":', 1)[0][1:] for line in journal_of(out).read_bytes().splitlines()]
    assert {hashlib.sha256(body).hexdigest() for body in written} == set(server.stats()["charged"])


def test_metadata_columns_are_written_to_the_journal(ask: Verb, reviews: pd.DataFrame) -> None:
    out = ask(reviews, "text", metadata=["stars", "text"])
    metadata = [json.loads(line)[2] for line in journal_of(out).read_bytes().splitlines()]
    assert sorted(each["stars"] for each in metadata) == [1, 4, 5]
    assert metadata[0].keys() == {"stars", "text"}


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)


@pytest.fixture
def nothing_collected() -> Iterator[None]:
    """What earlier tests left has finalizers, which fail if they run where the limit of recursion is reached."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("nothing_collected")
@pytest.mark.parametrize("verb", ["process", "label", "embed"])
@pytest.mark.parametrize("cell", [Unprintable(), ENDLESS], ids=["no text", "endless"])
def test_metadata_that_is_not_json_fails_its_row_before_it_is_sent(client: Client, cell: Any, verb: str) -> None:
    df = pd.DataFrame({"text": ["a", "b", "c"], "beside": pd.Series([1, cell, {"x"}], dtype=object)})
    options: dict[str, Any] = {"labels": ["good", "bad"]} if verb == "label" else {}
    out = getattr(df.openai, verb)("text", model="m", client=client, progress=False, metadata="beside", **options)
    assert out["status"].tolist() == ["succeeded", "failed", "succeeded"]
    assert "metadata= cannot be written as JSON" in out["error"][1]
    assert sorted(str(each["beside"]) for each in read_journal(journal_of(out))["metadata"]) == ["1", "['x']"]


@pytest.mark.parametrize("metadata", ["stars", ["stars"], ("stars",), pd.Index(["stars"])], ids=str)
def test_metadata_may_be_one_column_or_several(ask: Verb, reviews: pd.DataFrame, metadata: Any) -> None:
    out = ask(reviews, "text", metadata=metadata)
    assert json.loads(journal_of(out).read_bytes().splitlines()[0])[2].keys() == {"stars"}


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"prompt": ["text"]}, InvalidInputError, "must be a template"),
        ({"prompt": None}, InvalidInputError, "must be a template"),
        ({"prompt": 3}, InvalidInputError, "must be a template"),
        ({"system": "{txt}"}, TemplateError, "txt"),
        ({"metadata": "star"}, ColumnNotFoundError, "metadata names the column 'star', but the frame has text, stars"),
        ({"temperature": {1}}, InvalidInputError, "cannot be sent as JSON"),
        ({"messages": [{}]}, InvalidInputError, "in the place of every row's prompt"),
        ({"stream": True}, InvalidInputError, "the bar shows the progress"),
        ({"extra_body": {"stream": True}}, InvalidInputError, "the bar shows the progress"),
        ({"samples": 0}, InvalidInputError, "samples must be"),
        ({"samples": 1.5}, InvalidInputError, "samples must be"),
        ({"samples": "3"}, InvalidInputError, "samples must be"),
        ({"model": ""}, InvalidInputError, "model must be"),
        ({"model": 5}, InvalidInputError, "model must be"),
        ({"endpoint": "chat"}, InvalidInputError, "No endpoint 'chat'; there are: chat.completions"),
    ],
)
def test_invalid_arguments_are_refused_before_anything_is_sent(
    ask: Verb, reviews: pd.DataFrame, server: Server, options: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        ask(reviews, **{"prompt": "text", **options})
    assert server.stats()["received"] == 0


def test_a_duplicate_column_name_in_the_prompt_is_an_error(ask: Verb) -> None:
    df = pd.DataFrame([["a", "b"]], columns=["text", "text"])
    for prompt in ("text", "{text}", lambda row: "Hi."):
        with pytest.raises(InvalidInputError, match="2 columns named 'text'"):
            ask(df, prompt)


def test_unused_duplicate_column_names_are_allowed(ask: Verb) -> None:
    df = pd.DataFrame([["a", "b", "Hi."]], columns=["x", "x", "text"])
    out = ask(df, "text")
    pd.testing.assert_frame_equal(out.iloc[:, :3], df)


def test_a_template_prefers_the_column_named_by_a_string(ask: Verb) -> None:
    assert prompts(ask(pd.DataFrame([["a", "b"]], columns=["1", 1]), "{1}")) == ["a"]


def test_a_slow_prompt_function_is_not_mistaken_for_an_unreachable_server(server: Server) -> None:
    def prompt(row: Row) -> str:
        if row["n"] in (3, 20):
            time.sleep(1.5)  # while connections are made, which may take 0.8 s
        return f"Text {row['n']}"

    server.set(max_requests_per_minute=None)
    with Client(server.base_url, timeout=1.0) as client:
        out = process_dataframe(
            pd.DataFrame({"n": range(60)}), prompt, model="gpt-4o-mini", client=client, progress=False
        )
    assert out["status"].eq("succeeded").all()
    assert server.stats()["received"] == 60
