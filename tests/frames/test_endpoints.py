"""`process_dataframe` with every endpoint: the requests, the answers, and the errors of single rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydantic
import pytest

import parallel_openai as po
from parallel_openai.errors import InvalidInputError, RunStoppedError
from parallel_openai.local import simulator
from tests.frames.conftest import asked, codes
from tests.frames.published import check_body

MODELS = {
    "chat.completions": "gpt-4o-mini",
    "responses": "gpt-5-mini",
    "embeddings": "text-embedding-3-small",
    "completions": "gpt-3.5-turbo-instruct",
    "moderations": "omni-moderation-latest",
}
CAPS = {"chat.completions": "max_completion_tokens", "responses": "max_output_tokens", "completions": "max_tokens"}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
FUNCTION = {"name": "weather", "parameters": SCHEMA, "strict": True}

Ask = Callable[..., pd.DataFrame]


@pytest.fixture
def ask(client: po.Client, tmp_path: Path) -> Ask:
    def process(df: pd.DataFrame, prompt: Any, endpoint: str, **options: Any) -> pd.DataFrame:
        options = {"model": MODELS.get(endpoint), "client": client, "progress": False, **options}
        if endpoint == "completions":
            options.setdefault("max_tokens", 100)
        return po.process_dataframe(df, prompt, endpoint=endpoint, **options)

    return process


@pytest.fixture
def rows() -> pd.DataFrame:
    return pd.DataFrame({"text": ["A wonderful lamp.", "I will kill it."]}, index=[7, 7])


@pytest.mark.parametrize("endpoint", MODELS)
def test_request_bodies_of_every_endpoint_match_the_api_reference(ask: Ask, rows: pd.DataFrame, endpoint: str) -> None:
    out = ask(rows, "Say: {text}", endpoint)
    assert out["status"].tolist() == ["succeeded"] * 2
    assert out["response"].notna().all()
    assert set(out["model"]) == {f"{MODELS[endpoint]} (simulated)"}
    for body in asked(out):
        check_body(endpoint, body)


EXTRAS: list[tuple[str, dict[str, Any]]] = [
    ("chat.completions", {"system": "Be brief.", "n": 2, "logprobs": True, "seed": 1}),
    ("chat.completions", {"tools": [{"type": "function", "function": FUNCTION}], "tool_choice": "required"}),
    ("responses", {"system": "Be brief.", "reasoning": {"effort": "low"}, "max_output_tokens": 100}),
    ("responses", {"tools": [{"type": "function", **FUNCTION}], "tool_choice": "required"}),
    (
        "responses",
        {
            "text": {"verbosity": "low"},
            "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA, "strict": True}},
        },
    ),
    ("embeddings", {"dimensions": 8, "encoding_format": "base64"}),
    ("completions", {"n": 2, "logprobs": 1}),
]


@pytest.mark.parametrize(("endpoint", "options"), EXTRAS, ids=[f"{name} {list(more)}" for name, more in EXTRAS])
def test_a_body_with_every_option_matches_the_api_reference(
    ask: Ask, rows: pd.DataFrame, endpoint: str, options: dict[str, Any]
) -> None:
    out = ask(rows, "text", endpoint, **options)
    assert out["status"].tolist() == ["succeeded"] * 2
    for body in asked(out):
        check_body(endpoint, body)


def test_the_check_of_request_bodies_finds_mistakes() -> None:
    with pytest.raises(AssertionError, match="has no"):
        check_body("responses", {"model": "m", "messages": []})
    with pytest.raises(pydantic.ValidationError):
        check_body("chat.completions", {"model": "m", "messages": [{"role": "user", "content": 5}]})


def test_a_vector_is_an_array_of_floats_in_either_format(ask: Ask, rows: pd.DataFrame) -> None:
    plain = ask(rows, "text", "embeddings", dimensions=8)
    packed = ask(rows, "text", "embeddings", dimensions=8, encoding_format="base64")
    for one, other in zip(plain["response"], packed["response"], strict=True):
        assert one.dtype == np.float32
        assert one.shape == (8,)
        assert np.allclose(one, other)
    assert packed["completion_tokens"].tolist() == [0, 0]


def test_each_row_gets_its_own_moderation_result(ask: Ask, rows: pd.DataFrame) -> None:
    out = ask(rows, "text", "moderations")
    assert [result["flagged"] for result in out["response"]] == [False, True]


def test_parse_applies_to_moderation_results(ask: Ask, rows: pd.DataFrame) -> None:
    out = ask(rows, "text", "moderations", parse=lambda result: result["flagged"])
    assert out["response"].dtype == "boolean"
    assert out["response"].tolist() == [False, True]


def test_tool_calls_have_a_column_of_their_own(ask: Ask, rows: pd.DataFrame) -> None:
    out = ask(rows, "text", "chat.completions", tools=[{"type": "function", "function": FUNCTION}], metadata=[])
    assert out["response"].isna().all()
    assert [calls[0]["function"]["name"] for calls in out["tool_calls"]] == ["weather"] * 2
    assert out["finish_reason"].tolist() == ["tool_calls"] * 2
    assert "tool_calls" not in ask(rows, "text", "chat.completions").columns


def test_tool_calls_of_several_choices_or_samples_are_lists(ask: Ask, rows: pd.DataFrame) -> None:
    tools = [{"type": "function", "function": FUNCTION}]
    for several in ({"n": 2}, {"samples": 2}):
        out = ask(rows, "text", "chat.completions", tools=tools, **several)
        assert [[calls[0]["type"] for calls in row] for row in out["tool_calls"]] == [["function"] * 2] * 2
        assert out["response"].tolist() == [[None, None]] * 2


def test_a_column_of_tool_calls_does_not_overwrite_the_frames_own(ask: Ask, rows: pd.DataFrame) -> None:
    with pytest.raises(InvalidInputError, match="'tool_calls'"):
        ask(rows.assign(tool_calls=1), "text", "responses", tools=[{"type": "function", **FUNCTION}])


def messages(*contents: Any) -> list[Any]:
    return [[{"role": "user", "content": content}] for content in contents]


LONG = "word " * 20_000
BAD: list[tuple[str, Any, str]] = [
    ("chat.completions", None, "missing_prompt"),
    ("chat.completions", " ", "empty_prompt"),
    ("chat.completions", 5, "invalid_prompt"),
    ("chat.completions", [{"role": "nobody", "content": "Hi."}], "invalid_value"),
    ("chat.completions", {"messages": []}, "empty_array"),
    ("chat.completions", LONG * 8, "context_length_exceeded"),
    ("responses", None, "missing_prompt"),
    ("responses", "", "empty_prompt"),
    ("responses", ["Hi."], "invalid_prompt"),
    ("responses", [{"role": "tool", "content": "4"}], "invalid_value"),
    ("responses", {"input": "Hi.", "max_output_tokens": 1}, "integer_below_min_value"),
    ("responses", LONG * 8, "context_length_exceeded"),
    ("embeddings", None, "missing_prompt"),
    ("embeddings", "", "empty_prompt"),
    ("embeddings", ["Hi."], "invalid_prompt"),
    ("embeddings", LONG, "invalid_request_error"),
    ("embeddings", {"input": "Hi.", "dimensions": 5000}, "integer_above_max_value"),
    ("completions", None, "missing_prompt"),
    ("completions", " ", "empty_prompt"),
    ("completions", [{"role": "user", "content": "Hi."}], "invalid_prompt"),
    ("completions", {"prompt": "Hi.", "logprobs": 9}, "integer_above_max_value"),
    ("completions", LONG * 8, "context_length_exceeded"),
    ("moderations", None, "missing_prompt"),
    ("moderations", "", "empty_prompt"),
    ("moderations", [{"type": "audio"}], "invalid_type"),
    ("moderations", {"input": []}, "empty_array"),
]


@pytest.mark.parametrize(("endpoint", "prompt", "code"), BAD, ids=[f"{bad[0]} {bad[1]!r:.25}" for bad in BAD])
def test_a_bad_row_fails_alone_and_says_why(ask: Ask, endpoint: str, prompt: Any, code: str) -> None:
    frame = pd.DataFrame({"asked": pd.Series(["Hello.", prompt, "Good bye."], dtype=object)})
    out = ask(frame, "asked", endpoint)
    assert codes(out) == [None, code, None]
    assert out["error"][1]


FLAWS = [
    (endpoint, fault, code)
    for endpoint in ("chat.completions", "responses", "completions")
    for fault, code in (
        ("empty", "empty"),
        ("length", "truncated"),
        ("content_filter", "content_filter"),
        ("refusal", "refused"),
    )
    if (endpoint, fault) != ("completions", "refusal")  # there it is a text like another
]


@pytest.mark.parametrize(("endpoint", "fault", "code"), FLAWS)
def test_a_missing_answer_has_the_same_error_on_every_endpoint(
    ask: Ask, server: simulator.Server, endpoint: str, fault: str, code: str
) -> None:
    server.script([{"fault": fault}])
    assert codes(ask(pd.DataFrame({"text": ["Hello."]}), "text", endpoint)) == [code]


@pytest.mark.parametrize("endpoint", CAPS)
def test_repair_sends_a_truncated_answers_request_with_a_larger_cap(ask: Ask, endpoint: str) -> None:
    out = ask(pd.DataFrame({"text": ["Hello."]}), "text", endpoint, repair=2, **{CAPS[endpoint]: 20})
    assert out["status"].tolist() == ["succeeded"]
    assert out["attempts"].tolist() == [3]


def test_legacy_completions_have_a_default_cap_of_sixteen_tokens(
    ask: Ask, client: po.Client, rows: pd.DataFrame
) -> None:
    process = partial(po.process_dataframe, rows, "text", model="davinci-002", endpoint="completions", client=client)
    assert codes(process(progress=False, budget_tokens=1_000)) == ["truncated"] * 2


def test_repair_shows_the_model_its_answer_in_the_responses_api_too(
    ask: Ask, server: simulator.Server, client: po.Client
) -> None:
    def strict(text: str) -> str:
        if "cannot be used" not in text:
            raise ValueError("that is not what was asked for")
        return text

    out = ask(pd.DataFrame({"text": ["Hello."]}), "text", "responses", parse=strict, repair=True)
    assert out["status"].tolist() == ["succeeded"]


@pytest.mark.parametrize("endpoint", MODELS)
def test_the_same_call_again_sends_nothing_on_any_endpoint(
    ask: Ask, server: simulator.Server, rows: pd.DataFrame, endpoint: str
) -> None:
    first = ask(rows, "text", endpoint)
    sent = server.stats()["received"]
    again = ask(rows.iloc[::-1], "text", endpoint)
    assert server.stats()["received"] == sent
    assert [str(each) for each in again["response"]] == [str(each) for each in first["response"][::-1]]


@pytest.mark.parametrize("endpoint", MODELS)
def test_a_frame_from_every_endpoint_can_be_exported(ask: Ask, rows: pd.DataFrame, endpoint: str) -> None:
    out = ask(rows, "text", endpoint)
    for form in ("records", "results", "batch"):
        assert po.to_jsonl(out, "out.jsonl", format=form) == 2  # type: ignore[arg-type]
    line = json.loads(Path("out.jsonl").read_text().splitlines()[0])
    assert line["url"] == "/v1/" + line["url"].removeprefix("/v1/")
    check_body(endpoint, line["body"])


@pytest.mark.parametrize(
    ("endpoint", "options", "sentence"),
    [
        ("images", {"model": "m"}, "No endpoint 'images'; there are"),
        ("embeddings", {"system": "Hi."}, r"embeddings takes no system text; put it into the prompt\."),
        ("moderations", {"response_format": {"type": "json_object"}}, "moderations takes no response_format"),
        ("responses", {"input": "Hi."}, "input= would stand in the place of every row's prompt"),
        ("responses", {"stream": True}, "stream= brings answers in pieces"),
        ("responses", {"background": True}, "background= leaves the answers at the server"),
        ("responses", {"system": "A", "instructions": "B"}, "Both system= and instructions="),
    ],
)
def test_options_that_an_endpoint_does_not_support_are_refused_before_anything_is_sent(
    ask: Ask, server: simulator.Server, rows: pd.DataFrame, endpoint: str, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InvalidInputError, match=sentence):
        ask(rows, "text", endpoint, **{"model": "m", **options})
    assert server.stats()["received"] == 0


def test_a_wrong_key_stops_the_run_on_every_endpoint(rows: pd.DataFrame) -> None:
    with simulator.serve(required_api_key="sk-right") as server:
        for endpoint, model in MODELS.items():
            with pytest.raises(RunStoppedError, match="Incorrect API key"):
                po.process_dataframe(
                    rows,
                    "text",
                    model=model,
                    endpoint=endpoint,
                    client=po.Client(server.base_url, "sk-wrong"),
                    progress=False,
                )


@pytest.mark.parametrize("endpoint", MODELS)
def test_a_file_of_requests_goes_to_every_endpoint(server: simulator.Server, endpoint: str) -> None:
    own = {"chat.completions": "messages", "completions": "prompt"}.get(endpoint, "input")
    prompt: Any = [{"role": "user", "content": "Hi."}] if own == "messages" else "Hi."
    lines = [{"model": MODELS[endpoint], own: prompt, "metadata": 1}, {"model": MODELS[endpoint], own: None}]
    Path("in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = "chat/completions" if endpoint == "chat.completions" else endpoint
    status = po.process_api_requests_from_file("in.jsonl", "out.jsonl", f"{server.base_url}/{path}", progress=False)
    assert (status.num_tasks_succeeded, status.num_tasks_failed) == (1, 1)
    entries = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    good = next(entry for entry in entries if isinstance(entry[1], dict))
    assert (good[0][own], good[2]) == (prompt, 1)
