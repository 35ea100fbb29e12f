"""Answers and errors of the simulator, over a real socket."""

from __future__ import annotations

import hashlib
import http.client
import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest

from parallel_openai.local import simulator
from tests.local.wire import HELLO, ask, send

LOVE_IT: dict[str, Any] = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": "What is the sentiment? I love it."}],
}


@pytest.fixture
def server() -> Iterator[simulator.Server]:
    with simulator.serve(max_requests_per_minute=None, refusal_latency=0.0) as running:
        yield running


def content(answer: dict[str, Any]) -> Any:
    return answer["choices"][0]["message"]["content"]


def with_schema(schema: dict[str, Any], **rest: Any) -> dict[str, Any]:
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **rest}}
    return {**LOVE_IT, "response_format": wanted}


def test_the_address_is_on_this_machine_and_ends_in_v1(server: simulator.Server) -> None:
    address = urlsplit(server.base_url)
    assert (address.hostname, address.path) == ("127.0.0.1", "/v1")


def test_an_answer_says_that_it_is_simulated(server: simulator.Server) -> None:
    _, headers, answer = ask(server, HELLO)
    assert headers["x-simulated"] == "true"
    assert answer["system_fingerprint"] == "simulated"
    assert content(answer).startswith("(simulated)")


def test_the_same_body_gets_the_same_answer(server: simulator.Server) -> None:
    assert content(ask(server, HELLO)[2]) == content(ask(server, HELLO)[2])


def test_usage_counts_four_characters_as_a_token(server: simulator.Server) -> None:
    usage = ask(server, HELLO)[2]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (6, 12, 18)


def test_several_choices_are_several_answers(server: simulator.Server) -> None:
    answer = ask(server, {**HELLO, "n": 3})[2]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["usage"]["completion_tokens"] == 36


def test_an_answer_longer_than_the_maximum_is_cut(server: simulator.Server) -> None:
    answer = ask(server, {**HELLO, "max_tokens": 5})[2]
    assert len(content(answer)) == 20
    assert answer["choices"][0]["finish_reason"] == "length"


def test_the_length_of_answers_can_be_a_range(server: simulator.Server) -> None:
    server.set(answer_tokens=(5, 40))
    bodies = [{**HELLO, "messages": [{"role": "user", "content": f"Say {number}."}]} for number in range(20)]
    lengths = {ask(server, body)[2]["usage"]["completion_tokens"] for body in bodies}
    assert len(lengths) > 5
    assert all(5 <= length <= 40 for length in lengths)


def test_images_are_counted(server: simulator.Server) -> None:
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    status, _, answer = ask(server, {**HELLO, "messages": [{"role": "user", "content": parts}]})
    assert status == 200
    assert answer["usage"]["prompt_tokens"] == 3 + 85 + 3


def test_a_long_prompt_is_quoted_only_in_part(server: simulator.Server) -> None:
    body = {**HELLO, "messages": [{"role": "user", "content": "word " * 100}]}
    assert len(content(ask(server, body)[2])) == 48


def test_an_earlier_answer_need_not_have_content(server: simulator.Server) -> None:
    body = {**HELLO, "messages": [*HELLO["messages"], {"role": "assistant", "content": None}]}
    assert ask(server, body)[0] == 200


def test_metadata_is_accepted(server: simulator.Server) -> None:
    assert ask(server, {**HELLO, "metadata": {"row": "7"}})[0] == 200


def test_settling_needs_no_limit(server: simulator.Server) -> None:
    server.set(counting="settled")
    assert ask(server, HELLO)[0] == 200


def test_a_refusal_can_have_a_latency(server: simulator.Server) -> None:
    server.set(max_requests_per_minute=1, refusal_latency=0.03)
    ask(server, HELLO)
    start = time.monotonic()
    assert ask(server, HELLO)[0] == 429
    assert time.monotonic() - start >= 0.025


def test_logprobs_spell_the_answer(server: simulator.Server) -> None:
    answer = ask(server, {**HELLO, "logprobs": True, "top_logprobs": 2})[2]
    told = answer["choices"][0]["logprobs"]["content"]
    assert "".join(each["token"] for each in told) == content(answer)
    assert len(told) == answer["usage"]["completion_tokens"]
    assert all(each["logprob"] < 0 and len(each["top_logprobs"]) == 2 for each in told)


