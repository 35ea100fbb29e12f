"""The header names that gateways use for their limits, and malformed values."""

from __future__ import annotations

import pytest

from parallel_openai._limits.headers import NAMES, SCOPES, Allowance, allowance, limit_alone, retry_after
from parallel_openai._limits.limiter import Limiter
from parallel_openai._limits.sizes import NO_SIZE

SENT = "Wed, 21 Oct 2026 07:28:00 GMT"


@pytest.mark.parametrize("dimension", ["requests", "tokens"])
@pytest.mark.parametrize("names", NAMES, ids=lambda names: names[0])
def test_rate_limit_headers_of_each_gateway_are_read(names: tuple[str, str, str], dimension: str) -> None:
    figures = zip(names, ("600", "599", "2s"), strict=True)
    assert allowance({name.format(dimension): text for name, text in figures}, dimension) == Allowance(600, 599, 2.0)


#: What gateways send, as their documentation, their source or reports show it: limit, what is left, and what is read.
SENT_BY = {
    "OpenAI, Azure, xAI": (
        {
            "x-ratelimit-limit-requests": "600",
            "x-ratelimit-remaining-requests": "599",
            "x-ratelimit-reset-requests": "100ms",
            "x-ratelimit-limit-tokens": "150000",
            "x-ratelimit-remaining-tokens": "149984",
            "x-ratelimit-reset-tokens": "6m0s",
        },
        Allowance(600, 599, 0.1),
        Allowance(150_000, 149_984, 360.0),
    ),
    "Groq": (
        {
            "x-ratelimit-limit-requests": "14400",
            "x-ratelimit-remaining-requests": "14370",
            "x-ratelimit-reset-requests": "2m59.56s",
            "x-ratelimit-limit-tokens": "18000",
            "x-ratelimit-remaining-tokens": "17997",
            "x-ratelimit-reset-tokens": "7.66s",
        },
        Allowance(14_400, 14_370, 179.56),
        Allowance(18_000, 17_997, 7.66),
    ),
    "Cerebras": (
        {
            "x-ratelimit-limit-requests-day": "14400",
            "x-ratelimit-remaining-requests-day": "14399",
            "x-ratelimit-reset-requests-day": "33011.382867",
            "x-ratelimit-limit-tokens-minute": "60000",
            "x-ratelimit-remaining-tokens-minute": "59000",
            "x-ratelimit-reset-tokens-minute": "11.382867",
        },
        None,  # a day's limit tells no pace; the minute's requests, which it does not send, are found
        Allowance(60_000, 59_000, 11.382867),
    ),
    "Mistral": (
        {
            "x-ratelimit-limit-tokens-minute": "5000000",
            "x-ratelimit-remaining-tokens-minute": "4999911",
            "x-ratelimit-tokens-query-cost": "52",
            "x-ratelimit-limit-req-minute": "720",
            "x-ratelimit-remaining-req-minute": "717",
        },
        Allowance(720, 717, None),
        Allowance(5_000_000, 4_999_911, None),
    ),
    "Together": (
        {
            "x-ratelimit-limit": "10",
            "x-ratelimit-remaining": "9",
            "x-ratelimit-reset": "1",
            "x-tokenlimit-limit": "3000",
            "x-tokenlimit-remaining": "1500",
        },
        Allowance(600, 9, pytest.approx(0.1)),  # type: ignore[arg-type]  # within a second
        Allowance(180_000, 1500, 0.5),
    ),
    "LiteLLM, a key and its team": (
        {
            "x-litellm-key-rpm-limit": "600",
            "x-litellm-key-tpm-limit": "None",
            "x-ratelimit-api_key-limit-requests": "600",
            "x-ratelimit-api_key-remaining-requests": "599",
            "x-ratelimit-team-limit-requests": "90",
            "x-ratelimit-team-remaining-requests": "60",
            "x-ratelimit-model_per_key-limit-tokens": "9000",
            "x-ratelimit-model_per_key-remaining-tokens": "8000",
        },
        Allowance(90, 60, None),
        Allowance(9000, 8000, None),
    ),
    "Anthropic": (
        {
            "anthropic-ratelimit-requests-limit": "50",
            "anthropic-ratelimit-requests-remaining": "49",
            "anthropic-ratelimit-requests-reset": "2026-10-21T07:28:00Z",
            "anthropic-ratelimit-tokens-limit": "40000",
            "anthropic-ratelimit-tokens-remaining": "39000",
        },
        Allowance(50, 49, None),
        Allowance(40_000, 39_000, None),
    ),
    "Fireworks": (  # prompt and answer apart, limits that move: its refusals tell better
        {"x-ratelimit-limit-tokens-prompt": "3600000", "x-ratelimit-limit-tokens-generated": "36000"},
        None,
        None,
    ),
    "OpenRouter, and others that do not say for how long": (
        {"x-ratelimit-limit": "20", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "1741305600000"},
        None,
        None,
    ),
}


@pytest.mark.parametrize("gateway", SENT_BY)
def test_recorded_headers_of_gateways_are_read(gateway: str) -> None:
    headers, requests, tokens = SENT_BY[gateway]
    assert (allowance(headers, "requests"), allowance(headers, "tokens")) == (requests, tokens)


