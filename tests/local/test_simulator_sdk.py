"""The official OpenAI SDK against the simulator: an independent reading of the same wire format."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pydantic
import pytest

from parallel_openai.local import simulator

KEY = "sk-simulated-0123456789"
HELLO: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "I love it. Hello!"}]}


class Review(pydantic.BaseModel):
    label: Literal["negative", "positive"]
    stars: int
    reasons: list[str]


@pytest.fixture(scope="module")
def shared() -> Iterator[simulator.Server]:
    with simulator.serve(required_api_key=KEY, refusal_latency=0.0) as running:
        yield running


@pytest.fixture
def server(shared: simulator.Server) -> simulator.Server:
    shared.set(max_requests_per_minute=600)
    shared.reset()
    return shared


@pytest.fixture
def client(server: simulator.Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.base_url, api_key=KEY, max_retries=0) as running:
        yield running


def test_the_sdk_gets_a_chat_completion(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**HELLO, n=2, logprobs=True, top_logprobs=3)
    assert [choice.finish_reason for choice in answer.choices] == ["stop", "stop"]
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.choices[0].logprobs is not None


def test_the_sdk_parses_a_structured_answer(client: openai.OpenAI) -> None:
    review = client.chat.completions.parse(**HELLO, response_format=Review).choices[0].message.parsed
    assert review is not None
    assert review.label == "positive"


def test_the_sdk_reads_a_stream(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**HELLO).choices[0].message.content
    with client.chat.completions.create(**HELLO, stream=True) as stream:
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert len(pieces) > 3
    assert "".join(pieces)[:20] == (whole or "")[:20]


def test_the_sdk_reads_the_usage_of_a_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.create(**HELLO, stream=True, stream_options={"include_usage": True}) as stream:
        last = list(stream)[-1]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 12


def test_the_sdk_builds_a_streamed_answer_with_logprobs(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(**HELLO, logprobs=True) as stream:
        answer = stream.get_final_completion()
    assert answer.choices[0].logprobs is not None
    assert len(answer.choices[0].logprobs.content or ()) == 12


def test_the_sdk_reads_a_streamed_refusal(server: simulator.Server, client: openai.OpenAI) -> None:
    server.script([{"fault": "refusal"}])
    with client.chat.completions.stream(**HELLO) as stream:
        assert stream.get_final_completion().choices[0].message.refusal


def test_the_sdk_reads_the_headers(client: openai.OpenAI) -> None:
    headers = client.chat.completions.with_raw_response.create(**HELLO).headers
    assert headers["x-ratelimit-limit-requests"] == "600"
    assert int(headers["x-ratelimit-remaining-requests"]) < 600
    assert headers["x-request-id"].startswith("req_")
    assert "openai-processing-ms" in headers


def test_the_sdk_raises_a_rate_limit_error(server: simulator.Server, client: openai.OpenAI) -> None:
    server.set(max_requests_per_minute=1)
    client.chat.completions.create(**HELLO)
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(**HELLO)
    assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "requests")
    assert caught.value.request_id is not None
    assert float(caught.value.response.headers["retry-after"]) > 0


def test_the_sdk_raises_an_authentication_error(server: simulator.Server) -> None:
    with (
        openai.OpenAI(base_url=server.base_url, api_key="sk-wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.chat.completions.create(**HELLO)
    assert caught.value.code == "invalid_api_key"
    assert caught.value.request_id is not None


def test_the_sdk_raises_a_bad_request_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="o4-mini", messages=HELLO["messages"], max_tokens=5)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "max_tokens")


def test_the_sdk_lists_the_models(client: openai.OpenAI) -> None:
    assert "gpt-5-mini" in [model.id for model in client.models.list()]


def test_the_sdk_retries_by_itself_after_a_scripted_retry_after(server: simulator.Server) -> None:
    server.script(
        [{"status": 429, "headers": {"retry-after-ms": "1"}}, {"status": 503, "headers": {"retry-after": "0.01"}}]
    )
    with openai.OpenAI(base_url=server.base_url, api_key=KEY, max_retries=3) as client:
        assert client.chat.completions.create(**HELLO).choices
    assert server.stats()["received"] == 3


def test_the_async_sdk_gets_answers_in_parallel(server: simulator.Server) -> None:
    async def ask() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=server.base_url, api_key=KEY, max_retries=0) as client:
            answers = await asyncio.gather(*(client.chat.completions.create(**HELLO) for _ in range(8)))
            parsed = await client.chat.completions.parse(**HELLO, response_format=Review)
            assert parsed.choices[0].message.parsed is not None
            return [answer.choices[0].message.content for answer in answers]

    assert len(set(asyncio.run(ask()))) == 1


def test_the_async_sdk_reads_a_stream(server: simulator.Server) -> None:
    async def ask() -> str:
        async with openai.AsyncOpenAI(base_url=server.base_url, api_key=KEY, max_retries=0) as client:
            stream = await client.chat.completions.create(**HELLO, stream=True)
            async with stream:
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(ask()).startswith("(simulated)")