SCHEMAS: dict[str, dict[str, Any]] = {
    "label": {"type": "object", "properties": {"label": {"enum": ["a", "b"]}}, "required": ["label"]},
    "numbers": {
        "type": "object",
        "properties": {
            "stars": {"type": "integer", "minimum": 1, "maximum": 5},
            "confidence": {"type": "number", "minimum": 0, "maximum": 1},
            "even": {"type": "integer", "multipleOf": 2, "exclusiveMinimum": 2, "exclusiveMaximum": 6},
            "cold": {"type": "number", "maximum": -5},
        },
        "required": ["stars", "confidence", "even", "cold"],
    },
    "arrays": {
        "type": "object",
        "properties": {
            "three": {"type": "array", "items": {"type": "string", "maxLength": 3}, "minItems": 3, "maxItems": 3},
            "pairs": {"type": "array", "items": {"type": "object", "properties": {"yes": {"type": "boolean"}}}},
        },
    },
    "references": {
        "$defs": {"name": {"type": "string", "minLength": 40}},
        "type": "object",
        "properties": {"first": {"$ref": "#/$defs/name"}, "second": {"anyOf": [{"type": "null"}, {"type": "integer"}]}},
        "required": ["first", "second"],
    },
    "recursive": {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "value": {"type": ["string", "null"]}},
        "required": ["next", "value"],
    },
    "tree": {
        "type": "object",
        "properties": {"nodes": {"type": "array", "items": {"$ref": "#"}}},
        "required": ["nodes"],
    },
    "anything": {"type": "object", "properties": {"list": {"type": "array", "items": True}}},
    "endless union": {
        "type": "object",
        "properties": {
            "next": {"anyOf": [{"$ref": "#"}, {"type": "integer"}]},
            "other": {"anyOf": [{"$ref": "#"}, {"type": "integer"}]},
        },
        "required": ["next", "other"],
    },
    "merged references": {"$defs": {"a": {"type": "object"}}, "allOf": [{"$ref": "#/$defs/a"}]},
    "merged": {
        "allOf": [
            {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]},
            {"properties": {"b": {"type": "string", "format": "date"}}, "required": ["b"]},
        ]
    },
}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_a_structured_answer_fits_its_schema(server: simulator.Server, schema: dict[str, Any]) -> None:
    for seed in range(5):
        server.set(seed=seed)
        jsonschema.validate(json.loads(content(ask(server, with_schema(schema))[2])), schema)


@pytest.mark.parametrize(("text", "label"), [("I love it!", "positive"), ("The worst film.", "negative")])
def test_clear_sentiment_gets_the_matching_label(server: simulator.Server, text: str, label: str) -> None:
    body = with_schema({"type": "object", "properties": {"label": {"enum": ["negative", "neutral", "positive"]}}})
    body["messages"] = [
        {"role": "system", "content": "Answer positive, negative or neutral. Do a good job."},
        {"role": "user", "content": text},
    ]
    assert json.loads(content(ask(server, body)[2])) == {"label": label}


def test_json_mode_answers_json(server: simulator.Server) -> None:
    body = {**HELLO, "messages": [{"role": "user", "content": "In JSON."}], "response_format": {"type": "json_object"}}
    assert json.loads(content(ask(server, body)[2]))["simulated"] is True


