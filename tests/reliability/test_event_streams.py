"""Answers as server-sent events although nobody asked for them, and answers whose content comes in parts."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._http.event_stream import assembled
from tests.reliability.raw_server import KEY, OK, RawServer, ask, ask_by_file, completion, http


def events(*said: Any, end: str = "data: [DONE]\n\n") -> bytes:
    return "".join(f"data: {json.dumps(each, ensure_ascii=False)}\n\n" for each in said).encode() + end.encode()


def piece(content: str | None, reason: str | None = None, index: int = 0, **delta: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": {"content": content, **delta}, "finish_reason": reason}
    return {"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}


USAGE = {"object": "chat.completion.chunk", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}
STREAMS = {
    "pieces": events(piece("", role="assistant"), piece("Hel"), piece("lo.\u2028"), piece(None, "stop"), USAGE),
    "with comments and names": b": PROCESSING\n\nevent: message\n"
    + events(piece("Hello.\u2028"), piece("", "stop"), USAGE),
    "with carriage returns": events(piece("Hello.\u2028", "stop"), USAGE).replace(b"\n", b"\r\n"),
    "without a last word": events(piece("Hello.\u2028"), piece(None, "stop"), USAGE, end=""),
    "with events of nothing": b"data:\n\nevent: ping\ndata: \n\n" + events(piece("Hello.\u2028", "stop"), USAGE),
    "with pings in words": b"event: ping\ndata: ping\n\ndata: null\n\n" + events(piece("Hello.\u2028", "stop"), USAGE),
    "an event in several lines": b"data: "
    + json.dumps(
        {**piece("Hello.\u2028", "stop"), **USAGE, "choices": piece("Hello.\u2028", "stop")["choices"]}, indent=1
    )
    .replace("\n", "\r\ndata:")
    .encode()
    + b"\r\n\r\ndata:[DONE]\r\n\r\n",
    "a whole answer in one": events(completion("Hello.\u2028")),
    "the role with every piece": events(
        piece("Hello.", role="assistant"), piece("\u2028", "stop", role="assistant"), {**USAGE, "choices": None}
    ),
}


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_an_unrequested_event_stream_is_assembled(stream: bytes) -> None:
    with RawServer(http(stream, "Content-Type: text/event-stream; charset=utf-8")) as server:
        out = ask(server.base_url)
        assert out[["response", "finish_reason", "prompt_tokens"]].iloc[0].tolist() == ["Hello.\u2028", "stop", 5]
        assert [ask_by_file(server.base_url).num_tasks_succeeded for _ in range(2)] == [1, 1]
        assert len(server.asked) == 2
    message = orjson.loads(Path("out.jsonl").read_bytes())[1]["choices"][0]["message"]
    assert (message["role"], message["content"]) == ("assistant", "Hello.\u2028")


def test_choices_tool_calls_and_logprobs_of_a_stream_are_assembled() -> None:
    def call(arguments: str, **function: str) -> dict[str, Any]:
        return {
            "tool_calls": [
                {"index": 0, "id": "t", "type": "function", "function": {"arguments": arguments, **function}}
            ]
        }

    token = {"token": "a", "logprob": -0.5, "top_logprobs": []}
    with_logprobs = piece("a", "stop", index=1)
    with_logprobs["choices"][0]["logprobs"] = {"content": [token, token]}
    stream = events(piece(None, **call("{", name="f")), with_logprobs, piece(None, "tool_calls", **call("}")))
    with RawServer(http(stream)) as server:
        ask_by_file(server.base_url)
    first, second = orjson.loads(Path("out.jsonl").read_bytes())[1]["choices"]
    assert first["message"]["tool_calls"][0]["function"] == {"arguments": "{}", "name": "f"}
    assert (first["finish_reason"], second["message"]["content"]) == ("tool_calls", "a")
    assert second["logprobs"]["content"] == [token, token]


def test_a_stream_of_the_responses_api_gives_its_final_response() -> None:
    part = {"type": "output_text", "text": "Hello."}
    whole = {"status": "completed", "model": "m", "output": [{"type": "message", "content": [part]}]}
    stream = events(
        {"type": "response.output_text.delta", "delta": "Hel"},
        {"type": "response.completed", "response": whole},
        end="",
    )
    with RawServer(http(stream)) as server:
        assert ask(server.base_url, endpoint="responses")["response"][0] == "Hello."


PART = {"type": "output_text", "text": "Hello."}
SAID = {"status": "completed", "model": "m", "output": [{"type": "message", "content": [PART]}]}
CREATED = {"type": "response.created", "response": {**SAID, "status": "in_progress", "output": []}}
DELTA = {"type": "response.output_text.delta", "delta": "Hel", "output_index": 0}
ITEMS = [
    {"type": "response.output_item.done", "output_index": number, "item": item}
    for number, item in [(1, SAID["output"][0]), (0, {"type": "reasoning", "summary": []})]
]


@pytest.mark.parametrize(
    "last",
    [
        [{"type": "response.done", "response": SAID}],
        [{"type": "response.completed", "response": {**SAID, "output": []}}],
        [{"type": "response.completed", "response": {"status": "completed"}}],
    ],
    ids=["by another name", "without its items", "without anything"],
)
@pytest.mark.parametrize("end", ["", "data: [DONE]\n\n"], ids=["no last word", "DONE"])
def test_a_stream_of_the_responses_api_ends_in_many_ways(last: list[Any], end: str) -> None:
    with RawServer(http(events(CREATED, DELTA, *ITEMS, *last, end=end))) as server:
        out = ask(server.base_url, endpoint="responses")
    assert out[["response", "attempts"]].iloc[0].tolist() == ["Hello.", 1]


@pytest.mark.parametrize(
    "broken",
    [
        events(CREATED, DELTA, end=""),
        events(CREATED, DELTA, *ITEMS),
        events(
            CREATED, {"type": "response.failed", "response": {"status": "failed", "error": {"code": "server_error"}}}
        ),
        events(CREATED, {"type": "response.cancelled", "response": {"status": "cancelled", "output": []}}, end=""),
        events(CREATED, DELTA, {"type": "error", "code": "server_error", "message": "Broke."}, end=""),
    ],
    ids=["cut off", "cut off, and called done", "failed", "cancelled", "an error"],
)
def test_a_stream_of_the_responses_api_that_breaks_off_is_no_answer(broken: bytes) -> None:
    answers = iter([http(broken, "Content-Type: text/event-stream"), http(json.dumps(SAID).encode())])
    with RawServer(lambda _: next(answers)) as server:
        out = ask(server.base_url, endpoint="responses")
    assert out[["response", "attempts"]].iloc[0].tolist() == ["Hello.", 2]


@pytest.mark.parametrize(
    "broken",
    [
        events(piece("Hel"), end=""),
        events(piece("Hel"), {"error": {"message": "Overloaded", "code": 502}}),
        events({"type": "error", "message": "Overloaded"}, end=""),
        events(piece("Hel"), end="data: {half"),
        events(end=""),
        events({"choices": []}, end=""),
        events(3),
        # The next ones end as if they were whole.
        events(piece("Hel")).replace(b"data: [", b'event: error\ndata: {"message": "Broke."}\n\ndata: ['),
        events(piece("Hel")).replace(b"data: [", b"event: error\r\ndata: Broke.\r\n\r\ndata: ["),
        events(piece("Hel"), {"code": 503, "msg": "Broke."}),
        events(piece("Hel"), {"detail": "The server is busy."}),
        events(piece("Hello.", "stop"), piece("Wor", index=1)),
    ],
    ids=repr,
)
def test_a_stream_that_breaks_off_or_reports_an_error_is_no_answer(broken: bytes) -> None:
    answers = iter([http(broken, "Content-Type: text/event-stream"), OK])
    with RawServer(lambda _: next(answers)) as server:
        assert ask(server.base_url)[["response", "attempts"]].iloc[0].tolist() == ["Hello.", 2]


@pytest.mark.parametrize(
    "nonsense",
    [
        {"choices": [5, None, {"delta": 3}], "type": []},
        {"type": "response.completed", "response": [1]},
        {"choices": 7},
        {"response": {"status": {}}},
    ],
    ids=repr,
)
def test_a_malformed_stream_fails_only_its_row(nonsense: Any) -> None:
    df = pd.DataFrame({"text": ["bad", "good"]})
    with (
        RawServer(lambda asked: http(events(nonsense)) if b"bad" in asked.body else OK) as server,
        po.Client(server.base_url, api_key=KEY, max_attempts=1) as client,
    ):
        out = po.process_dataframe(df, "text", model="m", client=client, progress=False)
    assert out["status"].tolist() == ["failed", "succeeded"]


FIELDS = ("choices", "delta", "error", "type", "response", "status", "output_index", "item", "usage", "message", "code")
LEAVES = (None, True, 0, 503, "", "error", "stop", "response.output_item.done", "response.completed", "completed")


def anything(lot: random.Random, depth: int = 0) -> Any:
    kind = lot.random()
    if depth > 3 or kind < 0.3:
        return lot.choice(LEAVES)
    if kind < 0.45:
        return [anything(lot, depth + 1) for _ in range(lot.randrange(3))]
    return {lot.choice(FIELDS): anything(lot, depth + 1) for _ in range(lot.randrange(4))}


@pytest.mark.parametrize("end", ["", "data: [DONE]\n\n"], ids=["no last word", "DONE"])
def test_no_form_of_events_raises(end: str) -> None:
    lot = random.Random(7)
    for _ in range(5000):
        whole = assembled(events(*(anything(lot) for _ in range(lot.randrange(4))), end=end))
        assert whole is None or isinstance(whole, dict)


@pytest.mark.parametrize(
    "end",
    [
        b"",
        b'data: {"error": {"message": "Broke.", "code": "odd"}}\n\n',
        b'data: {"type": "error", "message": "Broke."}\n\n',
    ],
    ids=["cut off", "an error", "an error's event"],
)
def test_the_usage_of_a_stream_that_broke_off_is_counted(end: bytes) -> None:
    choice = {"index": 0, "delta": {"content": "He"}, "finish_reason": None}
    piece = {"model": "m", "choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}
    in_choice = {"model": "m", "choices": [{**choice, "usage": {"prompt_tokens": 5, "completion_tokens": 2}}]}
    for each in (piece, in_choice):
        with RawServer(http(b"data: " + json.dumps(each).encode() + b"\n\n" + end)) as server:
            out = ask(server.base_url, client_options={"max_attempts": 2})
        assert (out["status"][0], out["prompt_tokens"][0], len(server.asked)) == ("failed", 10, 2)


THOUGHT = {"type": "reasoning", "text": "Let me think."}
PARTS = {
    "thoughts before it": [THOUGHT, {"type": "text", "text": "Hello."}],
    "thoughts in parts of their own": [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
        {"type": "text", "text": "Hel"},
        {"type": "text", "text": "lo."},
    ],
    "pictures, sources and nothing": [
        {"type": "image_url", "image_url": {"url": "data:,"}, "text": "a picture"},
        {"type": "text", "text": {"value": "Hello.", "annotations": []}},
        {"type": "reference", "reference_ids": [1]},
        {"type": "text", "text": None},
        None,
        7,
    ],
    "text alone": ["Hel", {"text": "lo."}],
    "one part": {"type": "output_text", "text": "Hello."},
}


@pytest.mark.parametrize("content", PARTS.values(), ids=PARTS)
def test_only_text_parts_of_a_multi_part_answer_are_used(content: Any) -> None:
    with RawServer(http(json.dumps(completion(content)).encode())) as server:
        assert ask(server.base_url)["response"][0] == "Hello."


def test_an_answer_that_a_gateway_has_parsed_is_its_json() -> None:
    with RawServer(http(json.dumps(completion({"mood": "gut", "score": 0.5})).encode())) as server:
        assert ask(server.base_url)["response"][0] == '{"mood":"gut","score":0.5}'
        schema = {"type": "object", "properties": {"mood": {"type": "string"}}, "required": ["mood"]}
        assert ask(server.base_url, response_format=schema)["mood"][0] == "gut"
    assert len(server.asked) == 2


@pytest.mark.parametrize("content", [[THOUGHT], [{"type": "image_url"}], [], None, 7])
def test_a_multi_part_answer_without_text_is_empty(content: Any) -> None:
    with RawServer(http(json.dumps(completion(content)).encode())) as server:
        assert ask(server.base_url)["error_code"][0] == "empty"


def test_a_refusal_among_content_parts_is_a_refusal() -> None:
    parts = [{"type": "text", "text": "Well."}, {"type": "refusal", "refusal": "I will not."}]
    with RawServer(http(json.dumps(completion(parts)).encode())) as server:
        out = ask(server.base_url)
    assert (out["error_code"][0], out["error"][0]) == ("refused", "The model refused: I will not.")


@pytest.mark.parametrize("content", ["Hello.", [THOUGHT, {"type": "text", "text": "Hello."}]])
def test_only_text_parts_are_used_in_the_responses_api_too(content: Any) -> None:
    items = [{"type": "reasoning", "content": [THOUGHT]}, {"type": "message", "content": content}]
    said = {"status": "completed", "model": "m", "output": items}
    with RawServer(http(json.dumps(said).encode())) as server:
        assert ask(server.base_url, endpoint="responses")["response"][0] == "Hello."
