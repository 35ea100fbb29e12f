"""An overloaded or absent server costs time but no rows; a row that alone is refused fails. In virtual time."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import pytest

from parallel_openai import APIRequest
from parallel_openai._limits.limiter import Limiter
from parallel_openai._records import Response, Result
from parallel_openai._run.response_verdict import RetryPolicy
from parallel_openai._run.runner import Runner
from parallel_openai.errors import RateLimitedError, RequestRefusedError, RunStoppedError
from tests.limits.virtual import GOOD, VirtualLoop, run_virtually

HTML = b"<html><head><title>502 Bad Gateway</title></head></html>"


def said(status: int, error: Any = None, **headers: str) -> Response:
    return Response(status, headers, HTML if error is None else b"{}", None if error is None else {"error": error}, 0.1)


AWAY: dict[str, Response] = {
    **{str(status): said(status) for status in (423, 424, 425, 429, 498, 499, 502, 503, 504, 520, 524, 529, 530)},
    "a status in a 200": said(200, {"code": 503, "message": "x"}),
    "busy in a 200": said(200, {"type": "overloaded_error", "message": "x"}),
    "a limit in a 200": said(200, {"code": "rate_limit_exceeded", "message": "x"}),
    "loading": said(500, {"message": "Model is loading"}),
    "no capacity": said(200, {"message": "No capacity at the moment"}),
}


class Scene:
    """A run against a server that says what `answer` says of a row's number and the moment."""

    seconds, refused_after = 1.0, 0.05

    def __init__(self, answer: Callable[[int, float], Response | None], rows: int = 40, **options: Any) -> None:
        self.loop, self.results, self.sends = VirtualLoop(), list[Result](), list[tuple[float, int]]()
        self._answer = answer
        chance = random.Random(1)
        self.processor = Runner(
            send=self._send,
            limiter=Limiter(clock=self.loop.time),
            on_result=self.results.append,
            retry=RetryPolicy(random=chance.random, **options),
            clock=self.loop.time,
        )
        self._rows = rows

    async def _send(self, request: APIRequest, lease: object) -> Response:
        number = request.request_json["n"]
        self.sends.append((self.loop.time(), number))
        answer = self._answer(number, self.loop.time())
        await asyncio.sleep(self.seconds if answer is None else self.refused_after)
        return answer or Response(200, {}, b"{}", GOOD, self.seconds)

    def run(self, models: int = 1) -> Scene:
        requests = (APIRequest({"model": f"m{n % models}", "n": n}) for n in range(self._rows))
        run_virtually(self.processor.run(requests), self.loop)
        return self

    @property
    def statuses(self) -> Counter[str]:
        return Counter(result.status for result in self.results)


@pytest.mark.parametrize("seconds", [30, 600])
@pytest.mark.parametrize("begins", [0, 2], ids=["from the start", "in mid-run"])
@pytest.mark.parametrize("kind", AWAY)
def test_an_outage_loses_no_rows(kind: str, begins: float, seconds: float) -> None:
    scene = Scene(lambda n, now: AWAY[kind] if begins <= now < begins + seconds else None).run()
    assert scene.statuses == {"succeeded": 40}
    assert scene.loop.time() < begins + 2 * seconds + 70
    if kind != "429":  # the limiter finds its pace
        assert len(scene.sends) < 40 + 60


def test_during_an_outage_one_request_at_a_time_is_sent_as_a_probe() -> None:
    scene = Scene(lambda n, now: AWAY["503"] if now < 600 else None, rows=200).run()
    moments = [at for at, _ in scene.sends if 5 < at < 600]
    assert all(later - sooner > 0.5 for sooner, later in itertools.pairwise(moments))
    assert 8 < len(moments) < 40
    assert scene.statuses == {"succeeded": 200}


@pytest.mark.parametrize("code", ["connection_refused", "connect_timeout", "dns_error", "tls_error", "proxy_error"])
def test_a_server_that_cannot_be_reached_in_mid_run_is_tried_by_one_request_at_a_time(code: str) -> None:
    unreached = Response(0, {}, b"", None, 0.05, code, "No connection.")
    scene = Scene(lambda n, now: unreached if 2 <= now < 302 else None, rows=2000).run()
    assert scene.statuses == {"succeeded": 2000}
    assert len(scene.sends) < 2000 + 60
    assert scene.loop.time() < 400