CLOSED = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
REFUSED: dict[str, tuple[dict[str, Any], str | None, str | None]] = {
    "no model": ({"messages": HELLO["messages"]}, None, None),
    "model as number": ({**HELLO, "model": 5}, "invalid_type", "model"),
    "no messages": ({"model": "m"}, "missing_required_parameter", "messages"),
    "messages as text": ({**HELLO, "messages": "Hi."}, "invalid_type", "messages"),
    "empty messages": ({**HELLO, "messages": []}, "empty_array", "messages"),
    "message as text": ({**HELLO, "messages": ["Hi."]}, "invalid_type", "messages[0]"),
    "no role": ({**HELLO, "messages": [{"content": "Hi."}]}, "missing_required_parameter", "messages[0].role"),
    "bad role": ({**HELLO, "messages": [{"role": "bot", "content": ""}]}, "invalid_value", "messages[0].role"),
    "null content": ({**HELLO, "messages": [{"role": "user", "content": None}]}, None, "messages[0].content"),
    "numeric content": ({**HELLO, "messages": [{"role": "user", "content": 1}]}, "invalid_type", "messages[0].content"),
    "bad part": (
        {**HELLO, "messages": [{"role": "user", "content": ["Hi."]}]},
        "invalid_type",
        "messages[0].content[0]",
    ),
    "n too large": ({**HELLO, "n": 129}, "integer_above_max_value", "n"),
    "n zero": ({**HELLO, "n": 0}, "integer_below_min_value", "n"),
    "n as text": ({**HELLO, "n": "2"}, "invalid_type", "n"),
    "hot": ({**HELLO, "temperature": 2.5}, "decimal_above_max_value", "temperature"),
    "unknown parameter": ({**HELLO, "row": 7}, "unknown_parameter", "row"),
    "metadata values": ({**HELLO, "metadata": {"row": 7}}, "invalid_type", "metadata.row"),
    "metadata pairs": (
        {**HELLO, "metadata": {str(k): "" for k in range(17)}},
        "object_above_max_properties",
        "metadata",
    ),
    "metadata as text": ({**HELLO, "metadata": "row"}, "invalid_type", "metadata"),
    "top_logprobs alone": ({**HELLO, "top_logprobs": 2}, None, "top_logprobs"),
    "logprobs as number": ({**HELLO, "logprobs": 2}, "invalid_type", "logprobs"),
    "o-series max_tokens": ({**HELLO, "model": "o4-mini", "max_tokens": 5}, "unsupported_parameter", "max_tokens"),
    "gpt-5 max_tokens": ({**HELLO, "model": "gpt-5-mini", "max_tokens": 5}, "unsupported_parameter", "max_tokens"),
    "gpt-5 temperature": ({**HELLO, "model": "gpt-5", "temperature": 0}, "unsupported_value", "temperature"),
    "unknown format": ({**HELLO, "response_format": {"type": "xml"}}, "invalid_value", "response_format.type"),
    "format as text": ({**HELLO, "response_format": "json"}, "invalid_type", "response_format"),
    "no word of json": ({**HELLO, "response_format": {"type": "json_object"}}, None, "messages"),
    "schema without name": (
        {**HELLO, "response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
        "missing_required_parameter",
        "response_format.json_schema.name",
    ),
    "schema with a bad name": (
        {**HELLO, "response_format": {"type": "json_schema", "json_schema": {"name": "my answer", "schema": {}}}},
        "invalid_value",
        "response_format.json_schema.name",
    ),
    "strict without object": (with_schema({"type": "array"}, strict=True), None, "response_format"),
    "strict but open": (with_schema({**CLOSED, "additionalProperties": True}, strict=True), None, "response_format"),
    "strict with an optional field": (with_schema({**CLOSED, "required": []}, strict=True), None, "response_format"),
    "strict but open inside": (
        with_schema({**CLOSED, "properties": {"a": {"anyOf": [{"type": "object"}]}}}, strict=True),
        None,
        "response_format",
    ),
    "strict but open items": (
        with_schema({**CLOSED, "properties": {"a": {"type": "array", "items": {"type": "object"}}}}, strict=True),
        None,
        "response_format",
    ),
}


@pytest.mark.parametrize(("body", "code", "param"), REFUSED.values(), ids=REFUSED)
def test_a_bad_body_is_refused_as_the_api_does(
    server: simulator.Server, body: dict[str, Any], code: str | None, param: str | None
) -> None:
    status, headers, answer = ask(server, body)
    assert status == 400
    assert headers["x-request-id"]
    assert answer["error"]["type"] == "invalid_request_error"
    assert (answer["error"]["code"], answer["error"]["param"]) == (code, param)


def test_a_strict_schema_that_is_closed_is_accepted(server: simulator.Server) -> None:
    assert ask(server, with_schema(CLOSED, strict=True))[0] == 200
    assert ask(server, with_schema({**CLOSED, "properties": {"a": True}}, strict=True))[0] == 200


@pytest.mark.parametrize("raw", [b"{", b"\xff", b'{"model": NaN}', b"[]"])
def test_a_body_that_is_not_a_json_object_is_refused(server: simulator.Server, raw: bytes) -> None:
    assert ask(server, raw)[0] == 400


def test_a_prompt_over_the_context_length_is_refused(server: simulator.Server) -> None:
    server.set(context_length=10)
    body = {**HELLO, "messages": [{"role": "user", "content": "x" * 100}]}
    assert ask(server, body)[2]["error"]["code"] == "context_length_exceeded"


def test_a_model_that_is_not_in_the_list_is_refused(server: simulator.Server) -> None:
    server.set(models=["gpt-4o-mini"])
    status, _, answer = ask(server, {**HELLO, "model": "gpt-9"})
    assert (status, answer["error"]["code"]) == (404, "model_not_found")


def test_models_are_listed(server: simulator.Server) -> None:
    server.set(models=["mine"])
    assert [each["id"] for each in send(server, "GET", "/v1/models")[2]["data"]] == ["mine"]


def test_another_path_is_not_found(server: simulator.Server) -> None:
    status, _, answer = ask(server, HELLO, path="/v1/chat/completion")
    assert (status, answer["error"]["message"]) == (404, "Invalid URL (POST /v1/chat/completion)")
    assert server.stats()["unknown_paths"] == {"/v1/chat/completion": 1}


def test_another_method_is_not_allowed(server: simulator.Server) -> None:
    assert send(server, "GET", "/v1/chat/completions")[0] == 405


def test_the_server_reports_its_health(server: simulator.Server) -> None:
    assert send(server, "GET", "/healthz")[2]["status"] == "ok"


def test_the_statistics_count_what_was_charged_by_body(server: simulator.Server) -> None:
    raw = json.dumps(HELLO).encode()
    ask(server, raw)
    ask(server, raw)
    stats = server.stats()
    assert stats["charged"] == {hashlib.sha256(raw).hexdigest(): 2}
    assert (stats["charged_distinct"], stats["charged_more_than_once"]) == (1, 1)


def test_the_statistics_can_leave_out_charged_bodies(server: simulator.Server) -> None:
    ask(server, HELLO)
    assert "charged" not in server.stats(charged=False)


def test_charged_bodies_need_not_be_kept(server: simulator.Server) -> None:
    server.set(keep_charged=False)
    ask(server, HELLO)
    assert server.stats()["charged_distinct"] == 0


def test_the_statistics_show_the_utilisation_of_the_limit(server: simulator.Server) -> None:
    server.set(max_requests_per_minute=2)
    for _ in range(3):
        ask(server, HELLO)
    stats = server.stats()
    assert stats["allowed"]["requests"] == pytest.approx(2, abs=0.2)
    assert stats["utilisation"]["requests"] == pytest.approx(1, abs=0.1)
    assert server.budget_allowed(stats["first_received"], stats["last_received"]) == stats["allowed"]


def test_the_statistics_can_be_read_after_the_end() -> None:
    with simulator.serve() as server:
        ask(server, HELLO)
    server.stop()
    assert server.stats()["answered"] == 1


def test_a_reset_clears_the_statistics_and_refills_the_budgets(server: simulator.Server) -> None:
    server.set(max_requests_per_minute=1)
    ask(server, HELLO)
    server.reset()
    assert server.stats()["received"] == 0
    assert ask(server, HELLO)[0] == 200


def test_an_unknown_setting_is_refused_during_a_run(server: simulator.Server) -> None:
    with pytest.raises(ValueError, match="no setting 'speed'"):
        server.set(speed=1)


def test_a_port_that_is_taken_is_an_error(server: simulator.Server) -> None:
    port = urlsplit(server.base_url).port
    assert port is not None
    with pytest.raises(OSError, match=r"in use|only one usage|denied"):
        simulator.serve(port=port)


def test_latency_is_waited_for_and_reported(server: simulator.Server) -> None:
    server.set(latency=0.05)
    assert int(ask(server, HELLO)[1]["openai-processing-ms"]) >= 40


def test_lognormal_latency_is_the_same_for_the_same_body(server: simulator.Server) -> None:
    server.set(latency=0.02, latency_sigma=0.3)
    first, second = (int(ask(server, HELLO)[1]["openai-processing-ms"]) for _ in range(2))
    assert abs(first - second) < 50


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/control", "/stats", "/v1/files"])
def test_a_request_with_another_host_is_refused(server: simulator.Server, host: str, path: str) -> None:
    """Otherwise a web page whose name resolves to this machine (DNS rebinding) could read all answers."""
    address = urlsplit(server.base_url).netloc
    for name, status in ((host, 403), (address, None), (address.replace("127.0.0.1", "localhost"), None)):
        connection = http.client.HTTPConnection(address, timeout=10)
        connection.request("POST", path, b"{}", {"Host": name, "Content-Type": "application/json"})
        answered = connection.getresponse().status
        connection.close()
        assert answered == status if status else answered != 403
