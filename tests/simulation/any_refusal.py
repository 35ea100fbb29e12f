"""Random refusals, errors and headers as servers of all kinds send them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

#: What is none of what is looked for.
ODD: list[Any] = [None, [], {}, "text", 7, True, [None], [{}], {"a": 1}, "<html><title>Log in</title></html>"]
MESSAGES: list[Any] = [
    *(
        None,
        "",
        12,
        ["a"],
        {"message": {"message": "deep"}},
        "x" * 5000,
        "\x1b[31mred\x00\u202e",
        "\ufffd",
        "🙂",
        "line\nend",
    ),
    *("Something went wrong.", "no capacity", "No capacity", "server_busy", "model is loading", "Model is loading"),
    *("Please try again in 1m12s.", "Please retry after 9999999999999999 s", "Limit of 50 requests per day reached."),
    *("Rate limit reached for requests per min (RPM): Limit 3.", "This model's maximum context length is 300 tokens."),
    *("input is too large to process", "too long", "Your input was flagged", "Unknown parameter: 'temperature'."),
    *("The model `m` does not exist", "<html><head><title>502 Bad Gateway</title></head></html>"),
]
CODES: list[Any] = [
    *(None, 0, -1, 1.5, True, 400, 404, 429, 500, 503, 10**30 % 2**60, "", "400", "429", "503", [], {}),
    *("overloaded_error", "rate_limit_exceeded", "server_error", "server_busy", "slow_down", "insufficient_quota"),
    *("context_length_exceeded", "exceed_context_size_error", "invalid_request_error", "unknown_parameter"),
    "model_not_found",
]
_PARAMS: list[Any] = [None, "temperature", "model", "messages[0].content", 7, {"a": 1}, *MESSAGES[:4]]
_NUMBERS = [
    *("0", "1", "-1", "60", "1e3", "1e400", "nan", "inf", "unlimited", "", "1.5", "5;w=60", "0x1f", "١"),
    "99999999999999999999",
]
_DATE = "Sat, 28 Nov 2026 17:05:00 GMT"
_WAITS = [
    *("0", "1", "2.5", "-3", "nan", "inf", "soon", "1m12s", "6m0s", "6ms", "", "30", "120", "1e400", "unlimited"),
    *(_DATE, "1999-01-01"),
]


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


def said(body: Any, is_answer: bool | None, kind: str, status: int = 200, **headers: str) -> Said:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return Said(status, {name.replace("_", "-"): each for name, each in headers.items()}, content, is_answer, kind)


def any_error(lot: random.Random) -> Any:
    error: dict[str, Any] = {
        "message": lot.choice(MESSAGES),
        "code": lot.choice(CODES),
        "type": lot.choice(CODES),
        "param": lot.choice(_PARAMS),
    }
    for name, value in (("retry_after_ms", 250), ("retryDelay", "17s"), ("retry_after", [3]), ("reset_at", "soon")):
        if lot.random() < 0.1:
            error[name] = value
    if lot.random() < 0.2:
        raw = {"message": lot.choice(MESSAGES), "code": lot.choice(CODES)}
        error["metadata"] = lot.choice(
            [None, [], {"raw": '{"error": {"message": "inner"}}'}, {"raw": raw}, {"raw": 3}, {"headers": {}}]
        )
    if lot.random() < 0.2:
        error["details"] = lot.choice([None, "x", [{"retryDelay": "17s"}], [{"retryDelay": -3}], [[["deep"]]]])
    others = ["A plain sentence.", [error], {"error": error}, [error["message"]], 3, True, *ODD]
    return error if lot.random() < 0.5 else lot.choice(others)


def refusal(lot: random.Random, whole: dict[str, Any]) -> Said:
    """An error of any shape under any status, a good one among them."""
    statuses = [200, 200, 400, 403, 404, 405, 408, 409, 413, 415, 418, 422, 423, 424, 425, 429, 429]
    statuses += [446, 451, 498, 499, 202, 204]
    statuses += [500, 501, 502, 503, 504, 520, 522, 524, 529, 530, 599, 999]
    status, error = lot.choice(statuses), any_error(lot)
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
        return said(body, None, f"200 with both {error!r:.80}")
    return said(body, False, f"{status} {body!r:.80}", status=status)


def stop(lot: random.Random, whole: dict[str, Any]) -> Said:
    """What may mean that no request of the run can succeed."""
    status = lot.choice([200, 401, 402, 403, 404, 405, 407, 410, 429])
    code = lot.choice(["insufficient_quota", "invalid_api_key", "model_not_found", "moderation", None, 403])
    message = lot.choice(["You exceeded your current quota", "No endpoints found for m.", "flagged for violence", "no"])
    return said({"error": {"message": message, "code": code}}, False, f"{status} {code}", status=status)


def redirect(lot: random.Random, whole: dict[str, Any]) -> Said:
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
    return said(
        b"", False, f"{status} to {target!r}", status=status, **({"Location": target} if lot.random() < 0.9 else {})
    )


def any_headers(lot: random.Random) -> dict[str, str]:
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
        name = lot.choice(["x-should-retry", "x-request-id", "RateLimit", "RateLimit-Policy", "content-type"])
        found[name] = lot.choice(["true", "false", "", '"default";r=0;t=3', "\xe9", *_NUMBERS])
    return found
