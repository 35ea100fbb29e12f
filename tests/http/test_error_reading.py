"""Errors are understood in the formats of many servers."""

from __future__ import annotations

import math
import random
import time
from typing import Any

import pytest

from parallel_openai._json import dumps
from parallel_openai._records import Response
from parallel_openai._run.response_verdict import judge

CASES: dict[str, tuple[int, Any, str, str]] = {
    "half an answer": (
        200,
        {"choices": [{"message": {"content": "Hal"}, "finish_reason": "error"}]},
        "retry",
        "unfinished",
    ),
    "an upstream's error": (
        200,
        {"choices": [{"message": {"content": "Hal"}, "error": {"code": 502, "message": "Upstream broke."}}]},
        "retry",
        "http_502",
    ),
    "aborted": (200, {"choices": [{"message": {"content": "Hal"}, "finish_reason": "abort"}]}, "retry", "unfinished"),
    "DeepSeek's lack of resources": (
        200,
        {"choices": [{"message": {"content": "Hal"}, "finish_reason": "insufficient_system_resource"}]},
        "retry",
        "unfinished",
    ),
    "TensorRT's timeout": (
        200,
        {"choices": [{"message": {"content": "Hal"}, "finish_reason": "timeout"}]},
        "retry",
        "unfinished",
    ),
    "an error that only says that it is one": (
        200,
        {"error": True, "message": "Upstream broke.", "choices": [{"message": {"content": "Hal"}}]},
        "retry",
        "http_200",
    ),
    "an error in a list": (
        200,
        {"error": [{"code": "server_busy", "message": "busy"}], "choices": [{"message": {"content": "Hal"}}]},
        "retry",
        "server_busy",
    ),
    "a number as a code that is none": (200, {"error": {"code": "²", "message": "?"}}, "retry", "http_200"),
    "a number as a code that is too long": (200, {"error": {"code": "4" * 5000}}, "retry", "http_200"),
    "OpenRouter's flagged prompt that speaks of money": (
        403,
        {
            "error": {
                "message": 'It requires moderation. Your input was flagged for "violence". No credits were charged.',
                "code": 403,
                "metadata": {"reasons": ["violence"], "flagged_input": "My billing went wrong, no credit"},
            }
        },
        "fail",
        "content_filter",
    ),
    "xAI's refused prompt": (
        403,
        {"code": "denied", "error": "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_X"},
        "fail",
        "content_filter",
    ),
    "Qwen's refused answer": (400, {"error": {"code": "data_inspection_failed"}}, "fail", "content_filter"),
    "DeepSeek's refused prompt": (400, {"error": {"message": "Content Exists Risk"}}, "fail", "content_filter"),
    "MiniMax's refused answer": (
        200,
        {"base_resp": {"status_code": 1027, "status_msg": "output new_sensitive"}, "choices": None},
        "fail",
        "content_filter",
    ),
    "a prompt about money, repeated": (
        403,
        {"error": {"message": "Denied.", "metadata": {"flagged_input": "billing"}}},
        "stop",
        "forbidden",
    ),
    "nothing charged": (403, {"error": {"message": "Denied. No credits were charged."}}, "stop", "forbidden"),
    "LiteLLM's key without money": (
        429,
        {"error": {"message": "ExceededBudget: Key=x over budget. Spend=1", "code": "429"}},
        "stop",
        "insufficient_quota",
    ),
    "LiteLLM's budget": (
        400,
        {"error": {"message": "Budget has been exceeded!", "type": "budget_exceeded", "code": "400"}},
        "stop",
        "budget_exceeded",
    ),
    "words in the place of an answer": (
        200,
        {"object": "error", "message": "Broke.", "code": 500},
        "retry",
        "http_500",
    ),
    "a limit in the place of an answer": (
        200,
        {"success": False, "message": "Slow down.", "statusCode": 429},
        "retry",
        "rate_limit_exceeded",
    ),
    "an overload in the place of an answer": (200, {"detail": "Model is loading"}, "retry", "http_200"),
    "busy inside a good answer": (200, {"error": {"code": 503, "message": "no capacity"}}, "retry", "http_503"),
    "a limit inside a good answer": (
        200,
        {"error": {"code": "429", "message": "slow"}},
        "retry",
        "rate_limit_exceeded",
    ),
    "MiniMax without money": (
        200,
        {"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}},
        "stop",
        "insufficient_quota",
    ),
    "payment required": (
        402,
        {"error": {"code": 402, "message": "More credits are needed"}},
        "stop",
        "insufficient_quota",
    ),
    "no quota by type": (429, {"error": {"code": 429, "type": "insufficient_quota"}}, "stop", "insufficient_quota"),
    "no quota by words": (
        429,
        {"error": {"message": "You exceeded your current quota."}},
        "stop",
        "insufficient_quota",
    ),
    "Gemini's limit of a minute": (
        429,
        {"error": {"message": "You exceeded your current quota.", "details": [{"retryDelay": "17s"}]}},
        "hold",
        "rate_limit_exceeded",
    ),
    "Azure's limit": (
        429,
        {"error": {"code": "429", "message": "See aka.ms/oai/quotaincrease"}},
        "hold",
        "rate_limit_exceeded",
    ),
    "a flagged prompt": (
        403,
        {"error": {"code": 403, "message": "Input was flagged", "metadata": {"reasons": ["hate"]}}},
        "fail",
        "content_filter",
    ),
    "a filtered prompt": (
        400,
        {"error": {"code": 400, "message": "Rejected by our content policy."}},
        "fail",
        "content_filter",
    ),
    "DeepSeek without money": (402, {"error": {"code": "insufficient_balance"}}, "stop", "insufficient_balance"),
    "no balance without a status": (
        200,
        {"error": {"code": "insufficient_balance", "message": "Recharge."}},
        "stop",
        "insufficient_balance",
    ),
    "a law": (451, {"error": {"message": "The content policy forbids it."}}, "fail", "content_filter"),
    "a country": (403, {"error": {"message": "Country not supported"}}, "stop", "forbidden"),
    "a number and a type": (
        400,
        {"error": {"code": 400, "type": "exceed_context_size_error", "message": "too long"}},
        "fail",
        "context_length_exceeded",
    ),
    "LiteLLM's name": (
        400,
        {"error": {"code": "400", "message": "litellm.ContextWindowExceededError: too long"}},
        "fail",
        "context_length_exceeded",
    ),
    "what the server cannot do": (501, {"error": {"code": 501, "message": "no embeddings here"}}, "fail", "http_501"),
    "Portkey": (446, {"status": "failure", "message": "Guardrails failed"}, "fail", "http_446"),
    "a word of the moderator alone": (403, {"error": {"message": "It was flagged."}}, "fail", "content_filter"),
    "a prompt that is too long for llama.cpp's batch": (
        500,
        {"error": {"code": 500, "message": "input (900 tokens) is too large to process.", "type": "server_error"}},
        "fail",
        "context_length_exceeded",
    ),
    "a server that is overloaded": (529, {"error": {"type": "overloaded_error"}}, "retry", "overloaded_error"),
    "a model that loads": (424, {"error": {"message": "model is loading"}}, "retry", "http_424"),
}


@pytest.mark.parametrize(("status", "data", "kind", "code"), CASES.values(), ids=CASES)
def test_errors_of_many_servers_are_read(status: int, data: Any, kind: str, code: str) -> None:
    verdict = judge(Response(status, {}, dumps(data), data, 0.1), reached=True, path="chat/completions")
    assert (verdict.kind, verdict.code) == (kind, code)


def test_the_error_message_is_the_servers_sentence_and_not_its_json() -> None:
    data = {"status": "failure", "message": "Guardrails failed"}
    assert judge(Response(446, {}, dumps(data), data, 0.1), reached=True).message == "HTTP 446: Guardrails failed"


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        ({"message": "Model is loading, please retry in 1m12s."}, 72.0),
        ({"message": "busy", "retry_after_ms": 2500}, 2.5),
        ({"message": "busy", "details": [{"retryDelay": "17s"}]}, 17.0),
        ({"message": "busy"}, None),
    ],
)
def test_a_wait_stated_in_the_body_is_kept(error: dict[str, Any], wait: float | None) -> None:
    data = {"error": error}
    assert judge(Response(503, {}, dumps(data), data, 0.1), reached=True).wait == wait