class SlowScene(Scene):
    """An answer takes half a minute to a minute, a refusal no time."""

    async def _send(self, request: APIRequest, lease: object) -> Response:
        response = await super()._send(request, lease)
        if response.status == 200:
            await asyncio.sleep(30.0 + request.request_json["n"] % 30)
        return response


def test_slow_answers_from_before_an_outage_do_not_end_it() -> None:
    scene = SlowScene(lambda n, now: AWAY["503"] if 10 <= now < 300 else None, rows=2000).run()
    assert sum(40 < at < 300 for at, _ in scene.sends) < 40
    assert scene.statuses == {"succeeded": 2000}


@pytest.mark.parametrize("kind", ["500", "529", "503", "busy in a 200", "loading"])
@pytest.mark.parametrize("bad", [{7}, {0}, {39}, {3, 20, 21, 38}], ids=str)
def test_a_row_refused_while_others_are_answered_fails_after_max_attempts(kind: str, bad: set[int]) -> None:
    refusal = AWAY.get(kind) or said(500, {"message": "x"})
    scene = Scene(lambda n, now: refusal if n in bad else None, rows=400).run()
    failed = [result for result in scene.results if result.status == "failed"]
    assert {result.request.request_json["n"] for result in failed} == bad
    assert all(5 <= len(result.attempts) <= 8 for result in failed)
    assert scene.loop.time() < 120


def test_the_last_row_fails_if_it_always_breaks_the_server() -> None:
    scene = Scene(lambda n, now: said(500, {"message": "x"}), rows=1).run()
    assert [(result.error_code, len(result.attempts)) for result in scene.results] == [("http_500", 5)]


def test_a_request_asked_to_wait_longer_than_max_wait_blocks_no_other() -> None:
    endless = said(503, {"message": "Please retry after 999999999 s"})
    scene = Scene(lambda n, now: endless if n < 5 else None).run()
    assert scene.statuses == {"failed": 5, "succeeded": 35}
    assert scene.loop.time() < 60


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4])
def test_random_refusals_among_answers_lose_no_rows(share: float) -> None:
    chance = random.Random(2)
    scene = Scene(lambda n, now: AWAY["503"] if chance.random() < share else None, rows=600).run()
    assert scene.statuses["succeeded"] >= 600 - 6 * (share > 0.3)
    assert scene.loop.time() < 60


class UnevenScene(Scene):
    """An answer takes a second or so: few of them come in together."""

    async def _send(self, request: APIRequest, lease: object) -> Response:
        response = await super()._send(request, lease)
        if response.status == 200:
            await asyncio.sleep(random.Random(self.loop.time()).expovariate(2.0))
        return response


@pytest.mark.parametrize("scene", [Scene, UnevenScene])
@pytest.mark.parametrize("share", [0.05, 0.1])
def test_random_refusals_are_soon_distinguished_from_a_full_server(scene: type[Scene], share: float) -> None:
    def seconds(share: float) -> float:
        chance = random.Random(1)
        run = scene(lambda n, now: AWAY["503"] if chance.random() < share else None, rows=3000).run()
        return run.loop.time()

    assert seconds(share) <= 1.25 * seconds(0.0)


class QuickScene(Scene):
    seconds, refused_after = 0.25, 0.003


@pytest.mark.parametrize("kind", ["503", "529", "busy in a 200"])
def test_a_rate_limit_that_is_told_as_overload_is_found(kind: str) -> None:
    arrivals = deque[float]()

    def limit(n: int, now: float) -> Response | None:
        while arrivals and arrivals[0] <= now - 1.0:
            arrivals.popleft()
        arrivals.append(now)
        return AWAY[kind] if len(arrivals) > 20 else None

    scene = QuickScene(limit, rows=600).run()
    assert scene.statuses == {"succeeded": 600}
    assert len(scene.sends) <= 600 + 150
    assert scene.loop.time() <= 65


BROKEN = said(500, {"message": "The server had an error.", "type": "server_error"})


@pytest.mark.parametrize("seconds", [5, 30, 100])
@pytest.mark.parametrize("begins", [0, 2], ids=["from the start", "in mid-run"])
def test_a_server_that_breaks_at_everything_for_a_while_costs_time_and_no_rows(begins: float, seconds: float) -> None:
    scene = Scene(lambda n, now: BROKEN if begins <= now < begins + seconds else None, rows=2000).run()
    assert scene.statuses == {"succeeded": 2000}
    assert scene.loop.time() < begins + 2 * seconds + 70
    assert len(scene.sends) < 2000 + 600


