"""Keys and limits of the simulator, over a real socket."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from parallel_openai.local import simulator
from tests.local.wire import HELLO, ask, send


@pytest.fixture
def server() -> Iterator[simulator.Server]:
    with simulator.serve(max_requests_per_minute=None, refusal_latency=0.0) as running:
        yield running


@pytest.mark.parametrize(
    "header", [{"Authorization": "Bearer sk-right-0123456789"}, {"api-key": "sk-right-0123456789"}]
)
def test_the_right_key_is_accepted(server: simulator.Server, header: dict[str, str]) -> None:
    server.set(required_api_key="sk-right-0123456789")
    assert ask(server, HELLO, header)[0] == 200
    assert send(server, "GET", "/v1/models", headers=header)[0] == 200


def test_a_wrong_key_is_refused_and_only_shown_masked(server: simulator.Server) -> None:
    server.set(required_api_key="sk-right-0123456789")
    status, _, answer = ask(server, HELLO, {"Authorization": "Bearer sk-wrong-9876543210"})
    assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
    assert "sk-wrong-9876543210" not in answer["error"]["message"]
    assert "right" not in json.dumps(server.stats())


def test_no_key_is_refused(server: simulator.Server) -> None:
    server.set(required_api_key="sk-right-0123456789")
    assert ask(server, HELLO)[0] == 401
    assert send(server, "GET", "/v1/models")[0] == 401


def test_a_request_over_the_limit_gets_the_numbers(server: simulator.Server) -> None:
    server.set(max_requests_per_minute=1)
    ask(server, HELLO)
    status, headers, answer = ask(server, HELLO)
    assert status == 429
    assert (answer["error"]["code"], answer["error"]["type"]) == ("rate_limit_exceeded", "requests")
    assert "requests per min (RPM): Limit 1, Used 1, Requested 1. Please try again in " in answer["error"]["message"]
    assert 58 <= int(headers["retry-after"]) <= 60
    assert headers["x-ratelimit-remaining-requests"] == "0"


def test_tokens_are_limited_too(server: simulator.Server) -> None:
    server.set(max_tokens_per_minute=100)
    ask(server, {**HELLO, "max_tokens": 90})
    answer = ask(server, {**HELLO, "max_tokens": 90})[2]
    assert answer["error"]["type"] == "tokens"
    assert server.stats()["refused_for"] == {"tokens": 1}


def test_a_request_larger_than_the_limit_is_refused_each_time(server: simulator.Server) -> None:
    server.set(max_tokens_per_minute=100)
    for _ in range(2):
        status, headers, answer = ask(server, {**HELLO, "max_tokens": 101})
        assert (status, answer["error"]["type"]) == (429, "tokens")
        assert answer["error"]["message"].startswith("Request too large for gpt-4o-mini")
        assert "retry-after" not in headers


def test_azures_429_mentions_a_quota_increase(server: simulator.Server) -> None:
    server.set(max_requests_per_minute=1, error_style="azure")
    ask(server, HELLO)
    error = ask(server, HELLO)[2]["error"]
    assert error["code"] == "429"
    assert "quota increase" in error["message"]


@pytest.mark.parametrize(
    ("style", "shown"),
    [
        ("seconds", {"retry-after"}),
        ("exact", {"retry-after"}),
        ("ms", {"retry-after", "retry-after-ms"}),
        ("none", set()),
    ],
)
def test_retry_after_can_be_written_in_several_ways(server: simulator.Server, style: str, shown: set[str]) -> None:
    server.set(max_requests_per_minute=1, retry_after=style)
    ask(server, HELLO)
    assert {name for name in ask(server, HELLO)[1] if name.startswith("retry-after")} == shown


def test_retry_after_can_be_a_date(server: simulator.Server) -> None:
    server.set(max_requests_per_minute=1, retry_after="date")
    ask(server, HELLO)
    assert ask(server, HELLO)[1]["retry-after"].endswith("GMT")


def test_retry_after_can_be_a_fixed_number(server: simulator.Server) -> None:
    server.set(max_requests_per_minute=1, retry_after=0.25)
    ask(server, HELLO)
    assert ask(server, HELLO)[1]["retry-after"] == "0.25"


@pytest.mark.parametrize(
    ("counting", "charged"),
    [
        ("max_output_or_characters", 40),
        ("prompt_plus_max_output", 26),
        ("prompt_plus_max_output_times_n", 46),
        ("actual_usage", 6 + 24),
        ("settled", 6 + 24),
    ],
)
def test_the_tokens_charged_for_a_request_follow_the_counting_rule(
    server: simulator.Server, counting: str, charged: int
) -> None:
    server.set(max_tokens_per_minute=1000, counting=counting)
    ask(server, {**HELLO, "max_tokens": 20, "n": 2})
    stats = server.stats()
    assert stats["tokens_charged"] == charged
    assert sum(stats["per_second"]["tokens"]) == charged
    assert stats["levels"]["tokens"] == pytest.approx(1000 - charged, abs=10)


def test_no_limit_means_no_headers_of_that_limit(server: simulator.Server) -> None:
    assert not [name for name in ask(server, HELLO)[1] if name.startswith("x-ratelimit")]


def test_a_refused_request_can_count_against_the_limit(server: simulator.Server) -> None:
    server.set(max_requests_per_minute=600, burst_seconds=0.1, charge_refused=True)
    ask(server, HELLO)
    ask(server, HELLO)
    assert server.stats()["levels"]["requests"] < 0.5
