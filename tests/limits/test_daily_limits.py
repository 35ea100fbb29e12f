"""Daily limits in headers that do not say so: only `reset` shows it (`6s` for one of 14,400 requests, `2h24m`)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai import APIRequest, Client
from parallel_openai._limits.limiter import Limiter
from parallel_openai._records import Response, Result, Size
from parallel_openai._run.response_verdict import RetryPolicy
from parallel_openai._run.runner import Runner
from parallel_openai.errors import RateLimitedError
from parallel_openai.local.simulator import Server
from tests.limits.virtual import GOOD, VirtualLoop, run_virtually


def ask(server: Server, rows: int, **settings: Any) -> tuple[po.RunReport, Client]:
    server.set(max_requests_per_day=14_400, latency=0.02, **settings)
    df = pd.DataFrame({"text": [str(n) for n in range(rows)]})
    with Client(server.base_url) as client:
        out = po.process_dataframe(df, "text", model="m", max_tokens=60, client=client, progress=False)
    report = po.last_run()
    assert out["status"].eq("succeeded").all()
    assert report is not None
    return report, client


@pytest.mark.parametrize("left", [1.0, 0.9, 0.1], ids=["reset-6s", "reset-2h24m", "reset-21h36m"])
def test_the_rest_of_a_daily_limit_is_sent_at_once(server: Server, left: float) -> None:
    report, client = ask(server, 120, start_level=left)
    assert client.limiter.requests.period == 86_400
    assert report.rate_limit_errors == 0
    assert report.seconds < 5


def test_a_token_limit_per_minute_is_kept_beside_a_daily_request_limit(server: Server) -> None:
    report, client = ask(server, 60, max_tokens_per_minute=60_000, burst_seconds=1.0)
    assert (client.limiter.requests.period, client.limiter.tokens.period) == (86_400, 60)
    assert report.rate_limit_errors <= 5
    assert report.seconds < 10


def test_a_hidden_limit_per_minute_beside_a_shown_daily_one_is_found(server: Server) -> None:
    """At the day's pace of a request in 6 s, these would take five minutes."""
    report, _ = ask(server, 50, max_requests_per_minute=600, burst_seconds=1.0)
    assert report.refusals["requests"] >= 1
    assert report.seconds < 15


