"""Random responses of every kind that was ever met, and what a row may make of each."""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from tests.simulation.answers import answer_to
from tests.simulation.any_refusal import (
    CODES,
    MESSAGES,
    ODD,
    Said,
    any_error,
    any_headers,
    redirect,
    refusal,
    said,
    stop,
)

#: What stands in an answer that must not be taken for one.
WRONG = "not an answer"


def drawn(lot: random.Random, path: str, request: Mapping[str, Any]) -> Said:
    """One of them."""
    kind = lot.choice(_KINDS)
    told = kind(lot, answer_to(path, request, None)[0])
    headers = {"Content-Type": "application/json", **any_headers(lot), **told.headers}
    return Said(told.status, headers, told.body, told.is_answer, f"{kind.__name__} {told.kind}")


def plain(path: str, request: Mapping[str, Any]) -> Said:
    body = orjson.dumps(answer_to(path, request, None)[0])
    return Said(200, {"Content-Type": "application/json"}, body, True, "plain")


def _message(content: Any) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": content}}


def _as_it_is(lot: random.Random, whole: dict[str, Any]) -> Said:
    return said(whole, True, "", status=lot.choice([200, 200, 201, 203, 206]))


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
    return said(content, True, name, **headers)


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
    return said(body, not is_cut, "cut" if is_cut else "", Content_Type="text/event-stream")


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
    return said(content, False, name, status=lot.choice([200, 200, 200, 202, 204]), **headers)


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
    return said(whole, False, f"{place}={value!r}")


def _unfinished(lot: random.Random, whole: dict[str, Any]) -> Said:
    reasons = ["error", "network_error", "abort", "load", "unknown", "ERROR", "insufficient_system_resource"]
    reason = lot.choice(reasons)
    if "choices" in whole:
        [choice] = whole["choices"]
        choice["finish_reason"] = reason
        choice |= {"text": WRONG} if "text" in choice else _message(WRONG)
        if lot.random() < 0.5:
            choice |= {"error": any_error(lot), "finish_reason": lot.choice([reason, "stop", None])}
    elif "output" in whole:
        whole["status"] = lot.choice(["failed", "incomplete", "cancelled", "in_progress", "queued"])
        whole["output"][0]["content"][0]["text"] = WRONG
        whole["error"] = lot.choice([None, any_error(lot)])
    else:
        whole["data"] = lot.choice([whole["data"][:-1], None])
    return said(whole, False, f"{reason}")


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
    return said(whole, None, f"{odd!r:.40}")


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
    return said(whole, True, f"{whole['usage']!r:.60}")


def _odd_fields(lot: random.Random, whole: dict[str, Any]) -> Said:
    values: list[Any] = [None, "", 1, 1.5, True, [], {}, ["x"], {"a": [1]}, "\u2028\x1b[31m", "🙂"]
    for name in lot.sample(
        ["model", "id", "object", "created", "system_fingerprint", "service_tier", "citations", "x"], 4
    ):
        whole[name] = lot.choice(values)
    whole["error"] = lot.choice([None, None, "", {}, [], False, 0])
    return said(whole, True, f"{ {name: whole.get(name) for name in ('model', 'id', 'error')} }")


def _odd_whole(lot: random.Random, whole: dict[str, Any]) -> Said:
    """Something else under any status."""
    half = {"message": {"content": "Hal"}, "finish_reason": lot.choice(["error", "abort", "load", "length", 7])}
    refused = {"status_code": lot.choice(CODES), "status_msg": lot.choice(MESSAGES)}
    nothing = lot.choice([{"choices": lot.choice(ODD)}, {"base_resp": refused}, *ODD])
    if lot.random() < 0.1:
        return said({"choices": [half]}, None, "half")
    return said(nothing, False, f"{nothing!r:.80}", status=lot.choice([200, 200, 201, 400, 404, 429, 446, 500, 503]))


_KINDS: list[Callable[[random.Random, dict[str, Any]], Said]] = [
    *[_as_it_is, _other_bytes, _events, _odd_usage, _odd_fields] * 4,
    *[_no_json, _no_choices, _unfinished, _odd_content, refusal] * 6,
    *[_odd_whole] * 3,
    stop,
    redirect,
]
