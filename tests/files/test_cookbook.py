"""What scripts for the OpenAI Cookbook's script do: await the result, import its names, and append lines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import parallel_openai as po
from parallel_openai.errors import InvalidInputError
from parallel_openai.local.simulator import Server
from tests.files.asking import UNLIMITED, chat, results, write


def in_asyncio_run(ask: Callable[[], Any]) -> Any:
    return asyncio.run(ask())


def awaited(ask: Callable[[], Any]) -> Any:
    async def main() -> Any:
        return await ask()

    return asyncio.run(main())


def gathered_as_a_task(ask: Callable[[], Any]) -> Any:
    async def main() -> Any:
        return (await asyncio.gather(asyncio.create_task(ask()), asyncio.wait_for(ask(), 5)))[0]

    return asyncio.run(main())


def gathered(ask: Callable[[], Any]) -> Any:
    async def main() -> Any:
        return (await asyncio.gather(ask(), ask()))[1]

    return asyncio.run(main())


def called(ask: Callable[[], Any]) -> Any:
    return ask()


@pytest.mark.parametrize("way", [called, in_asyncio_run, awaited, gathered, gathered_as_a_task])
def test_the_result_of_a_run_on_files_can_be_awaited_and_run(server: Server, way: Callable[..., Any]) -> None:
    write(chat("a"), chat("b"))
    url = f"{server.base_url}/chat/completions"
    status = way(lambda: po.process_api_requests_from_file("in.jsonl", "out.jsonl", url, **UNLIMITED))
    assert isinstance(status, po.StatusTracker)
    assert (status.num_tasks_succeeded, len(results())) == (2, 2)


def test_the_cookbooks_functions_return_the_same_values() -> None:
    message = {"role": "user", "content": "What is the capital of France?"}
    asked = {"model": "gpt-4", "messages": [message], "max_tokens": 10, "n": 2}
    assert po.num_tokens_consumed_from_request(asked, "chat/completions", "cl100k_base") == 14 + 20
    assert po.num_tokens_consumed_from_request({"messages": [message]}, "chat/completions", "cl100k_base") == 14 + 15
    assert po.num_tokens_consumed_from_request({"input": ["one", "two"]}, "embeddings", "cl100k_base") == 2
    azure = "https://me.openai.azure.com/openai/deployments/mine/embeddings?api-version=2024-10-21"
    assert po.api_endpoint_from_url(azure) == "embeddings"
    assert [number for number, _ in zip(po.task_id_generator_function(), "abc", strict=False)] == [0, 1, 2]


def test_the_cookbooks_request_class_is_refused_with_what_to_use() -> None:
    fields: dict[str, Any] = {"task_id": 1, "token_consumption": 9, "attempts_left": 5}
    with pytest.raises(InvalidInputError, match=r"no task_id, token_consumption, attempts_left: write APIRequest\("):
        po.APIRequest(request_json=chat("a"), metadata=None, **fields)


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        (b"", []),
        (b'{"a":1}\n', [{"a": 1}]),
        (b'{"a":1}', [{"a": 1}]),
        (b'{"a":1}\n{"b":2}', [{"a": 1}, {"b": 2}]),
        (b'{"a":1}\n{"b":', [{"a": 1}]),
        (b'[1]\n"caf\xc3', [[1]]),
        (b"1\n" + b"[" * 3_000_000, [1]),
    ],
    ids=["new", "whole", "open only line", "open last line", "torn", "torn in a letter", "long torn"],
)
def test_a_line_appended_after_an_incomplete_one_is_readable(tmp_path: Path, before: bytes, kept: list[Any]) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_bytes(before)
    po.append_to_jsonl({"new": True}, path)
    assert [json.loads(line) for line in path.read_bytes().splitlines()] == [*kept, {"new": True}]


def test_values_in_one_line_of_joined_files_are_not_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_bytes(b'{"a":1}\n{"b":2}{"c":3}')
    po.append_to_jsonl({"new": True}, path)
    assert path.read_bytes() == b'{"a":1}\n{"b":2}{"c":3}\n{"new":true}\n'


@pytest.mark.parametrize("before", [b"Dear diary", b"Dear diary,\ntoday", b'{"b":'])
def test_a_last_line_of_another_kind_is_completed_and_not_removed(tmp_path: Path, before: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(before)
    po.append_to_jsonl(1, path)
    assert path.read_bytes() == before + b"\n1\n"


def test_concurrent_appends_after_a_torn_line_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_bytes(b'"whole"\n"torn')
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: po.append_to_jsonl(number, path), range(200)))
    first, *rest = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert first == "whole"
    assert sorted(rest) == list(range(200))
