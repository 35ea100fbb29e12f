"""Which requests have their tokens counted: all if a limit depends on it, otherwise a few."""

from __future__ import annotations

import asyncio

import pytest

from parallel_openai._limits.limiter import Limiter
from parallel_openai._limits.sizes import COUNTED, EVERY, Sizes
from parallel_openai._records import APIRequest, Response, Result, Size
from parallel_openai._run.response_verdict import RetryPolicy
from parallel_openai._run.runner import Runner
from tests.limits.virtual import GOOD, VirtualLoop, run_virtually

ROWS = COUNTED + 50 * EVERY
REFUSED = {"error": {"code": "rate_limit_exceeded", "message": "Too fast."}}


def counted_of(rows: int, *, max_tokens_per_minute: float | None = None, refuse: int = -1) -> int:
    """How many of the rows were counted in a run; the send of that number is refused."""
    loop, results, counted, sends = VirtualLoop(), [], 0, 0

    def measure(request: APIRequest) -> Size:
        nonlocal counted
        counted += 1
        return Size(10, 40, 16, 1)

    async def send(request: APIRequest, lease: object) -> Response:
        nonlocal sends
        sends += 1
        refused = sends == refuse
        await asyncio.sleep(0.1)
        return Response(429, {}, b"", REFUSED, 0.1) if refused else Response(200, {}, b"{}", GOOD, 0.1)

    def request(number: int) -> APIRequest:
        made = APIRequest({"model": "m", "n": number})
        made.measure = measure
        return made

    taken: list[Result] = results
    processor = Runner(
        send=send,
        limiter=Limiter(None, max_tokens_per_minute, clock=loop.time),
        on_result=taken.append,
        retry=RetryPolicy(random=lambda: 0.5),
        clock=loop.time,
    )
    run_virtually(processor.run(map(request, range(rows))), loop)
    assert [result.status for result in taken] == ["succeeded"] * rows
    return counted


def test_without_a_token_limit_few_requests_are_counted() -> None:
    assert 0.9 * COUNTED < counted_of(ROWS) <= COUNTED + 50


def test_with_a_token_limit_every_request_is_counted() -> None:
    assert counted_of(ROWS, max_tokens_per_minute=1e6) == ROWS


def test_after_a_refusal_every_request_is_counted() -> None:
    assert counted_of(ROWS, refuse=2) == ROWS


def test_the_estimated_size_follows_the_rows() -> None:
    sizes = Sizes()
    for length in [100] * COUNTED + [400] * 100 * EVERY:
        request = APIRequest({"prompt": "x" * length})
        request.measure = lambda request: Size(len(request.body) // 4, len(request.body), 20, 2)
        size = sizes.of(request, exactly=False)
    assert size.prompt_tokens == pytest.approx(len(request.body) / 4, rel=0.02)
    assert size.characters == pytest.approx(len(request.body), rel=0.02)
    assert (size.max_output_tokens, size.choices) == (20, 2)


def test_a_known_size_is_not_estimated() -> None:
    sizes = Sizes()
    for tokens in range(COUNTED + 5):
        request = APIRequest({"prompt": "x"})
        request.size = Size(tokens, 4 * tokens, None, 1)
        assert sizes.of(request, exactly=False) == request.size
