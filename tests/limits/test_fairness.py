"""The order of sending: retries alternate with fresh rows, and no window exceeds the budget."""

from __future__ import annotations

import asyncio
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_openai._limits.limiter import Limiter
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._records import APIRequest, Response, Result, Size, Usage
from parallel_openai._run.response_verdict import RetryPolicy
from parallel_openai._run.runner import Runner
from tests.limits.virtual import GOOD, VirtualLoop, run_virtually


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(40, 120), failing=st.floats(0.1, 0.9), rate=st.integers(60, 1200), seed=st.integers(0, 99))
def test_retries_and_fresh_rows_alternate(rows: int, failing: float, rate: int, seed: int) -> None:
    """Some rows fail three times before they are answered; neither they nor the others wait for the end."""
    loop, chance = VirtualLoop(), random.Random(seed)
    broken = {n for n in range(rows) if chance.random() < failing}
    sends: list[int] = []
    results: list[Result] = []

    async def send(request: APIRequest, lease: object) -> Response:
        number = request.request_json["n"]
        sends.append(number)
        await asyncio.sleep(chance.uniform(0.05, 0.5))
        if number in broken and sends.count(number) <= 3:
            return Response(500, {}, b"", {"error": {"message": "x"}}, 0.1)
        return Response(200, {}, b"{}", GOOD, 0.1)

    processor = Runner(
        send=send,
        limiter=Limiter(rate, burst=1.0, clock=loop.time),
        on_result=results.append,
        retry=RetryPolicy(first_backoff=0.1, max_backoff=1.0, random=chance.random),
        clock=loop.time,
    )
    run_virtually(processor.run(APIRequest({"n": n}) for n in range(rows)), loop)

    assert [result.status for result in results] == ["succeeded"] * rows
    seen: set[int] = set()
    retries_in_row = most_in_row = 0
    for number in sends:
        retries_in_row = retries_in_row + 1 if number in seen else 0
        seen.add(number)
        if len(seen) < rows:
            most_in_row = max(most_in_row, retries_in_row)
    assert most_in_row <= 1  # as long as fresh rows wait, no two retries go one after the other


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(5, 80),
    requests=st.floats(30, 3000),
    tokens=st.floats(3000, 300_000),
    burst=st.floats(0.5, 60),
    latency=st.floats(0.01, 20),
    seed=st.integers(0, 999),
)
def test_no_window_exceeds_the_limit_while_answers_arrive(
    rows: int, requests: float, tokens: float, burst: float, latency: float, seed: int
) -> None:
    loop, chance = VirtualLoop(), random.Random(seed)
    limiter = Limiter(requests, tokens, burst=burst, clock=loop.time)
    sent: list[tuple[float, float]] = []

    async def one(size: Size) -> None:
        lease = await limiter.acquire(size)
        sent.append((loop.time(), float(size.prompt_tokens + (size.max_output_tokens or 0))))
        await asyncio.sleep(latency * chance.lognormvariate(0, 1))
        output = chance.randint(1, size.max_output_tokens or 1)
        if chance.random() < 0.1:
            limiter.unanswered(lease)
        else:
            limiter.answered(lease, {}, Usage(size.prompt_tokens, output) if chance.random() < 0.8 else None)

    async def all_of_them() -> None:
        await asyncio.gather(
            *(one(Size(p := chance.randint(1, 400), 4 * p, chance.randint(1, 400), 1)) for _ in range(rows))
        )

    run_virtually(all_of_them(), loop, within=1e7)
    assert limiter.in_flight == 0
    room, token_room = max(1.0, requests / 60 * burst), max(1.0, tokens / 60 * burst)
    for first in range(rows):
        charged = 0.0
        for last in range(first, rows):
            at, cost = sent[last]
            span = at - sent[first][0] + 0.011
            assert last - first + 1 <= room + requests / 60 * span + 1e-6
            if charged > 0:  # one larger than the window is let through when the window is whole, and paid off then
                assert charged + min(cost, token_room) <= token_room + tokens / 60 * span + 1e-6
            charged = charged + cost if cost <= token_room else float("-inf")


def test_retries_due_almost_together_do_not_starve_the_event_loops_timers() -> None:
    """Less apart than a loop's clock resolves, so that it would ring, find nothing due, and ring again."""
    loop, waits = VirtualLoop(), iter(["500", "500.0000005"])
    results: list[Result] = []

    async def send(request: APIRequest, lease: object) -> Response:
        await asyncio.sleep(0.1)
        wait = next(waits, None)
        if wait is not None:
            return Response(500, {"retry-after-ms": wait}, b"", {"error": {"message": "x"}}, 0.1)
        return Response(200, {}, b"{}", GOOD, 0.1)

    retry = RetryPolicy(first_backoff=0.0)
    limiter = Limiter(clock=loop.time)
    processor = Runner(send=send, limiter=limiter, on_result=results.append, retry=retry, clock=loop.time)
    run_virtually(processor.run(APIRequest({"n": n}) for n in range(2)), loop)
    assert [result.status for result in results] == ["succeeded"] * 2


def test_results_of_one_loop_iteration_are_written_before_the_next_send() -> None:
    """Else a kill would find answers unwritten besides the requests that are in flight."""
    loop = VirtualLoop()
    unwritten: list[Result] = []
    most: list[int] = []

    async def send(request: APIRequest, lease: object) -> Response:
        most.append(len(unwritten) + status.num_tasks_in_progress)
        await asyncio.sleep(0.1)
        return Response(200, {}, b"{}", GOOD, 0.1)

    def take(result: Result) -> None:
        unwritten.append(result)
        loop.call_soon(unwritten.clear)

    status, limiter = StatusTracker(), Limiter(6e9, clock=loop.time)
    processor = Runner(
        send=send, limiter=limiter, on_result=take, status=status, max_concurrent_requests=4, clock=loop.time
    )
    run_virtually(processor.run(APIRequest({"n": n}) for n in range(60)), loop)
    assert max(most) == 4
