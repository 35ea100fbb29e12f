"""Headers that contradict what the server has just accepted do not slow a run down."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from parallel_openai._limits.limiter import Limiter
from parallel_openai._records import APIRequest, Response, Result, Size
from parallel_openai._run.response_verdict import RetryPolicy
from parallel_openai._run.runner import Runner
from parallel_openai.errors import RateLimitedError
from tests.limits.virtual import GOOD, VirtualLoop, run_virtually


class Gateway:
    """Shows the same figures on each answer, and takes `limit` requests or tokens an hour, or whatever comes."""

    def __init__(self, dimension: str, figures: tuple[str, str, str | None], *, takes: float = float("inf")) -> None:
        self.loop, self.results, self.refused = VirtualLoop(), list[Result](), 0
        names = ("limit", "remaining", "reset")
        told = {name: text for name, text in zip(names, figures, strict=True) if text is not None}
        self._headers = {f"x-ratelimit-{name}-{dimension}": text for name, text in told.items()}
        self._left = takes
        self.limiter = Limiter(clock=self.loop.time)

    async def send(self, request: APIRequest, lease: Any) -> Response:
        await asyncio.sleep(0.1)
        if self._left < 1:
            self.refused += 1
            return Response(429, {**self._headers, "retry-after": "3600"}, b"", {"error": {"message": "No."}}, 0.1)
        self._left -= 1
        return Response(200, self._headers, b"{}", GOOD, 0.1)

    def run(self, rows: int = 300, small: int = 0, **options: Any) -> None:
        requests = [APIRequest({"model": "m", "n": n}) for n in range(rows)]
        for number, request in enumerate(requests):
            prompt_tokens = 5 if number < small else 50
            request.size = Size(prompt_tokens, characters=200, max_output_tokens=20, choices=1)
        processor = Runner(
            send=self.send,
            limiter=self.limiter,
            on_result=self.results.append,
            retry=RetryPolicy(**options),
            clock=self.loop.time,
        )
        run_virtually(processor.run(requests), self.loop)


@pytest.mark.parametrize("dimension", ["requests", "tokens"])
@pytest.mark.parametrize(
    "figures",
    [
        ("1", "0", "3600s"),
        ("1", "0", None),
        ("1", "0", "60s"),
        ("3", "0", "20s"),
        ("3", "0", "8h"),
        ("100", "0", "3600s"),
        ("100", "0", "24h"),
        ("100", "0", None),
    ],
    ids=str,
)
@pytest.mark.parametrize("options", [{}, {"max_wait": 10}], ids=str)
def test_a_limit_always_shown_as_used_up_is_ignored(
    dimension: str, figures: tuple[str, str, str | None], options: dict[str, Any]
) -> None:
    gateway = Gateway(dimension, figures)
    gateway.run(**options)
    assert [result.status for result in gateway.results] == ["succeeded"] * 300
    assert gateway.loop.time() < 30


@pytest.mark.parametrize("dimension", ["requests", "tokens"])
@pytest.mark.parametrize(
    "figures",
    [("1", "1", None), ("1", "1", "0s"), ("1", "1", "1s"), ("1", "1", "60s"), ("3", "3", "20s"), ("2", "1", "30s")],
    ids=str,
)
def test_a_limit_is_ignored_once_more_was_accepted_than_it_allows(
    dimension: str, figures: tuple[str, str, str | None]
) -> None:
    gateway = Gateway(dimension, figures)
    gateway.run()
    assert [result.status for result in gateway.results] == ["succeeded"] * 300
    assert gateway.loop.time() < 30


@pytest.mark.parametrize("small", [1, 3])
def test_no_prompt_is_too_large_for_a_limit_below_what_is_accepted(small: int) -> None:
    """The small ones are answered first, and those that were sent together with them a moment later."""
    gateway = Gateway("tokens", ("10", "10", "60s"))
    gateway.run(small=small)
    assert [result.status for result in gateway.results] == ["succeeded"] * 300
    assert gateway.loop.time() < 30


@pytest.mark.parametrize("reset", ["3600s", "24h"])
def test_a_limit_really_used_up_causes_at_most_one_more_refusal(reset: str) -> None:
    gateway = Gateway("requests", ("100", "0", reset), takes=4)
    with pytest.raises(RateLimitedError, match="what was finished is kept"):
        gateway.run(max_wait=10)
    assert (len(gateway.results), gateway.refused) == (4, 1)
    assert gateway.loop.time() < 3