#: The forms of the IETF's draft: its fields, and what is read of them for requests.
DRAFTS = {
    "three fields": (("100", "50", "30"), {}, Allowance(100, 50, 30.0)),
    "three fields, a window of 1 s": (("10;w=1", "9", "1"), {}, Allowance(10, 9, 1.0)),
    "three fields, a policy beside": (("10, 10;w=1", "5", "1"), {}, Allowance(600, 5, 0.5)),
    "three fields, a policy of its own": (("10", "5", "1"), {"ratelimit-policy": "10;w=1"}, Allowance(600, 5, 0.5)),
    "one field, version 7": (
        (),
        {"ratelimit": "limit=100, remaining=50, reset=30", "ratelimit-policy": "100;w=60"},
        Allowance(100, 50, 30.0),
    ),
    "one field": (
        (),
        {"ratelimit": '"default";r=50;t=30', "ratelimit-policy": '"default";q=100;w=60'},
        Allowance(100, 50, 30.0),
    ),
    "the one of several policies with the least left": (
        (),
        {
            "ratelimit": '"burst";r=99;t=1, "daily";r=20;t=40000',
            "ratelimit-policy": '"burst";q=100;w=60, "daily";q=1000;w=86400;pk=:dXNlcg==:',
        },
        Allowance(1000, 20, 84672.0),
    ),
    "bytes": ((), {"ratelimit": '"b";r=5;t=3', "ratelimit-policy": '"b";q=10;w=60;qu="content-bytes"'}, None),
    "no policy": ((), {"ratelimit": '"default";r=50;t=30'}, None),
    "nonsense": (("1;w=-1, ;;", "1", "x"), {"ratelimit": ';,"', "ratelimit-policy": "=;w"}, Allowance(1, 1, None)),
}


@pytest.mark.parametrize("form", DRAFTS)
def test_the_fields_of_the_ietfs_draft_are_read(form: str) -> None:
    three, others, requests = DRAFTS[form]
    names = ("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset")
    headers = {**dict(zip(names, three, strict=False)), **others}
    assert (allowance(headers, "requests"), allowance(headers, "tokens")) == (requests, None)


def test_tokens_are_read_where_a_policy_of_the_ietfs_draft_counts_them() -> None:
    headers = {"ratelimit": '"t";r=900;t=6', "ratelimit-policy": '"t";q=1000;w=60;qu="tokens"'}
    assert (allowance(headers, "requests"), allowance(headers, "tokens")) == (None, Allowance(1000, 900, 6.0))


@pytest.mark.parametrize("scope", SCOPES)
def test_rate_limit_headers_of_each_litellm_scope_are_read(scope: str) -> None:
    names = {f"x-ratelimit-{scope}-limit-tokens": "600", f"x-ratelimit-{scope}-remaining-tokens": "599"}
    assert allowance(names, "tokens") == Allowance(600, 599, None)


def test_a_keys_limit_stated_without_what_remains_is_kept() -> None:
    limiter = Limiter(clock=lambda: 0.0)
    lease = limiter.take(NO_SIZE)
    assert lease is not None
    limiter.answered(lease, {"x-litellm-key-rpm-limit": "600", "x-litellm-key-tpm-limit": "90000"})
    assert (limiter.requests.limit, limiter.tokens.limit) == (600, 90_000)


@pytest.mark.parametrize("told", ["None", "0", "-1", "inf", "many", "900"])
def test_a_keys_limit_that_is_missing_or_above_the_given_one_changes_nothing(told: str) -> None:
    limiter = Limiter(600, clock=lambda: 0.0)
    lease = limiter.take(NO_SIZE)
    assert lease is not None
    limiter.answered(lease, {"x-litellm-key-rpm-limit": told})
    assert limiter.requests.limit == 600
    assert limit_alone({"x-litellm-key-tpm-limit": "None"}, "tokens") is None


@pytest.mark.parametrize(
    ("limit", "remaining"),
    [("600", "-1"), ("600", "601"), ("0", "0"), ("-1", "-1"), ("unlimited", "unlimited"), ("600", ""), ("600", "nan")],
)
def test_contradicting_headers_are_ignored(limit: str, remaining: str) -> None:
    shown = {"x-ratelimit-limit-requests": limit, "x-ratelimit-remaining-requests": remaining}
    assert allowance(shown, "requests") is None


def test_malformed_headers_are_ignored_in_favour_of_others() -> None:
    shown = {
        "x-ratelimit-limit-tokens": "0",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-api_key-limit-tokens": "9000",
        "x-ratelimit-api_key-remaining-tokens": "8000",
    }
    assert allowance(shown, "tokens") == Allowance(9000, 8000, None)


@pytest.mark.parametrize("told", ["0", "-5", "0.0", "Thu, 01 Jan 1970 00:00:00 GMT", "Thu, 01 Jan 1970 00:00:10 GMT"])
def test_a_retry_after_of_zero_is_no_wait(told: str) -> None:
    assert retry_after({"retry-after": told, "date": "Thu, 01 Jan 1970 00:00:10 GMT"}) is None
    assert retry_after({"retry-after-ms": "0", "retry-after": "2"}) == 2.0


@pytest.mark.parametrize("local_clock", [0.0, 1792567680.0 - 600, 1792567680.0 + 600])
def test_a_retry_after_date_is_relative_to_the_answers_own_date(local_clock: float) -> None:
    headers = {"retry-after": "Wed, 21 Oct 2026 07:28:10 GMT", "date": SENT}
    assert retry_after(headers, now=local_clock) == 10.0


@pytest.mark.parametrize("date", [None, "", "yesterday"])
def test_without_a_date_header_a_retry_after_date_is_relative_to_the_local_clock(date: str | None) -> None:
    headers = {"retry-after": "Wed, 21 Oct 2026 07:28:10 GMT"} | ({} if date is None else {"date": date})
    assert retry_after(headers, now=1792567680.0) == 10.0
