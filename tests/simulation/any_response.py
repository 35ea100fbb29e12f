"""What a server may answer, by lot: each kind that was ever met, and what a row may make of it."""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from tests.simulation.answers import label_of, reply_to, vector_of

#: What stands in an answer that must not be taken for one.
WRONG = "not an answer"


@dataclass(frozen=True)
class Said:
    """An answer of the server.

    Attributes:
        is_answer: True: it is to be believed, and never paid for again; False: it is none; None: it may be either.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_answer: bool | None
    kind: str


def right(request: Mapping[str, Any], verb: str, inputs: Sequence[str], content: Any = None) -> dict[str, Any]:
    """The answer as it should be; or with other content."""
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    if verb == "embed":
        data = [{"index": index, "embedding": vector_of(text)} for index, text in enumerate(inputs)]
        return {"object": "list", "model": request["model"], "data": data, "usage": {**usage, "completion_tokens": 0}}
    if content is None:
        content = orjson.dumps({"label": label_of(inputs[0])}).decode() if verb == "label" else reply_to(inputs[0])
    if verb == "responses":
        usage = {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13}
        item = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": content}]}
        return {
            "object": "response",
            "model": request["model"],
            "status": "completed",
            "output": [item],
            "usage": usage,
        }
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
    choice |= {"text": content} if verb == "completions" else _message(content)
    return {"id": "c", "model": request["model"], "choices": [choice], "usage": usage}


def _message(content: Any) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": content}}


def drawn(lot: random.Random, request: Mapping[str, Any], verb: str, inputs: Sequence[str]) -> Said:
    """One of them."""
    whole = right(request, verb, inputs)
    kind = lot.choice(_KINDS)
    said: Said = kind(lot, whole)
    headers = {"Content-Type": "application/json", **_headers(lot), **said.headers}
    return Said(said.status, headers, said.body, said.is_answer, f"{kind.__name__} {said.kind}")


def plain(request: Mapping[str, Any], verb: str, inputs: Sequence[str]) -> Said:
    body = orjson.dumps(right(request, verb, inputs))
    return Said(200, {"Content-Type": "application/json"}, body, True, "plain")


def _said(body: Any, is_answer: bool | None, kind: str, status: int = 200, **headers: str) -> Said:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return Said(status, {name.replace("_", "-"): each for name, each in headers.items()}, content, is_answer, kind)


def _as_it_is(lot: random.Random, whole: dict[str, Any]) -> Said:
    return _said(whole, True, "", status=lot.choice([200, 200, 201, 203, 206]))


def _other_bytes(lot: random.Random, whole: dict[str, Any]) -> Said:
    """The right answer, written in another way."""
    body, text = orjson.dumps(whole), orjson.dumps(whole).decode()
    ways: dict[str, tuple[bytes, dict[str, str]]] = {
        "bom": (b"\xef\xbb\xbf" + body, {}),
        "utf-16": (text.encode("utf-16"), {"Content_Type": "application/json; charset=utf-16"}),
        "utf-16-le": (text.encode("utf-16-le"), {"Content_Type": "application/json; charset=utf-16le"}),
        "utf-32": (text.encode("utf-32"), {"Content_Type": "application/json; charset=utf-32"}),
        "latin-1": (text.encode("latin-1"), {"Content_Type": "text/plain; charset=iso-8859-1"}),
        "odd charset": (body, {"Content_Type": "application/json; charset=nonsense"}),
        "no type": (body, {"Content_Type": ""}),
        "html type": (body, {"Content_Type": "text/html"}),
        "blanks": (b"\r\n \t" + orjson.dumps(whole, option=orjson.OPT_INDENT_2) + b"\n\n", {}),
        "gzip": (gzip.compress(body, 1, mtime=0), {"Content_Encoding": "gzip"}),
        "x-gzip": (gzip.compress(body, 1, mtime=0), {"Content_Encoding": "X-GZIP"}),
        "gzip unsaid": (gzip.compress(body, 1, mtime=0), {}),
        "twice gzip": (gzip.compress(gzip.compress(body, 1, mtime=0), 1, mtime=0), {"Content_Encoding": "gzip, gzip"}),
        "deflate": (zlib.compress(body), {"Content_Encoding": "deflate"}),
        "raw deflate": (zlib.compress(body)[2:-4], {"Content_Encoding": "deflate"}),
        "not gzip": (body, {"Content_Encoding": "gzip"}),
        "identity": (body, {"Content_Encoding": "identity"}),
    }
    name = lot.choice(list(ways))
    content, headers = ways[name]
    return _said(content, True, name, **headers)


def _events(lot: random.Random, whole: dict[str, Any]) -> Said:
    """The right answer as server-sent events, whole or cut off."""
    end, is_cut = lot.choice(["\n\n", "\r\n\r\n"]), lot.random() < 0.3
    if "output" in whole:
        events: list[Any] = [{"type": "response.created", "response": {"status": "in_progress"}}]
        events.append({"type": "response.completed", "response": whole})
    elif "choices" in whole and "message" in whole["choices"][0]:
        content, first = whole["choices"][0]["message"]["content"], {"role": "assistant", "content": ""}
        deltas = [(first, None), ({"content": content[:3]}, None), ({"content": content[3:]}, None), ({}, "stop")]
        events = [
            {**whole, "usage": None, "choices": [{"index": 0, "delta": d, "finish_reason": r}]} for d, r in deltas
        ]
        events.append({**whole, "choices": []})
    else:
        events, is_cut = [whole], False
    lines = [f"data: {orjson.dumps(each).decode()}" for each in events] + ["data: [DONE]"]
    if is_cut:
        lines = lines[: lot.randrange(1, len(events) - 1)] if len(events) > 2 else lines[:1]
    comment = [": keep-alive"] if lot.random() < 0.5 else []
    body = (end.join([*comment, *lines]) + end).encode()
    return _said(body, not is_cut, "cut" if is_cut else "", Content_Type="text/event-stream")


def _no_json(lot: random.Random, whole: dict[str, Any]) -> Said:
    body = orjson.dumps(whole)
    name, content = lot.choice(
        [
            ("nothing", b""),
            ("cut", body[: lot.randrange(1, len(body) - 1)]),
            ("html", b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please sign in</body></html>"),
            ("null", b"null"),
            ("list", b"[]"),
            ("text", b'"fine"'),
            ("true", b"true"),
            ("number", b"12"),
            ("nan", b"NaN"),
            ("object", b"{}"),
            ("deep", b'{"a":' + b"[" * 3000 + b"]" * 3000 + b"}"),
            ("noise", bytes(lot.randrange(256) for _ in range(40))),
            ("zeros", b"\0" * 20),
            ("only bom", b"\xef\xbb\xbf"),
            ("only a blank", b" \n"),
            ("surrogate", b'{"a": "\\ud83d'),
            ("cut gzip", gzip.compress(body, 1, mtime=0)[:-12]),
        ]
    )
    headers = {"Content_Type": lot.choice(["application/json", "text/html", "", "application/octet-stream"])}
    return _said(content, False, name, status=lot.choice([200, 200, 200, 202, 204]), **headers)


def _no_choices(lot: random.Random, whole: dict[str, Any]) -> Said:
    place = next(name for name in ("choices", "data", "output") if name in whole)
    value = lot.choice(
        [None, [], {}, "", 0, [None], [[]], ["x"], [{}], [{"index": 0}], [{"message": None}], [{"index": None}]]
    )
    whole[place] = value
    if lot.random() < 0.5:
        del whole["usage"]
    if lot.random() < 0.3:
        whole["base_resp"] = {"status_code": lot.choice([0, 1002, 1013, 2056]), "status_msg": "invalid params"}
    return _said(whole, False, f"{place}={value!r}")


def _unfinished(lot: random.Random, whole: dict[str, Any]) -> Said:
    reasons = ["error", "network_error", "abort", "load", "unknown", "ERROR", "insufficient_system_resource"]
    reason = lot.choice(reasons)
    if "choices" in whole:
        [choice] = whole["choices"]
        choice["finish_reason"] = reason
        choice |= {"text": WRONG} if "text" in choice else _message(WRONG)
        if lot.random() < 0.5:
            choice |= {"error": _error(lot), "finish_reason": lot.choice([reason, "stop", None])}
    elif "output" in whole:
        whole["status"] = lot.choice(["failed", "incomplete", "cancelled", "in_progress", "queued"])
        whole["output"][0]["content"][0]["text"] = WRONG
        whole["error"] = lot.choice([None, _error(lot)])
    else:
        whole["data"] = lot.choice([whole["data"][:-1], None])
    return _said(whole, False, f"{reason}")


def _odd_content(lot: random.Random, whole: dict[str, Any]) -> Said:
    """Contents of other types. Whatever becomes of it, nothing breaks."""
    odd: Any = lot.choice(
        [
            *[None, 12, True, [], {}, [None], ["a"], [{"type": "text"}], {"text": "a"}, ""],
            [{"type": "text", "text": None}],
            [{"type": "image_url"}, 3, "x"],
            "\ud83d".encode("utf-8", "surrogatepass").decode("latin-1"),
            "\x00",
            "a" * 9999,
        ]
    )
    if "choices" in whole:
        [choice] = whole["choices"]
        choice |= {"text": odd} if "text" in choice else _message(odd)
        choice["logprobs"] = lot.choice([None, {}, [], "x", {"content": None}, {"content": [None]}, {"content": [{}]}])
        choice["finish_reason"] = lot.choice(["stop", None, 1, [], {}, "length", "content_filter", "tool_calls", ""])
        choice["index"] = lot.choice([0, None, 1, "0", -1, 2**70 % 2**60])
        choice["message" if "message" in choice else "x"] = lot.choice([choice.get("message"), odd])
    elif "output" in whole:
        whole["output"][0][lot.choice(["content", "type", "role", "status"])] = odd
        whole["status"] = lot.choice(["completed", None, 3, [], "incomplete"])
        whole["incomplete_details"] = lot.choice([None, "x", [], {}, {"reason": 3}, {"reason": "max_output_tokens"}])
    else:
        first = whole["data"][0]
        first[lot.choice(["embedding", "index"])] = lot.choice(
            [odd, [1.0, None], [[1.0]], "AAAA", "====", [True], -1, 10**12]
        )
    return _said(whole, None, f"{odd!r:.40}")


def _odd_usage(lot: random.Random, whole: dict[str, Any]) -> Said:
    values: list[Any] = [None, "", "12", "x", -1, 1.5, True, [], {}, [3], {"a": 1}, 10**15, "1e400", "nan", 0]
    names = ["prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "prompt_tokens_details", "cost"]
    names += ["completion_tokens_details", "cached_tokens", "cache_creation", "server_tool_use", "input_tokens_details"]
    usage: Any = {name: lot.choice(values) for name in lot.sample(names, lot.randrange(1, 8))}
    if lot.random() < 0.3:
        usage["prompt_tokens_details"] = {name: lot.choice(values) for name in ("cached_tokens", "audio_tokens", "x")}
    whole["usage"] = lot.choice([usage, usage, usage, *values, [usage], {"usage": usage}, orjson.dumps(usage).decode()])
    if lot.random() < 0.3:
        whole["x_groq"] = lot.choice(values)
    return _said(whole, True, f"{whole['usage']!r:.60}")


def _odd_fields(lot: random.Random, whole: dict[str, Any]) -> Said:
    values: list[Any] = [None, "", 1, 1.5, True, [], {}, ["x"], {"a": [1]}, "\u2028\x1b[31m", "🙂"]
    for name in lot.sample(
        ["model", "id", "object", "created", "system_fingerprint", "service_tier", "citations", "x"], 4
    ):
        whole[name] = lot.choice(values)
    whole["error"] = lot.choice([None, None, "", {}, [], False, 0])
    return _said(whole, True, f"{ {name: whole.get(name) for name in ('model', 'id', 'error')} }")


_MESSAGES: list[Any] = [
    "Something went wrong.",
    "Please try again in 1m12s.",
    "model is loading",
    "no capacity",
    "server_busy",
    "This model's maximum context length is 300 tokens.",
    "Rate limit reached for requests per min (RPM): Limit 3.",
    None,
    "",
    12,
    ["a"],
    {"message": {"message": "deep"}},
    "\x1b[31mred\x00\u202e",
    "x" * 5000,
    "<html><head><title>502 Bad Gateway</title></head></html>",
    "🙂",
]
_CODES: list[Any] = [
    "overloaded_error",
    "rate_limit_exceeded",
    "server_error",
    "400",
    "503",
    503,
    429,
    500,
    0,
    None,
    [],
    {},
]
_CODES += [
    "context_length_exceeded",
    "invalid_request_error",
    "exceed_context_size_error",
    1.5,
    True,
    "",
    -1,
    10**30 % 2**60,
]


def _error(lot: random.Random) -> Any:
    message, code = lot.choice(_MESSAGES), lot.choice(_CODES)
    error: dict[str, Any] = {
        "message": message,
        "code": code,
        "type": lot.choice(_CODES),
        "param": lot.choice(_MESSAGES),
    }
    for name, value in (("retry_after_ms", 250), ("retryDelay", "17s"), ("retry_after", [3]), ("reset_at", "soon")):
        if lot.random() < 0.1:
            error[name] = value
    if lot.random() < 0.2:
        error["metadata"] = lot.choice(
            [None, [], {"raw": '{"error": {"message": "inner"}}'}, {"raw": 3}, {"headers": {}}]
        )
    if lot.random() < 0.2:
        error["details"] = lot.choice([None, "x", [{"retryDelay": "17s"}], [{"retryDelay": -3}], [[["deep"]]]])
    return lot.choice([error, error, error, "A plain sentence.", [error], {"error": error}, [message], 3, True])


def _refusal(lot: random.Random, whole: dict[str, Any]) -> Said:
    """An error of any shape under any status, a good one among them."""
    statuses = [200, 200, 400, 403, 408, 409, 413, 415, 418, 422, 423, 424, 425, 429, 429, 451, 498, 499]
    statuses += [500, 501, 502, 503, 504, 520, 524, 529, 530, 599, 999]
    status, error = lot.choice(statuses), _error(lot)
    body = lot.choice(
        [
            *[{"error": error}] * 3,
            {"detail": error},
            {"message": error},
            error,
            [{"error": error}],
            {"status": "failure", "message": error},
            {"object": "error", "message": "m", "code": 503},
            b"",
            b"<html>",
            {},
        ]
    )
    if status == 200 and isinstance(body, dict) and "error" in body and lot.random() < 0.4:
        body = {**whole, "error": error}
        return _said(body, None, f"200 with both {error!r:.80}")
    return _said(body, False, f"{status} {body!r:.80}", status=status)


def _stop(lot: random.Random, whole: dict[str, Any]) -> Said:
    """What may mean that no request of the run can succeed."""
    status = lot.choice([200, 401, 402, 403, 404, 405, 407, 410, 429])
    code = lot.choice(["insufficient_quota", "invalid_api_key", "model_not_found", "moderation", None, 403])
    message = lot.choice(["You exceeded your current quota", "No endpoints found for m.", "flagged for violence", "no"])
    return _said({"error": {"message": message, "code": code}}, False, f"{status} {code}", status=status)


def _redirect(lot: random.Random, whole: dict[str, Any]) -> Said:
    targets = [
        "/elsewhere",
        "http://127.0.0.1:9/other",
        "https://127.0.0.1:9/v1",
        "",
        "//",
        "http://",
        "mailto:a@b",
        "?a",
    ]
    target = lot.choice([*targets, "http://[::1", "http://127.0.0.1:99999/", "/\u00e9", "http://example.invalid/x"])
    status = lot.choice([300, 301, 302, 303, 304, 307, 308])
    return _said(
        b"", False, f"{status} to {target!r}", status=status, **({"Location": target} if lot.random() < 0.9 else {})
    )


_KINDS: list[Callable[[random.Random, dict[str, Any]], Said]] = [
    *[_as_it_is, _other_bytes, _events, _odd_usage, _odd_fields] * 4,
    *[_no_json, _no_choices, _unfinished, _odd_content, _refusal] * 6,
    _stop,
    _redirect,
]

_NUMBERS = [
    "0",
    "1",
    "-1",
    "60",
    "1e3",
    "nan",
    "inf",
    "unlimited",
    "",
    "1.5",
    "5;w=60",
    "99999999999999999999",
    "0x1f",
    "١",
]
_WAITS = [
    "0",
    "1",
    "2.5",
    "-3",
    "nan",
    "soon",
    "1m12s",
    "6ms",
    "",
    "120",
    "Sat, 28 Nov 2026 17:05:00 GMT",
    "1999-01-01",
    "inf",
]


def _headers(lot: random.Random) -> dict[str, str]:
    found: dict[str, str] = {}
    if lot.random() < 0.4:
        found["Retry-After"] = lot.choice(_WAITS)
    if lot.random() < 0.1:
        found["retry-after-ms"] = lot.choice(_WAITS)
    if lot.random() < 0.4:
        found["Date"] = lot.choice(["Sat, 28 Nov 2026 17:04:00 GMT", "yesterday", "", "Thu, 01 Jan 1970 00:00:00 GMT"])
    for what in ("limit", "remaining", "reset"):
        for of in ("requests", "tokens"):
            if lot.random() < 0.2:
                found[f"x-ratelimit-{what}-{of}"] = lot.choice(_WAITS if what == "reset" else _NUMBERS)
    if lot.random() < 0.1:
        found[lot.choice(["x-should-retry", "x-request-id", "RateLimit", "RateLimit-Policy"])] = lot.choice(
            ["true", "false", "", '"default";r=0;t=3', "\xe9"]
        )
    return found