NOW = "Tue, 15 Jan 2030 08:00:00 GMT"
EPOCH = 1_894_694_400
#: Ways to tell a wait of five minutes, or its end, within a body.
WAITS: dict[str, Any] = {
    "seconds since 1970": {"error": {"message": "Slow.", "reset_at": EPOCH + 300}},
    "milliseconds since 1970": {"error": {"message": "Slow.", "resetAt": (EPOCH + 300) * 1000}},
    "seconds in a string": {"error": {"message": "Slow.", "resets_at": str(EPOCH + 300)}},
    "a date": {"error": {"message": "Slow.", "reset_at": "2030-01-15T08:05:00Z"}},
    "a date with an offset": {"error": {"message": "Slow.", "reset_time": "2030-01-15T10:05:00.000+02:00"}},
    "a date without one": {"error": {"message": "Slow.", "reset_at": "2030-01-15 08:05:00"}},
    "seconds from now on": {"error": {"message": "Slow.", "reset_at": 300}},
    "headers within the body": {
        "error": {"message": "Slow.", "metadata": {"headers": {"X-RateLimit-Reset": str((EPOCH + 300) * 1000)}}}
    },
    "other names": {"error": {"message": "Slow.", "resets_in_seconds": 300}},
    "milliseconds": {"error": {"message": "Slow.", "retryAfterMs": "300000"}},
    "beside the error": {"error": "Slow.", "retry_after": 300},
    "within a detail": {"detail": {"message": "Slow.", "retry_after_seconds": 300}},
    "beside a message": {"message": "Slow.", "retryAfter": "5m"},
    "words": {"error": {"message": "Slow. Please wait 5 minutes before you go on."}},
    "other words": {"error": {"message": "Your quota will reset after 5m0s."}},
}


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("way", WAITS)
def test_a_wait_stated_in_the_body_is_relative_to_the_servers_clock(way: str, status: int) -> None:
    verdict = judge(Response(status, {"date": NOW}, b"{}", WAITS[way], 0.1), reached=True)
    assert verdict.wait == 300.0
    assert "Slow" in (verdict.message or "") or "quota" in (verdict.message or "")