@pytest.mark.parametrize(("limit", "period"), [(3_000, 86_400), (20_000, 3_600)])
def test_a_minute_window_mistaken_for_an_hour_or_a_day_is_corrected_later(limit: int, period: int) -> None:
    """The window ends in a minute, whatever was used of it."""
    limiter = Limiter(clock=lambda: 0.0)
    for used in (limit * 60 // period, limit * 60 // period * 3):
        lease = limiter.at_once(Size(1, 1, 1, 1))
        assert lease is not None
        shown = {"limit": limit, "remaining": limit - used, "reset": "59.9s"}
        limiter.answered(lease, {f"x-ratelimit-{name}-requests": str(value) for name, value in shown.items()})
        assert limiter.requests.period == period
        period = 60
    assert limiter.requests.rate == limit / 60
    assert limiter.requests.capacity == limit


DAY = {
    "x-ratelimit-limit-tokens": "200",
    "x-ratelimit-remaining-tokens": "180",
    "x-ratelimit-reset-tokens": "2h24m",
}


def test_a_prompt_larger_than_the_daily_token_limit_is_reported() -> None:
    loop, results = VirtualLoop(), list[Result]()

    async def send(request: APIRequest, lease: Any) -> Response:
        return Response(200, DAY, b"{}", GOOD, 0.1)

    requests = [APIRequest({"model": "m", "n": n}) for n in range(2)]
    requests[0].size, requests[1].size = Size(10, 40, 5, 1), Size(400, 1600, 5, 1)

    async def one_after_the_other() -> None:
        for request in requests:
            await Runner(send=send, limiter=limiter, on_result=results.append, clock=loop.time).run([request])

    limiter = Limiter(clock=loop.time)
    run_virtually(one_after_the_other(), loop)
    assert [result.error_code for result in results] == [None, "request_too_large"]
    assert "limit is 200 tokens per day, so it can never be sent" in str(results[1].error)


def test_a_used_up_daily_limit_stops_the_run_if_the_wait_exceeds_max_wait() -> None:
    loop, results = VirtualLoop(), list[Result]()
    spent = {
        "x-ratelimit-limit-requests": "50",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "24h",
    }

    async def send(request: APIRequest, lease: Any) -> Response:
        return Response(200, spent, b"{}", GOOD, 0.1)

    processor = Runner(
        send=send,
        limiter=Limiter(clock=loop.time),
        on_result=results.append,
        retry=RetryPolicy(max_wait=10),
        max_concurrent_requests=1,
        clock=loop.time,
    )
    requests = [APIRequest({"model": "m", "n": n}) for n in range(60)]
    with pytest.raises(RateLimitedError, match=r"limit per day is used up.*max_wait, 10 s.*what was finished is kept"):
        run_virtually(processor.run(requests), loop)
    assert results
    assert loop.time() < 60


@pytest.mark.parametrize("told", ["23h59m12.5s", "86352 seconds", "24 hours"])
def test_a_daily_limit_stated_only_in_the_body_stops_the_run_at_once(told: str) -> None:
    loop, results, sends = VirtualLoop(), list[Result](), 0

    async def send(request: APIRequest, lease: Any) -> Response:
        nonlocal sends
        sends += 1
        error = {"message": f"Limit of 50 requests per day reached. Please try again in {told}."}
        return Response(200, {}, b"{}", GOOD, 0.1) if sends <= 50 else Response(429, {}, b"", {"error": error}, 0.1)

    processor = Runner(
        send=send,
        limiter=Limiter(clock=loop.time),
        on_result=results.append,
        retry=RetryPolicy(max_wait=10),
        max_concurrent_requests=1,
        clock=loop.time,
    )
    requests = [APIRequest({"model": "m", "n": n}) for n in range(60)]
    with pytest.raises(RateLimitedError, match=r"asks to wait 86,\d+ s.*max_wait, 10 s.*what was finished is kept"):
        run_virtually(processor.run(requests), loop)
    assert (len(results), sends) == (50, 51)


def test_a_daily_limit_is_not_shown_as_one_per_minute(server: Server) -> None:
    _, client = ask(server, 20)
    assert client.limiter.requests.limit == 14_400
    assert client.max_requests_per_minute is None
    assert "max_requests_per_minute" not in repr(client)


def of_a_day(left: int, reset: str | None, suffix: str = "") -> dict[str, str]:
    told = {"limit": "50", "remaining": str(max(0, left)), **({} if reset is None else {"reset": reset})}
    return {f"x-ratelimit-{name}-requests{suffix}": value for name, value in told.items()}


MINUTE = {
    "x-ratelimit-limit-requests": "60",
    "x-ratelimit-remaining-requests": "55",
    "x-ratelimit-reset-requests": "5s",
}
TOLD: dict[str, tuple[dict[str, str], bytes, float]] = {
    "in plain text": ({}, b"Daily limit reached", 1),
    "in plain text, with a short wait": ({"retry-after": "1"}, b"Daily limit reached", 100),
    "as 24 hours": ({}, b"50 requests per 24 hours", 1),
    "as 24h in an error": ({}, b'{"error": {"message": "Limit: 50 requests / 24h"}}', 1),
    "as today": ({}, b'{"msg": "You have used all requests for today"}', 1),
    "as a month": ({}, b'{"error": "Monthly quota reached."}', 1),
    "beside a minute's headers": (MINUTE, b'{"error": {"message": "Limit of requests per day reached"}}', 1),
    "beside a minute's headers, with a short wait": ({**MINUTE, "retry-after": "1"}, b"requests per day", 100),
    "by a header of its own": ({**MINUTE, **of_a_day(0, "33011.4", "-day")}, b"Too many requests", 1),
    "by a header of its own, with a short wait": ({**of_a_day(0, "33011", "-day"), "retry-after": "60"}, b"", 1),
    "by a header of its own, until nobody knows": (of_a_day(0, None, "-day"), b"Too many requests", 1),
    "by a reset of 33 hours": (of_a_day(0, "33h"), b"", 120),
    "by a reset of 20 hours": (of_a_day(0, "20h"), b"", 1),
    "by a reset of 5 hours": (of_a_day(0, "5h"), b"", 120),
    "by an hour's header": (
        {"x-ratelimit-remaining-tokens-hour": "0", "x-ratelimit-reset-tokens-hour": "3500"},
        b"",
        1,
    ),
}


class Account:
    """Answers fifty requests, and then refuses as it is told, until it opens again; in virtual time."""

    def __init__(
        self, headers: dict[str, str], body: bytes, *, opens: float = float("inf"), max_wait: float = 600
    ) -> None:
        self.loop, self.results, self.sends = VirtualLoop(), list[Result](), 0
        self._headers, self._body, self._opens = headers, body, opens
        limiter, retry = Limiter(clock=self.loop.time), RetryPolicy(max_wait=max_wait)
        self._processor = Runner(
            send=self._send, limiter=limiter, on_result=self.results.append, retry=retry,
            max_concurrent_requests=5, clock=self.loop.time,
        )  # fmt: skip

    async def _send(self, request: APIRequest, lease: Any) -> Response:
        self.sends += 1
        is_open = self.sends <= 50 or self.loop.time() > self._opens
        await asyncio.sleep(0.1)
        if is_open:
            return Response(200, {}, b"{}", GOOD, 0.1)
        data = json.loads(self._body) if self._body.startswith(b"{") else None
        return Response(429, self._headers, self._body, data, 0.1)

    def run(self) -> None:
        run_virtually(self._processor.run(APIRequest({"model": "m", "n": n}) for n in range(100)), self.loop)


@pytest.mark.parametrize(("headers", "body", "seconds"), TOLD.values(), ids=TOLD)
def test_a_daily_limit_stops_the_run_in_any_wording(headers: dict[str, str], body: bytes, seconds: float) -> None:
    account = Account(headers, body)
    with pytest.raises(RateLimitedError, match="what was finished is kept"):
        account.run()
    assert all(result.status == "succeeded" for result in account.results)
    assert len(account.results) >= 48
    assert account.loop.time() < seconds + 3
    assert account.sends < 110


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"details": [{"quotaId": "GenerateRequestsPerDayPerProject"}, {"retryDelay": "17s"}]}}',
        b'{"error": {"message": "Limit of requests per day reached. Please try again in 8s."}}',
    ],
    ids=["in details", "in words"],
)
def test_a_daily_limit_stops_the_run_even_if_the_body_states_a_short_wait(body: bytes) -> None:
    """It is tried at the pace of a minute's limit until then, as one may be told in such words."""
    account = Account({}, body, max_wait=3600)
    with pytest.raises(RateLimitedError, match=r"Nothing was answered for .* s.*what was finished is kept"):
        account.run()
    assert all(result.status == "succeeded" for result in account.results)
    assert account.loop.time() < 120
    assert account.sends < 150


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"retry-after": "20"}, b"Slow down. Free accounts have 200 requests daily."),
        (of_a_day(0, "50s"), b"Too many requests; there is a daily limit too"),
        ({**MINUTE, "x-ratelimit-remaining-requests-day": "14000"}, b"Too many requests"),
        (of_a_day(0, "60000"), b""),  # milliseconds, perhaps
        (of_a_day(0, "-5", "-day"), b"Too many requests"),
    ],
)
def test_a_limit_that_only_sounds_like_a_daily_one_is_waited_out(headers: dict[str, str], body: bytes) -> None:
    account = Account(headers, body, opens=40.0)
    account.run()
    assert [result.status for result in account.results] == ["succeeded"] * 100


@pytest.mark.parametrize("told", ["0", "-1", "0.001"])
@pytest.mark.parametrize("all_of_them", [True, False], ids=["all", "one row"])
def test_a_rate_limit_with_a_negligible_wait_is_not_retried_at_once(told: str, all_of_them: bool) -> None:
    loop, results, sends = VirtualLoop(), list[Result](), 0

    async def send(request: APIRequest, lease: Any) -> Response:
        nonlocal sends
        sends += 1
        await asyncio.sleep(0.001)
        if all_of_them or request.request_json["n"] == 7:
            return Response(429, {"retry-after": told}, b"", None, 0.001)
        return Response(200, {}, b"{}", GOOD, 0.001)

    retry = RetryPolicy(max_wait=30)
    runner = Runner(send=send, limiter=Limiter(clock=loop.time), on_result=results.append, retry=retry, clock=loop.time)
    run_virtually(runner.run(APIRequest({"model": "m", "n": n}) for n in range(20)), loop)
    assert sum(result.status == "failed" for result in results) == (20 if all_of_them else 1)
    assert sends < (20 if all_of_them else 1) * 90 + 30
