"""Injected faults as an aiohttp client sees them, and scripted answers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import aiohttp
import pytest

from parallel_openai.local import simulator
from parallel_openai.local.simulator.faults.faults import FaultSampler

T = TypeVar("T")
HELLO: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Say hello."}]}


@pytest.fixture
def server() -> Iterator[simulator.Server]:
    with simulator.serve(max_requests_per_minute=None, refusal_latency=0.0) as running:
        yield running


def with_client(work: Callable[[aiohttp.ClientSession], Awaitable[T]]) -> T:
    async def run() -> T:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as client:
            return await work(client)

    return asyncio.run(run())


def ask(server: simulator.Server, body: dict[str, Any] = HELLO) -> tuple[int, Any, bytes]:
    async def post(client: aiohttp.ClientSession) -> tuple[int, Any, bytes]:
        async with client.post(f"{server.base_url}/chat/completions", json=body, allow_redirects=False) as response:
            return response.status, response.headers, await response.read()

    return with_client(post)


def ask_about(server: simulator.Server, *subjects: str) -> list[int]:
    """The statuses of different requests, sent in sequence."""

    async def post(client: aiohttp.ClientSession) -> list[int]:
        statuses = []
        for subject in subjects:
            body = {**HELLO, "messages": [{"role": "user", "content": subject}]}
            async with client.post(f"{server.base_url}/chat/completions", json=body) as response:
                statuses.append(response.status)
        return statuses

    return with_client(post)


def choice(body: bytes) -> Any:
    return json.loads(body)["choices"][0]


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("500", 500, None),
        ("503", 503, "server_is_overloaded"),
        ("429", 429, "rate_limit_exceeded"),
        ("slow_down", 429, "slow_down"),
    ],
)
def test_an_injected_error_has_its_status_and_code(
    server: simulator.Server, fault: str, status: int, code: str | None
) -> None:
    server.set(**{f"fault_{fault}": 1})
    got, _, body = ask(server)
    assert (got, json.loads(body)["error"]["code"]) == (status, code)
    assert server.stats()["faults"] == {fault: 1}


def test_a_bad_gateway_answers_with_a_page(server: simulator.Server) -> None:
    server.set(fault_502=1)
    status, headers, body = ask(server)
    assert (status, headers["content-type"]) == (502, "text/html; charset=utf-8")
    assert body.startswith(b"<!doctype html>")


@pytest.mark.parametrize("told", [True, False])
def test_a_429_without_cause_may_lack_retry_after(server: simulator.Server, told: bool) -> None:
    server.set(fault_429=1, fault_429_retry_after=told)
    assert ("retry-after" in ask(server)[1]) == told


def test_a_reset_connection_is_reset(server: simulator.Server) -> None:
    server.set(fault_reset=1)
    with pytest.raises(aiohttp.ClientOSError, match=r"reset|10054"):
        ask(server)


def test_a_hanging_request_never_answers_and_ends_with_the_client(server: simulator.Server) -> None:
    server.set(fault_hang=1)

    async def impatient(client: aiohttp.ClientSession) -> None:
        timeout = aiohttp.ClientTimeout(total=0.1)
        await client.post(f"{server.base_url}/chat/completions", json=HELLO, timeout=timeout)

    with pytest.raises(asyncio.TimeoutError):
        with_client(impatient)
    wait_until(lambda: server.stats()["disconnected"] == 1)
    assert server.stats()["in_flight"] == 0


def test_a_hanging_request_ends_after_the_set_time(server: simulator.Server) -> None:
    server.set(fault_hang=1, hang_seconds=0.01)
    with pytest.raises(aiohttp.ClientOSError):
        ask(server)


def test_a_truncated_answer_is_shorter_than_its_content_length(server: simulator.Server) -> None:
    server.set(fault_truncated=1)
    with pytest.raises(aiohttp.ClientPayloadError):
        ask(server)
    assert list(server.stats()["charged_undelivered"].values()) == [1]


def test_a_malformed_answer_is_cut_json(server: simulator.Server) -> None:
    server.set(fault_malformed=1)
    status, _, body = ask(server)
    assert status == 200
    with pytest.raises(json.JSONDecodeError):
        json.loads(body)


def test_an_error_can_come_with_status_200(server: simulator.Server) -> None:
    server.set(fault_error_in_200=1)
    status, _, body = ask(server)
    assert (status, list(json.loads(body))) == (200, ["error"])


def test_a_page_can_come_with_status_200(server: simulator.Server) -> None:
    server.set(fault_wrong_type=1)
    status, headers, _ = ask(server)
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")


def test_a_connection_can_close_after_a_good_answer(server: simulator.Server) -> None:
    server.set(fault_close_keepalive=1)

    async def twice(client: aiohttp.ClientSession) -> list[str | None]:
        closing = []
        for _ in range(2):
            async with client.post(f"{server.base_url}/chat/completions", json=HELLO) as response:
                await response.json()
                closing.append(response.headers.get("connection"))
            await asyncio.sleep(0.05)
        return closing

    assert with_client(twice) == [None, None]
    assert server.stats()["connections"] == 2
    assert server.stats()["answered"] == 2


def test_a_small_body_can_unpack_to_a_large_one(server: simulator.Server) -> None:
    server.set(fault_gzip_bomb=1)

    async def weigh(client: aiohttp.ClientSession) -> tuple[int, int]:
        async with client.post(f"{server.base_url}/chat/completions", json=HELLO) as response:
            return int(response.headers["content-length"]), len(await response.content.readexactly(30_000_000))

    packed, unpacked = with_client(weigh)
    assert packed < 1_000_000 < unpacked


def test_a_body_can_be_endless(server: simulator.Server) -> None:
    server.set(fault_endless=1)

    async def read(client: aiohttp.ClientSession) -> int:
        async with client.post(f"{server.base_url}/chat/completions", json=HELLO) as response:
            return len(await response.content.readexactly(1_000_000))

    assert with_client(read) == 1_000_000


def test_an_endless_body_ends_after_the_set_time(server: simulator.Server) -> None:
    server.set(fault_endless=1, hang_seconds=0.02)
    assert ask(server)[2].strip() == b""


def test_a_redirect_points_to_the_set_location(server: simulator.Server) -> None:
    server.set(fault_redirect=1, redirect_to="http://127.0.0.1:9/v1")
    status, headers, _ = ask(server)
    assert (status, headers["location"]) == (307, "http://127.0.0.1:9/v1")


@pytest.mark.parametrize(
    ("fault", "finish_reason", "content"),
    [("empty", "stop", ""), ("length", "length", ""), ("refusal", "stop", None)],
)
def test_an_answer_can_look_fine_and_be_empty(
    server: simulator.Server, fault: str, finish_reason: str, content: str | None
) -> None:
    server.set(**{f"fault_{fault}": 1})
    got = choice(ask(server)[2])
    assert (got["finish_reason"], got["message"]["content"]) == (finish_reason, content)
    assert (got["message"]["refusal"] is not None) == (fault == "refusal")


def test_reasoning_up_to_the_maximum_is_billed(server: simulator.Server) -> None:
    server.set(fault_length=1)
    usage = json.loads(ask(server, {**HELLO, "max_completion_tokens": 50})[2])["usage"]
    assert usage["completion_tokens"] == usage["completion_tokens_details"]["reasoning_tokens"] == 50


def test_a_filtered_answer_says_so(server: simulator.Server) -> None:
    server.set(fault_content_filter=1)
    assert choice(ask(server)[2])["finish_reason"] == "content_filter"


@pytest.mark.parametrize("field", [{"enum": ["a", "b"]}, {"type": "string"}])
def test_an_answer_can_violate_its_schema(server: simulator.Server, field: dict[str, Any]) -> None:
    server.set(fault_off_schema=1)
    schema = {"type": "object", "properties": {"label": field}}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    content = json.loads(choice(ask(server, {**HELLO, "response_format": wanted})[2])["message"]["content"])
    assert "(simulated) outside the schema" in content.values()


def test_text_that_violates_a_schema_says_so(server: simulator.Server) -> None:
    server.set(fault_off_schema=1)
    assert choice(ask(server)[2])["message"]["content"] == "(simulated) outside the schema"


def test_faults_do_not_depend_on_the_order_of_arrival(server: simulator.Server) -> None:
    server.set(fault_500=0.5)
    forward = ask_about(server, *"abcdefgh")
    server.reset()
    assert ask_about(server, *"hgfedcba") == forward[::-1]
    assert set(forward) == {200, 500}


def test_faults_have_the_set_frequency() -> None:
    dice = FaultSampler(simulator.Settings(fault_500=0.2, fault_reset=0.1))
    drawn = [dice.draw(b"%d" % number) for number in range(5000)]
    assert drawn.count("500") == pytest.approx(1000, rel=0.15)
    assert drawn.count("reset") == pytest.approx(500, rel=0.15)


def test_faults_can_be_limited_to_the_first_attempts(server: simulator.Server) -> None:
    server.set(fault_500=1, faulty_attempts=2)
    assert ask_about(server, "a", "a", "a") == [500, 500, 200]


@pytest.mark.parametrize(("charged", "left"), [(True, 9), (False, 10)])
def test_an_injected_5xx_may_count_against_the_limit(server: simulator.Server, charged: bool, left: int) -> None:
    server.set(fault_500=1, charge_failed=charged, max_requests_per_day=10, max_requests_per_minute=10)
    ask(server)
    assert server.stats()["levels"]["requests"] == pytest.approx(left, abs=0.2)


def test_credit_runs_out_after_the_given_number(server: simulator.Server) -> None:
    server.set(insufficient_quota_after=1)
    assert ask_about(server, "a", "b", "c") == [200, 429, 429]
    assert server.stats()["refused"] == {"insufficient_quota": 2}


def test_too_high_a_rate_gets_slow_down(server: simulator.Server) -> None:
    server.set(slow_down_above=2)
    assert ask_about(server, "a", "b", "c") == [200, 200, 429]
    assert server.stats()["refused"] == {"slow_down": 1}


def test_the_rate_that_counts_is_that_of_the_last_second(server: simulator.Server) -> None:
    server.set(slow_down_above=1)
    ask(server)
    time.sleep(1.05)
    assert ask(server)[0] == 200


def test_in_an_outage_connections_are_reset(server: simulator.Server) -> None:
    server.set(outage=(0, 60))
    with pytest.raises(aiohttp.ClientOSError):
        ask(server)
    assert server.stats()["faults"] == {"outage": 1}


def test_an_outage_cuts_off_what_is_in_flight(server: simulator.Server) -> None:
    server.set(outage=(server.stats()["seconds"] + 0.1, 60), latency=0.2)
    with pytest.raises(aiohttp.ClientOSError):
        ask(server)


def test_after_an_outage_it_goes_on(server: simulator.Server) -> None:
    server.set(outage=(0, 0.01))
    time.sleep(0.02)
    assert ask(server)[0] == 200


def test_a_client_that_disconnects_is_billed_all_the_same(server: simulator.Server) -> None:
    server.set(latency=5)

    async def impatient(client: aiohttp.ClientSession) -> None:
        timeout = aiohttp.ClientTimeout(total=0.1)
        await client.post(f"{server.base_url}/chat/completions", json=HELLO, timeout=timeout)

    with pytest.raises(asyncio.TimeoutError):
        with_client(impatient)
    wait_until(lambda: server.stats()["disconnected"] == 1)
    assert list(server.stats()["charged_undelivered"].values()) == [1]


def test_the_server_counts_connections_and_what_is_in_flight(server: simulator.Server) -> None:
    server.set(latency=0.1)

    async def at_once(client: aiohttp.ClientSession) -> None:
        async def one() -> None:
            async with client.post(f"{server.base_url}/chat/completions", json=HELLO) as response:
                await response.read()

        await asyncio.gather(*(one() for _ in range(5)))

    with_client(at_once)
    stats = server.stats()
    assert (stats["connections"], stats["max_in_flight"], stats["in_flight"]) == (5, 5, 0)


def test_a_script_answers_in_order_and_then_as_usual(server: simulator.Server) -> None:
    server.script([429, 500, 200])
    assert ask_about(server, "a", "b", "c", "d") == [429, 500, 200, 200]
    assert server.stats()["scripted"] == 3


def test_a_script_can_match_a_string(server: simulator.Server) -> None:
    server.script([503], matching='"Zürich"')
    assert ask_about(server, "Bern", 'In "Zürich"', 'In "Zürich"') == [200, 503, 200]


def test_a_scripted_answer_can_have_a_body_of_its_own(server: simulator.Server) -> None:
    server.script([{"body": {"choices": []}}, {"body": b"\xff", "headers": {"Content-Type": "x/y"}}, {"body": "text"}])
    bodies = [ask(server) for _ in range(3)]
    assert [body for _, _, body in bodies] == [b'{"choices":[]}', b"\xff", b"text"]
    assert bodies[1][1]["content-type"] == "x/y"


def test_a_scripted_error_can_have_a_code_a_message_and_headers(server: simulator.Server) -> None:
    server.script([{"status": 429, "code": "slow_down", "message": "Slower.", "headers": {"Retry-After": "0.5"}}])
    status, headers, body = ask(server)
    assert (status, headers["retry-after"]) == (429, "0.5")
    assert (json.loads(body)["error"]["code"], json.loads(body)["error"]["message"]) == ("slow_down", "Slower.")


def test_a_scripted_error_can_have_a_body_of_its_own(server: simulator.Server) -> None:
    server.script([{"status": 500, "body": ""}])
    assert ask(server)[::2] == (500, b"")


def test_a_script_that_matches_a_string_ignores_invalid_json(server: simulator.Server) -> None:
    server.script([503], matching="Bern")

    async def post(client: aiohttp.ClientSession) -> int:
        async with client.post(f"{server.base_url}/chat/completions", data=b"Bern") as response:
            return response.status

    assert with_client(post) == 503


def test_a_scripted_answer_can_lack_a_header(server: simulator.Server) -> None:
    server.script([{"headers": {"x-request-id": None}}])
    assert "x-request-id" not in ask(server)[1]


def test_a_scripted_answer_can_have_a_fault_and_a_latency(server: simulator.Server) -> None:
    server.script([{"fault": "empty", "latency": 0.03}])
    start = time.monotonic()
    assert choice(ask(server)[2])["message"]["content"] == ""
    assert time.monotonic() - start >= 0.025


def test_a_scripted_error_can_have_a_latency(server: simulator.Server) -> None:
    server.script([{"status": 500, "latency": 0.03}])
    start = time.monotonic()
    assert ask(server)[0] == 500
    assert time.monotonic() - start >= 0.025


@pytest.mark.parametrize("answer", [{"statsu": 200}, {"fault": "earthquake"}, "ok"])
def test_an_invalid_script_is_refused(server: simulator.Server, answer: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        server.script([answer])


def wait_until(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not fact():
        assert time.monotonic() < deadline, "It never came true."
        time.sleep(0.01)
