"""Statuses, headers and bodies of all makes, thrown together: each run ends in answers, rows' errors or a sentence.

Never in a hang, a crash, an answer that is lost or one that is asked for twice. A longer look, with other seeds:
`python -m tests.reliability.test_whatever_is_answered 200000`
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from typing import Any

import pytest

from parallel_openai import APIRequest
from parallel_openai._journal.lines import parse_line
from parallel_openai._journal.resume import result_line
from parallel_openai._json import dumps
from parallel_openai._limits.limiter import Limiter
from parallel_openai._records import Response, Result
from parallel_openai._run.retry import RetryPolicy
from parallel_openai._run.runner import Processor
from parallel_openai.errors import RunStoppedError
from tests.limits.virtual import VirtualLoop, run_virtually

ROWS = 25
RESPONSES = 5_000
STATUSES = [200] * 6 + [
    *(201, 202, 204, 301, 307, 400, 401, 402, 403, 404, 405, 408, 409, 413, 415, 418, 422, 423, 424, 425, 429, 429),
    *(446, 451, 498, 499, 500, 500, 501, 502, 503, 503, 504, 520, 522, 524, 529, 530, 599, 999),
]
CODES: list[Any] = [
    *(None, 0, 400, 404, 429, "429", 500, 503, True, -1, 10**30, [], {}, "rate_limit_exceeded", "overloaded_error"),
    *(
        "insufficient_quota",
        "model_not_found",
        "unknown_parameter",
        "context_length_exceeded",
        "slow_down",
        "server_busy",
    ),
]
MESSAGES: list[Any] = [
    *(None, "", 5, ["x"], "\ufffd", "x" * 5000, "Your input was flagged", "Limit of 50 requests per day reached."),
    *("Try again in 1m12s.", "Please retry after 9999999999999999 s", "Model is loading", "No capacity", "too long"),
    *(
        "Unknown parameter: 'temperature'.",
        "The model `m` does not exist",
        "input is too large to process",
        "line\nend",
    ),
]
PARAMS: list[Any] = [None, "temperature", "model", "messages[0].content", 7, {"a": 1}]
VALUES = ["0", "1", "-1", "0.5", "30", "1e400", "nan", "unlimited", "", "1s", "6m0s", "Wed, 21 Oct 2026 07:28:00 GMT"]
HEADERS = [
    *("retry-after", "retry-after-ms", "x-should-retry", "x-ratelimit-limit-requests", "x-ratelimit-remaining-tokens"),
    *("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests", "x-ratelimit-limit-tokens", "content-type"),
]
ODD: list[Any] = [None, [], {}, "text", 7, True, [None], [{}], {"a": 1}, "<html><title>Log in</title></html>"]
BROKEN = ["connection_error", "timeout", "connection_refused", "tls_error", "response_too_large", "dns_error"]


def error(chance: random.Random) -> Any:
    made = {
        "message": chance.choice(MESSAGES),
        "code": chance.choice(CODES),
        "type": chance.choice(CODES),
        "param": chance.choice(PARAMS),
    }
    return chance.choice([made, made, {"metadata": {"raw": made}, "message": "Provider error"}, *ODD])


def data(chance: random.Random) -> Any:
    half = {"message": {"content": "Hal"}, "finish_reason": chance.choice(["error", "abort", "load", "length", 7])}
    return chance.choice(
        [
            *({"error": error(chance)} for _ in range(4)),
            [{"error": error(chance)}],
            {"detail": error(chance)},
            {"base_resp": {"status_code": chance.choice(CODES), "status_msg": chance.choice(MESSAGES)}},
            {"status": "failure", "message": chance.choice(MESSAGES)},
            {"choices": chance.choice(ODD)},
            {"choices": [half]},
            *ODD,
        ]
    )


def whatever(chance: random.Random) -> Response:
    if chance.random() < 0.1:
        code = chance.choice(BROKEN)
        return Response(0, {}, b"", None, 0.1, code, f"It broke ({code}).")
    headers = {chance.choice(HEADERS): chance.choice(VALUES) for _ in range(chance.choice([0, 0, 1, 3]))}
    body = data(chance)
    status = chance.choice(STATUSES)
    return Response(status if status < 201 or status > 203 else 200, headers, json.dumps(body).encode(), body, 0.1)


def live(seed: int) -> int:
    """One run against a server of a few such answers beside good ones; gives how many it has given."""
    chance, loop = random.Random(seed), VirtualLoop()
    kinds, share = [whatever(chance) for _ in range(chance.choice([1, 2, 5]))], chance.choice([0.1, 0.5, 0.9, 1.0])
    results: list[Result] = []
    paid: dict[int, int] = {}
    given = 0

    async def send(request: APIRequest, lease: object) -> Response:
        nonlocal given
        given += 1
        number = request.request_json["n"]
        assert number not in paid, f"seed {seed}: row {number} is asked for although it is answered"
        bad = chance.random() < share
        if not bad:
            paid[number] = given
        await asyncio.sleep(chance.choice([0.01, 0.1, 2.0]))
        good = {
            "choices": [{"message": {"content": f"{number}"}}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1},
        }
        return chance.choice(kinds) if bad else Response(200, {}, dumps(good), good, 0.1)

    retry = RetryPolicy(random=chance.random)
    processor = Processor(
        send=send, limiter=Limiter(clock=loop.time), on_result=results.append, retry=retry, clock=loop.time
    )
    rows = (APIRequest({"model": "m", "temperature": 0.5, "n": n}) for n in range(ROWS))
    said = ""
    try:
        run_virtually(processor.run(rows), loop, within=200_000)
    except RunStoppedError as stop:
        said = str(stop)
    assert len(said) > 20 or len(results) == ROWS, f"seed {seed}: {len(results)} of {ROWS} rows have an end; {said!r}"
    assert said.isprintable(), f"seed {seed}: {said!r}"
    check(seed, results, paid)
    return given


def check(seed: int, results: list[Result], paid: dict[int, int]) -> None:
    ends = {result.request.request_json["n"]: result for result in results}
    assert len(ends) == len(results), f"seed {seed}: a row has two ends"
    for number in paid:
        assert ends[number].status == "succeeded", f"seed {seed}: the answer to row {number} is lost"
        assert ends[number].response["choices"][0]["message"]["content"] == str(number)
    for result in results:
        assert (result.status == "failed") == bool(result.error_code and result.error), f"seed {seed}: {result}"
        assert parse_line(result_line(result, record=True)) is not None, f"seed {seed}: {result}"


def look(first_seed: int, responses: int) -> None:
    seed = first_seed
    while responses > 0:
        responses -= live(seed)
        seed += 1


@pytest.mark.parametrize("part", range(2))
def test_whatever_is_answered_a_run_ends_well(part: int) -> None:
    look(part * 10_000, RESPONSES // 2)


if __name__ == "__main__":
    look(random.randrange(10**9), int(sys.argv[1]))
