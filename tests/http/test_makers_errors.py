"""The documented errors of makers whose codes are not OpenAI's: waited out, the row's own, or the end of the run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._json import dumps
from parallel_openai._records import Response
from parallel_openai._run.response_verdict import judge
from parallel_openai.errors import (
    AuthenticationError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitedError,
    RunStoppedError,
)
from tests.servers.recorder import Asked, recorder

QWEN = "https://help.aliyun.com/zh/model-studio/error-code"
OF_TOKENS = f"You exceeded your current quota, please check your plan and billing details. For details, see: {QWEN}"


def error(message: str, code: str | None = None, **further: Any) -> dict[str, Any]:
    return {"error": {"message": message, "code": code, **further}}


#: Limits that end by themselves, some of them worded as if the account had no money.
LIMITS: dict[str, tuple[Any, str | None]] = {
    "Qwen's tokens a minute": (error(f"{OF_TOKENS}#token-limit", "insufficient_quota"), "tokens"),
    "the same in other words": (
        error(f"Allocated quota exceeded, please increase it. See {QWEN}#token-limit", "insufficient_quota"),
        "tokens",
    ),
    "the same within a gateway's": (error(f"litellm.RateLimitError: {OF_TOKENS}#token-limit", "429"), "tokens"),
    "Qwen's requests": ({"code": "Throttling.RateQuota", "message": "Requests rate limit exceeded."}, None),
    "Qwen's bursts": (error("Request rate increased too quickly.", "limit_burst_rate"), None),
    "Moonshot's requests": (
        error("Your account request reached organization max RPM: 3, please try again after 1 seconds"),
        None,
    ),
    "Moonshot's engine": (error("The engine is currently overloaded", type="engine_overloaded_error"), None),
    "Zhipu's": (error("您的账户已达到速率限制，请您控制请求频率", "1302"), None),
    "Volcengine's": (error("The Tokens Per Minute (TPM) limit has been exceeded.", "RateLimitExceeded"), "tokens"),
    "Vertex's": ([error("Resource exhausted. Please try again later.", status="RESOURCE_EXHAUSTED")], None),
}  # fmt: skip


def judged(status: int, data: Any) -> Any:
    read = data[0] if isinstance(data, list) else data
    return judge(Response(status, {}, dumps(data), read, 0.1), reached=True, path="chat/completions")


@pytest.mark.parametrize("maker", LIMITS)
def test_a_limit_is_waited_out_however_it_is_worded(maker: str) -> None:
    data, dimension = LIMITS[maker]
    verdict = judged(429, data)
    assert (verdict.kind, verdict.code, verdict.dimension) == ("hold", "rate_limit_exceeded", dimension)


STOPS: dict[str, tuple[int, Any, type[RunStoppedError]]] = {
    "Qwen: overdue": (400, error("Access denied, please make sure your account is in good standing.", "Arrearage"),
                      QuotaExceededError),
    "Qwen: a bill": (429, error("The postpaid bill is overdue.", "PostpaidBillOverdue"), QuotaExceededError),
    "Qwen: not bought": (429, error("Commodity has not purchased yet.", "CommodityNotPurchased"), QuotaExceededError),
    "Qwen: no free tier": (403, error("It has been exhausted.", "AllocationQuota.FreeTierOnly"), QuotaExceededError),
    "Qwen: none allocated": (429, {"code": "Throttling", "message": "Free allocated quota exceeded."},
                             QuotaExceededError),
    "Qwen: a week": (429, error("Your token-plan 1-week quota is exhausted.", "QuotaExhausted"), RateLimitedError),
    "Zhipu: balance": (429, error("余额不足或无可用资源包,请充值。", "1113"), QuotaExceededError),
    "Zhipu: arrears": (429, error("Your account is in arrears, please recharge.", "1113"), QuotaExceededError),
    "Zhipu: expired": (429, error("Your GLM Coding Plan package has expired.", "1309"), QuotaExceededError),
    "Zhipu: hours": (429, error("Usage limit reached for 5 hour.", "1308"), RateLimitedError),
    "Zhipu: hours, in Chinese": (429, error("已达到 5 小时的使用上限。您的限额将在 2026-11-29 18:44:20 重置", "1308"),
                                 RateLimitedError),
    "Moonshot: suspended": (429, error("Your account is suspended", type="exceeded_current_quota_error"),
                            QuotaExceededError),
    "Moonshot: a day": (429, error("Your account request reached TPD rate limit, limit: 1500000"), RateLimitedError),
    "Volcengine: overdue": (403, error("Your account has an overdue balance.", "AccountOverdueError"),
                            QuotaExceededError),
    "Volcengine: paused": (429, error("It has reached the set inference limit.", "SetLimitExceeded"),
                           QuotaExceededError),
    "Volcengine: tried": (429, error("It has exhausted its free trial quota.", "QuotaExceeded"), QuotaExceededError),
    "Anthropic: credit": (400, error("Your credit balance is too low to access the API."), QuotaExceededError),
    "Anthropic: limit": (400, error("You have reached your specified API usage limits."), QuotaExceededError),
    "Fireworks": (412, error("Account a-b is suspended, possibly due to reaching the monthly limit."),
                  QuotaExceededError),
    "Groq: restricted": (400, error("Organization has been restricted.", "organization_restricted"),
                         PermissionDeniedError),
    "Anthropic: disabled": (400, error("This organization has been disabled."), PermissionDeniedError),
    "Novita": (403, {"code": 403, "reason": "NOT_ENOUGH_BALANCE", "message": "not enough balance"},
               QuotaExceededError),
    "Groq": (429, error("Your organization has reached its limit.", "blocked_api_access"), QuotaExceededError),
    "Gemini: spending": (429, [error("Your project has exceeded its monthly spending cap.")], QuotaExceededError),
    "Gemini: key": (400, [error("API key not valid. Please pass a valid API key.")], AuthenticationError),
    "xAI: key": (400, {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: s***."},
                 AuthenticationError),
    "MiniMax: key": (200, {"base_resp": {"status_code": 1004, "status_msg": "login fail"}}, AuthenticationError),
    "new-api": (403, error("用户额度不足, 剩余额度: 0.001", "insufficient_user_quota"), QuotaExceededError),
    "SiliconFlow": (403, {"code": 30001, "message": "Sorry, your account balance is insufficient"},
                    QuotaExceededError),
}  # fmt: skip


@pytest.mark.parametrize("maker", STOPS)
def test_an_account_that_cannot_go_on_stops_the_run(maker: str) -> None:
    status, data, stop = STOPS[maker]
    verdict = judged(status, data)
    assert (verdict.kind, verdict.stop) == ("stop", stop)


ROWS_OWN: dict[str, tuple[int, Any, str]] = {
    "Zhipu": (400, error("系统检测到输入或生成内容可能包含不安全或敏感内容", "1301"), "content_filter"),
    "Volcengine": (400, error("The input text may contain sensitive information."), "content_filter"),
    "Qwen": (400, error("<400> InternalError.Algo.DataInspectionFailed", "x"), "content_filter"),
    "Cloudflare": (424, {"error": [{"code": 2016, "message": "Prompt blocked due to security configurations"}]},
                   "content_filter"),
    "Portkey": (446, error("The guardrail checks defined in the config failed.", type="hooks_failed"),
                "content_filter"),
    "Portkey, once": (412, error("The guardrail checks failed.", type="hooks_failed"), "content_filter"),
    "Cohere": (498, {"message": "blocked output"}, "content_filter"),
    "Cohere: long": (400, {"message": "total number of tokens in the prompt cannot exceed 4081 - received 4292."},
                     "context_length_exceeded"),
    "LiteLLM": (400, error("{'error': 'Violated guardrail policy'}"), "content_filter"),
    "Qwen: long": (400, error("Range of input length should be [1, 129024]"), "context_length_exceeded"),
    "Zhipu: long": (400, error("Prompt exceeds max length", "1261"), "context_length_exceeded"),
    "Moonshot: long": (400, error("Your request exceeded model token limit: 262144"), "context_length_exceeded"),
    "vLLM: long": (400, {"object": "error", "message": "This model's maximum context length is 4096 tokens. However, "
                         "you requested 9000 tokens.", "code": 400}, "context_length_exceeded"),
    "vLLM by KServe: long": (500, error("maximum context length is 8192 tokens. However, you requested 9000", "500"),
                             "context_length_exceeded"),
    "SGLang: long": (400, {"object": "error", "message": "The input (9 tokens) is longer than the model's context "
                           "length (8 tokens).", "code": 400}, "context_length_exceeded"),
    "llama.cpp: long": (500, error("the request exceeds the available context size"), "context_length_exceeded"),
    "TGI: long": (422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096."},
                  "context_length_exceeded"),
    "Bedrock: long": (400, {"message": "Input is too long for requested model."}, "context_length_exceeded"),
    "Together: long": (403, error("The combined total of the Input token count and max_tokens parameter must be less "
                                  "than the context length of the model being queried."), "context_length_exceeded"),
    "OpenRouter: long": (400, error("Provider returned error", metadata={"raw": "prompt is too long: 9 tokens > 8"}),
                         "context_length_exceeded"),
    "a cap that is too large": (400, error("'max_tokens' is too large: 4096. This model's maximum context length is "
                                           "4096 tokens and your request has 100 input tokens.", "x"), "x"),
}  # fmt: skip


@pytest.mark.parametrize("maker", ROWS_OWN)
def test_what_is_a_rows_own_fault_fails_it_at_once(maker: str) -> None:
    status, data, code = ROWS_OWN[maker]
    verdict = judged(status, data)
    assert (verdict.kind, verdict.code) == ("fail", code)


OVERLOADS: dict[str, tuple[int, Any]] = {
    "AWS": (400, {"__type": "ThrottlingException", "message": "Too many requests, please wait before trying again."}),
    "a code alone": (400, error("Slow down.", "rate_limit_exceeded")),
    "Google": (403, error("User Rate Limit Exceeded", errors=[{"reason": "userRateLimitExceeded"}])),
    "GitHub": (403, {"message": "You have exceeded a secondary rate limit. Please wait."}),
    "LM Studio": (400, {"error": "The model has crashed without additional information. (Exit code: 6)"}),
    "Cloudflare": (400, {"errors": [{"code": 3040, "message": "AiError: Capacity temporarily exceeded."}]}),
    "Cloudflare, with a 200": (200, {"errors": [{"message": "Capacity temporarily exceeded."}], "success": False}),
    "words in a 200": (200, {"message": "Rate limit exceeded"}),
}


@pytest.mark.parametrize("maker", OVERLOADS)
def test_an_overload_told_by_another_status_is_waited_out(maker: str) -> None:
    verdict = judged(*OVERLOADS[maker])
    assert (verdict.kind, verdict.overload) == ("retry", True)
    assert "{" not in str(verdict.message)


FRAME = pd.DataFrame({"text": [f"row {number};" for number in range(40)]})


def run_against(answer: Callable[[int], tuple[int, Any] | None], **options: Any) -> tuple[pd.DataFrame, int]:
    """Rows 0 to 39, one at a time; `answer` says what the server says to a row, None a good answer."""

    def said(asked: Asked) -> tuple[int, bytes] | None:
        found = answer(int(str(asked.body["messages"][-1]["content"]).split()[1].rstrip(";")))
        return None if found is None else (found[0], json.dumps(found[1]).encode())

    with recorder(said) as server, po.Client(f"{server.url}/v1", max_concurrent_requests=1, **options) as client:
        try:
            return po.process_dataframe(FRAME, "text", model="m", client=client, progress=False), len(server.asked)
        except RunStoppedError as stopped:
            return pd.DataFrame(stopped.partial), len(server.asked)


@pytest.mark.parametrize("maker", ["Qwen: overdue", "Anthropic: credit", "Fireworks", "Gemini: key", "MiniMax: key"])
def test_an_account_that_ends_in_mid_run_leaves_the_other_rows_to_the_next_run(maker: str) -> None:
    status, data, _ = STOPS[maker]
    out, asked = run_against(lambda number: None if number < 10 else (status, data))
    assert dict(Counter(out["status"])) == {"succeeded": 10, "cancelled": 30}
    assert asked < 60  # a key is only given up after 20 different rows


def test_a_minutes_tokens_that_are_used_up_cost_no_row() -> None:
    refusals = iter([(429, LIMITS["Qwen's tokens a minute"][0])] * 3)
    out, _ = run_against(lambda number: next(refusals, None) if number > 5 else None)
    assert out["status"].eq("succeeded").all()


@pytest.mark.parametrize("status", [400, 412])
def test_an_error_that_repeats_a_row_about_money_fails_that_row_only(status: int) -> None:
    repeated = error("Bad input: 'Your credit balance is too low, pay your overdue bill, account x is suspended'")
    out, _ = run_against(lambda number: (status, repeated) if number == 3 else None)
    assert dict(Counter(out["status"])) == {"succeeded": 39, "failed": 1}


@pytest.mark.parametrize("maker", ["AWS", "GitHub"])
def test_an_overload_told_by_another_status_costs_no_row(maker: str) -> None:
    refusals = iter([OVERLOADS[maker]] * 3)  # more than the attempts of a row
    out, asked = run_against(lambda number: next(refusals, None), max_attempts=2)
    assert out["status"].eq("succeeded").all()
    assert asked == len(FRAME) + 3


@pytest.mark.parametrize("row", [3, 39])
def test_an_error_that_repeats_a_row_about_overload_fails_that_row_at_once(row: int) -> None:
    repeated = 400, error("Bad input: 'Why is the server overloaded?'")
    out, asked = run_against(lambda number: repeated if number == row else None)
    assert dict(Counter(out["status"])) == {"succeeded": 39, "failed": 1}
    assert asked == 40


def test_a_403_for_a_prompt_that_is_too_long_fails_that_row_only() -> None:
    status, data, code = ROWS_OWN["Together: long"]
    out, _ = run_against(lambda number: (status, data) if number < 3 else None)
    assert dict(Counter(out["status"])) == {"succeeded": 37, "failed": 3}
    assert set(out["error_code"].dropna()) == {code}
