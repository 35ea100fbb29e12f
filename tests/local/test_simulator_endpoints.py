"""The simulator's endpoints besides chat: answers match the SDK's types, errors the API's."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pydantic
import pytest
from openai.types import Completion, CreateEmbeddingResponse, ModerationCreateResponse
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from parallel_openai.local import simulator

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Rain in Rome?"}]}
RESPONSE = {"model": "gpt-5-mini", "input": "Rain in Rome?"}
EMBEDDING = {"model": "text-embedding-3-small", "input": "Rain in Rome"}
COMPLETION = {"model": "gpt-3.5-turbo-instruct", "prompt": "Rain in Rome"}
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
FUNCTION = {"name": "weather", "parameters": WEATHER, "strict": True}
FORMAT = {"type": "json_schema", "name": "weather", "schema": WEATHER, "strict": True}
PICTURE = {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low"}
ITEMS = [{"role": "user", "content": [{"type": "input_text", "text": "What is it?"}, PICTURE]}]


@pytest.fixture(scope="module")
def server() -> Iterator[simulator.Server]:
    with simulator.serve(max_requests_per_minute=None, refusal_latency=0.0) as running:
        yield running


def ask(server: simulator.Server, path: str, body: Any) -> tuple[int, Any]:
    url = f"{server.base_url}/{path}"
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("chat/completions", {**CHAT, "tools": [{"type": "function", "function": FUNCTION}]}, ChatCompletion),
        ("responses", RESPONSE, Response),
        ("responses", {**RESPONSE, "instructions": "Be brief.", "max_output_tokens": 16}, Response),
        ("responses", {**RESPONSE, "text": {"format": FORMAT, "verbosity": "low"}}, Response),
        ("responses", {**RESPONSE, "tools": [{"type": "function", **FUNCTION}], "tool_choice": "required"}, Response),
        ("responses", {**RESPONSE, "input": ITEMS, "reasoning": {"effort": "low"}}, Response),
        (
            "responses",
            {"model": "gpt-4o", "input": "Hi.", "include": ["message.output_text.logprobs"], "top_logprobs": 2},
            Response,
        ),
        ("embeddings", {**EMBEDDING, "dimensions": 8}, CreateEmbeddingResponse),
        ("embeddings", {**EMBEDDING, "input": [[1, 2], [3]], "dimensions": 8}, CreateEmbeddingResponse),
        ("completions", {**COMPLETION, "n": 2, "logprobs": 1}, Completion),
        ("completions", {**COMPLETION, "prompt": ["a", "b"]}, Completion),
        ("moderations", {"input": ["Fine.", "I will kill you."]}, ModerationCreateResponse),
    ],
)
def test_answers_match_the_sdks_types(
    server: simulator.Server, path: str, body: Any, kind: type[pydantic.BaseModel]
) -> None:
    status, answer = ask(server, path, body)
    assert status == 200, answer
    if kind is not ModerationCreateResponse:  # the SDK knows fields of it by other names
        kind.model_validate(answer, strict=True)
    assert kind.model_validate(answer)
    assert answer["system_fingerprint"] == "simulated"


TOO_LONG = "many words " * 4000
REFUSED = [
    ("responses", {"model": "gpt-5-mini"}, 400, "missing_required_parameter", "input"),
    ("responses", {**RESPONSE, "messages": []}, 400, "unknown_parameter", "messages"),
    ("responses", {**RESPONSE, "n": 2}, 400, "unknown_parameter", "n"),
    ("responses", {**RESPONSE, "response_format": {}}, 400, "unknown_parameter", "response_format"),
    ("responses", {**RESPONSE, "max_output_tokens": 15}, 400, "integer_below_min_value", "max_output_tokens"),
    ("responses", {**RESPONSE, "temperature": 0}, 400, "unsupported_value", "temperature"),
    ("responses", {**RESPONSE, "input": 5}, 400, "invalid_type", "input"),
    ("responses", {**RESPONSE, "input": ["Hi."]}, 400, "invalid_type", "input[0]"),
    ("responses", {**RESPONSE, "input": [{"role": "tool", "content": "4"}]}, 400, "invalid_value", "input[0].role"),
    (
        "responses",
        {**RESPONSE, "input": [{"role": "user", "content": [{"type": "text", "text": "Hi."}]}]},
        400,
        "invalid_value",
        "input[0].content[0].type",
    ),
    ("responses", {**RESPONSE, "input": [{"role": "user"}]}, 400, "invalid_type", "input[0].content"),
    ("responses", {**RESPONSE, "instructions": ["Hi."]}, 400, "invalid_type", "instructions"),
    ("responses", {**RESPONSE, "text": "short"}, 400, "invalid_type", "text"),
    ("responses", {**RESPONSE, "text": {"format": {"type": "xml"}}}, 400, "invalid_value", "text.format.type"),
    ("responses", {**RESPONSE, "text": {"format": {"type": "json_object"}}}, 400, None, "input"),
    (
        "responses",
        {**RESPONSE, "text": {"format": {"type": "json_schema", "schema": WEATHER}}},
        400,
        "missing_required_parameter",
        "text.format.name",
    ),
    ("responses", {**RESPONSE, "tools": {}}, 400, "invalid_type", "tools"),
    ("responses", {**RESPONSE, "tools": [{}]}, 400, "missing_required_parameter", "tools[0].type"),
    (
        "responses",
        {**RESPONSE, "tools": [{"type": "function", "function": FUNCTION}]},
        400,
        "missing_required_parameter",
        "tools[0].name",
    ),
    ("responses", {**RESPONSE, "stream": True}, 400, None, "stream"),
    ("chat/completions", {**CHAT, "tools": {}}, 400, "invalid_type", "tools"),
    ("chat/completions", {**CHAT, "tools": [{"type": "f"}]}, 400, "invalid_value", "tools[0].type"),
    (
        "chat/completions",
        {**CHAT, "tools": [{"type": "function", **FUNCTION}]},
        400,
        "missing_required_parameter",
        "tools[0].function.name",
    ),
    ("embeddings", {"model": "m"}, 400, "missing_required_parameter", "input"),
    ("embeddings", {**EMBEDDING, "input": ""}, 400, None, None),
    ("embeddings", {**EMBEDDING, "input": []}, 400, None, None),
    ("embeddings", {**EMBEDDING, "input": ["a", ""]}, 400, None, None),
    ("embeddings", {**EMBEDDING, "input": ["a", None]}, 400, None, None),
    ("embeddings", {**EMBEDDING, "input": ["a"] * 2049}, 400, "array_above_max_length", "input"),
    ("embeddings", {**EMBEDDING, "input": TOO_LONG}, 400, None, None),
    ("embeddings", {**EMBEDDING, "input": [TOO_LONG[:32_000]] * 38}, 400, "max_tokens_per_request", "input"),
    ("embeddings", {**EMBEDDING, "dimensions": 1537}, 400, "integer_above_max_value", "dimensions"),
    ("embeddings", {"model": "text-embedding-ada-002", "input": "a", "dimensions": 8}, 400, None, None),
    ("embeddings", {**EMBEDDING, "encoding_format": "hex"}, 400, "invalid_value", "encoding_format"),
    ("completions", {**COMPLETION, "model": "gpt-4o-mini"}, 404, None, "model"),
    ("completions", {**COMPLETION, "prompt": 5}, 400, "invalid_type", "prompt"),
    ("completions", {**COMPLETION, "prompt": [None]}, 400, "invalid_type", "prompt[0]"),
    ("completions", {**COMPLETION, "logprobs": 6}, 400, "integer_above_max_value", "logprobs"),
    ("completions", {**COMPLETION, "messages": []}, 400, "unknown_parameter", "messages"),
    ("moderations", {}, 400, "missing_required_parameter", "input"),
    ("moderations", {"input": []}, 400, "empty_array", "input"),
    ("moderations", {"input": 5}, 400, "invalid_type", "input"),
    ("moderations", {"input": [{"type": "audio"}]}, 400, "invalid_type", "input[0]"),
]


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "param"), REFUSED, ids=[f"{each[0]} {str(each[1])[-50:]}" for each in REFUSED]
)
def test_bodies_that_the_api_refuses_are_refused(
    server: simulator.Server, path: str, body: Any, status: int, code: str | None, param: str | None
) -> None:
    answered, said = ask(server, path, body)
    assert (answered, said["error"]["code"], said["error"]["param"]) == (status, code, param), said


def test_a_vector_is_the_same_in_both_formats_and_has_length_one(server: simulator.Server) -> None:
    _, plain = ask(server, "embeddings", EMBEDDING)
    _, packed = ask(server, "embeddings", {**EMBEDDING, "encoding_format": "base64"})
    numbers = np.array(plain["data"][0]["embedding"], dtype=np.float32)
    unpacked = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), dtype="<f4")
    assert numbers.shape == (1536,)
    assert np.allclose(numbers, unpacked)
    assert abs(float(np.linalg.norm(numbers)) - 1) < 1e-5


def test_texts_that_share_words_have_similar_vectors(server: simulator.Server) -> None:
    texts = ["The lamp is broken.", "My lamp was broken.", "Delivery took two weeks!"]
    with openai.OpenAI(base_url=server.base_url, api_key="none") as sdk:
        found = sdk.embeddings.create(model="text-embedding-3-large", input=texts, dimensions=256)
    one, same, other = (np.array(each.embedding) for each in found.data)
    assert one @ same > one @ other + 0.2


def test_a_tool_is_called_until_it_has_answered(server: simulator.Server) -> None:
    tools = [{"type": "function", "function": FUNCTION}]
    _, answer = ask(server, "chat/completions", {**CHAT, "tools": tools})
    message = answer["choices"][0]["message"]
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    assert set(json.loads(message["tool_calls"][0]["function"]["arguments"])) == {"city"}

    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "Sunny."}
    _, then = ask(
        server, "chat/completions", {**CHAT, "messages": [*CHAT["messages"], message, result], "tools": tools}
    )
    assert then["choices"][0]["finish_reason"] == "stop"

    _, asked = ask(server, "responses", {**RESPONSE, "tools": [{"type": "function", **FUNCTION}]})
    call = asked["output"][-1]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "Sunny."}
    items = [{"role": "user", "content": "Rain in Rome?"}, call, output]
    _, then = ask(server, "responses", {**RESPONSE, "input": items, "tools": [{"type": "function", **FUNCTION}]})
    assert then["output"][-1]["type"] == "message"


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [("length", "incomplete", "max_output_tokens"), ("content_filter", "incomplete", "content_filter")],
)
def test_a_response_that_is_cut_off_is_incomplete(
    server: simulator.Server, fault: str, status: str, reason: str
) -> None:
    server.script([{"fault": fault}])
    _, answer = ask(server, "responses", RESPONSE)
    assert (answer["status"], answer["incomplete_details"]) == (status, {"reason": reason})
    Response.model_validate(answer)


def test_violent_words_are_flagged(server: simulator.Server) -> None:
    with openai.OpenAI(base_url=server.base_url, api_key="none") as sdk:
        found = sdk.moderations.create(input=["I will kill it.", "Lovely."])
    assert [each.flagged for each in found.results] == [True, False]
    assert found.results[0].categories.violence