@pytest.mark.parametrize(
    "told", [None, True, "soon", [], 10**400, float("nan"), -5, "2030-13-45", EPOCH - 60], ids=repr
)
def test_an_implausible_wait_is_ignored(told: Any) -> None:
    response = Response(503, {"date": NOW}, b"{}", {"error": {"message": "Slow.", "reset_at": told}}, 0.1)
    assert not judge(response, reached=True).wait


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("told", ["9" * 5000, "9" * 400, "1" + "0" * 12], ids=len)
def test_an_endless_wait_in_words_is_ignored(told: str, status: int) -> None:
    data = {"error": {"message": f"Please try again in {told} s."}}
    assert judge(Response(status, {}, b"{}", data, 0.1), reached=True).wait is None


@pytest.mark.parametrize("status", [400, 429, 500])
@pytest.mark.parametrize("form", ["a message", "many fields"])
def test_an_error_of_megabytes_is_read_in_no_time(form: str, status: int) -> None:
    words = "input " * 2_000_000
    fields = {str(number): "input " * 5 for number in range(300_000)}
    error = {"message": words} if form == "a message" else {"message": "No.", "metadata": fields}
    began = time.process_time()
    judge(Response(status, {}, b"{}", {"error": error}, 0.1), reached=True)
    assert time.process_time() - began < 3.0  # twenty seconds otherwise


def test_the_wait_at_the_end_of_a_long_error_is_heeded() -> None:
    data = {"error": {"message": f"No: {'a prompt ' * 20_000}. Please try again in 90 s."}}
    assert judge(Response(429, {}, b"{}", data, 0.1), reached=True).wait == 90.0