def test_rows_that_break_the_server_at_the_end_of_a_run_fail_within_minutes() -> None:
    scene = Scene(lambda n, now: BROKEN if n >= 390 else None, rows=400).run()
    assert scene.statuses == {"succeeded": 390, "failed": 10}
    assert scene.loop.time() < 300


@pytest.mark.parametrize("broken", [BROKEN, said(200, {"message": "Login fails."})], ids=["500", "within a 200"])
def test_a_server_that_breaks_at_everything_for_ever_stops_the_run(broken: Response) -> None:
    scene = Scene(lambda n, now: broken, rows=20_000)
    with pytest.raises(RequestRefusedError, match="Nothing was answered, and 5 requests were refused alike"):
        scene.run()
    assert len(scene.sends) < 4000
    assert scene.loop.time() < 300


def test_a_model_that_nobody_serves_stops_the_run_although_it_is_told_with_a_503() -> None:
    nobody = said(503, {"message": "No available channel for model m0 under group default", "code": "model_not_found"})
    scene = Scene(lambda n, now: nobody, rows=400)
    with pytest.raises(RequestRefusedError, match='Check model="m0"'):
        scene.run()
    assert len(scene.sends) < 20
    assert Scene(lambda n, now: nobody if 3 < now < 100 else None, rows=2000).run().statuses == {"succeeded": 2000}


def test_an_outage_of_one_of_two_models_loses_no_rows() -> None:
    scene = Scene(lambda n, now: AWAY["503"] if n % 2 and now < 300 else None, rows=60).run(models=2)
    assert scene.statuses == {"succeeded": 60}


@pytest.mark.parametrize("kind", ["429", "503", "529", "a limit in a 200", "busy in a 200"])
def test_after_half_an_hour_without_a_success_the_run_stops(kind: str) -> None:
    scene = Scene(lambda n, now: AWAY[kind] if now > 3 else None, rows=2000)
    with pytest.raises(RunStoppedError, match=r"no good answer for 1,8\d\d s.*again later, what was finished is kept"):
        scene.run()
    assert "failed" not in scene.statuses
    assert scene.statuses["succeeded"] > 5


def test_the_time_before_giving_up_can_be_set() -> None:
    scene = Scene(lambda n, now: AWAY["503"], give_up_after=20)
    with pytest.raises(RunStoppedError, match=r"The last one was: HTTP 503.*Client\(give_up_after=...\) waits longer"):
        scene.run()
    assert 20 < scene.loop.time() < 60
    assert not scene.results


@pytest.mark.parametrize(
    "message",
    [
        "Limit of 50 requests per day reached.",
        "Daily limit reached",
        "Quota (RPD) used up",
        "Quota exceeded for metric: generate_requests_per_model_per_day, limit: 50",
        "Quota exceeded: GenerateRequestsPerDayPerProjectPerModel-FreeTier",
        "Rate limit: 200 / day",
        "You have made 50 requests per month.",
        "24-hour request quota exceeded",
        "Your weekly limit is used up.",
    ],
)
def test_a_daily_limit_without_a_wait_stops_the_run_at_once(message: str) -> None:
    answers = Counter[str]()

    def answer(n: int, now: float) -> Response | None:
        answers["all"] += 1
        return said(429, {"message": message}) if answers["all"] > 50 else None

    scene = Scene(answer, rows=200)
    with pytest.raises(RateLimitedError, match="again when it begins anew: what was finished is kept"):
        scene.run()
    assert scene.statuses["succeeded"] >= 50
    assert len(scene.sends) < 200


@pytest.mark.parametrize(
    "text",
    [
        "Limits are 5 requests per minute and 500 per day.",
        "Quota exceeded: GenerateRequestsPerMinutePerProject, of RequestsPerDayPerProject",
        "requests_per_minute, requests_per_day",
        "Too many requests. Upgrade to the monthly plan, for 20 USD per month.",
        "Slow down, or use the Batch API with its 24h window instead.",
    ],
)
def test_a_limit_per_minute_whose_message_mentions_the_day_is_waited_out(text: str) -> None:
    scene = Scene(lambda n, now: said(429, {"message": text}) if now < 20 else None).run()
    assert scene.statuses == {"succeeded": 40}