NO_ERRORS: list[Any] = [
    {"message": "", "type": "", "param": "", "code": None},
    {"code": 0, "message": "success"},
    {"code": "0", "message": "OK."},
    "None",
    "",
    False,
    {},
    [],
]


@pytest.mark.parametrize("error", NO_ERRORS, ids=repr)
@pytest.mark.parametrize("within", [False, True], ids=["beside", "in a choice"])
def test_an_error_with_empty_fields_does_not_invalidate_an_answer(error: Any, within: bool) -> None:
    choice = {"message": {"content": "Yes."}, "finish_reason": "stop", **({"error": error} if within else {})}
    answer = {"choices": [choice], **({} if within else {"error": error})}
    assert judge(Response(200, {}, b"{}", answer, 0.1), reached=True, path="chat/completions").kind == "done"


@pytest.mark.parametrize(
    "error", [{"code": 0, "message": "upstream"}, {"code": 5}, "broke", True, [{"code": 9}]], ids=repr
)
def test_any_other_error_makes_an_answer_fail(error: Any) -> None:
    answer = {"choices": [{"message": {"content": "Hal"}}], "error": error}
    assert judge(Response(200, {}, b"{}", answer, 0.1), reached=True, path="chat/completions").kind == "retry"


#: Answers of status 200 that hold none: in a wrapper, which may be billed, or with the words of an error.
WRAPPED: dict[str, tuple[Any, str, str]] = {
    "Cloudflare's": ({"result": {"response": "Yes."}, "success": True, "errors": []}, "fail", "malformed_response"),
    "success in words": ({"code": 0, "message": "success", "data": {"id": 1}}, "fail", "malformed_response"),
    "other words": ({"code": 200, "msg": "done", "data": {"id": 1}}, "fail", "malformed_response"),
    "Ollama's": ({"message": {"role": "assistant", "content": "Yes."}, "done": True}, "fail", "malformed_response"),
    "an error's number beside data": ({"code": 429, "msg": "slow", "data": {"id": 1}}, "retry", "rate_limit_exceeded"),
    "a limit as msg": ({"code": 1302, "msg": "Rate limit reached", "data": None}, "retry", "http_200"),
    "a status as code": ({"code": 503, "msg": "try later", "success": False}, "retry", "http_503"),
    "Baidu's": ({"error_code": 336100, "error_msg": "server is busy"}, "retry", "http_200"),
}


@pytest.mark.parametrize(("data", "kind", "code"), WRAPPED.values(), ids=WRAPPED)
def test_a_wrapped_answer_is_not_sent_again_and_an_error_in_words_is(data: Any, kind: str, code: str) -> None:
    verdict = judge(Response(200, {}, dumps(data), data, 0.1), reached=True, path="chat/completions")
    assert (verdict.kind, verdict.code) == (kind, code)
    assert verdict.overload == (kind == "retry")
    assert kind == "fail" or str(data.get("msg") or data.get("error_msg")) in str(verdict.message)


NAMES = (
    *("error", "errors", "message", "msg", "detail", "code", "type", "status", "base_resp", "status_code", "metadata"),
    *("choices", "output", "data", "usage", "finish_reason", "index", "content", "reset_at", "retry_after", "reasons"),
)
LEAVES = (None, True, 0, 429, -1, 2**70, math.nan, math.inf, "", "0", "503", "a", "stop", "{}", "\ud800", "5" * 5000)


def anything(lot: random.Random, depth: int = 0) -> Any:
    kind = lot.random()
    if depth > 3 or kind < 0.3:
        return lot.choice(LEAVES)
    if kind < 0.5:
        return [anything(lot, depth + 1) for _ in range(lot.randrange(3))]
    return {lot.choice(NAMES): anything(lot, depth + 1) for _ in range(lot.randrange(5))}


@pytest.mark.parametrize("status", [200, 400, 403, 429, 500])
def test_no_form_of_error_raises(status: int) -> None:
    lot = random.Random(status)
    for _ in range(4000):
        verdict = judge(Response(status, {}, b"x", anything(lot), 0.1), reached=True, path="chat/completions")
        assert verdict.kind == "done" or verdict.code
