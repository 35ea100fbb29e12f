"""The async function, cancelled or not, and interrupts: finished results are kept."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest

import parallel_openai as po
from parallel_openai.errors import (
    RunStoppedError,
)
from parallel_openai.local.simulator import Server
from tests.conftest import answered_then_stuck, interrupted_once_sent, wait_until_sent
from tests.files.asking import UNLIMITED, chat, results, run, write


def test_the_async_function_does_the_same(server: Server) -> None:
    write(chat("a"), chat("b"))
    url = f"{server.base_url}/chat/completions"
    status = asyncio.run(po.aprocess_api_requests_from_file("in.jsonl", "out.jsonl", url, **UNLIMITED))
    assert status.num_tasks_succeeded == len(results()) == 2


def test_a_stopped_async_call_has_the_counts(server: Server) -> None:
    server.set(insufficient_quota_after=0)
    write(chat("a"))
    url = f"{server.base_url}/chat/completions"
    with pytest.raises(RunStoppedError) as stopped:
        asyncio.run(po.aprocess_api_requests_from_file("in.jsonl", "out.jsonl", url, **UNLIMITED))
    counts = stopped.value.partial
    assert (counts.ended, counts.num_tasks_succeeded) == ("stopped", 0)


def test_a_cancelled_async_call_keeps_finished_results_and_is_cancelled(server: Server) -> None:
    write(*(chat(str(n)) for n in range(20)))
    answered_then_stuck(server, 5)
    url = f"{server.base_url}/chat/completions"

    async def main() -> None:
        task = asyncio.create_task(po.aprocess_api_requests_from_file("in.jsonl", "out.jsonl", url, **UNLIMITED))
        await asyncio.to_thread(wait_until_sent, server, 6)
        task.cancel()
        await asyncio.sleep(0.1)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert len(results()) == 5


def test_a_cancelled_async_call_stops_sending_unlocks_the_file_and_can_be_resumed(server: Server) -> None:
    write(*(chat(str(n)) for n in range(20)))
    server.set(latency=0.6)
    url = f"{server.base_url}/chat/completions"
    client = po.Client(server.base_url, max_concurrent_requests=5)

    async def main() -> po.StatusTracker:
        call = po.aprocess_api_requests_from_file("in.jsonl", "out.jsonl", url, client=client, **UNLIMITED)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(call, 0.3)
        sent = server.stats()["received"]
        server.set(latency=0)
        await asyncio.sleep(0.3)
        assert server.stats()["received"] == sent
        return await po.aprocess_api_requests_from_file("in.jsonl", "out.jsonl", url, **UNLIMITED)

    status = asyncio.run(main())
    assert (status.ended, status.num_tasks_succeeded, status.num_tasks_restored) == ("finished", 20, 5)


def test_a_cancelled_async_call_ends_its_task_group(server: Server) -> None:
    write(*(chat(str(n)) for n in range(20)))
    server.set(latency=0.5)
    url = f"{server.base_url}/chat/completions"

    async def fail_once_sent() -> None:
        await asyncio.to_thread(wait_until_sent, server, 1)
        raise ValueError("another task of the group")

    async def main() -> None:
        file = asyncio.ensure_future(po.aprocess_api_requests_from_file("in.jsonl", "out.jsonl", url, **UNLIMITED))
        try:
            await asyncio.gather(file, fail_once_sent())
        except ValueError:
            file.cancel()
            await asyncio.wait([file], timeout=5)
            assert file.cancelled()
            raise

    with pytest.raises(ValueError, match="another task of the group"):
        asyncio.run(main())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_an_interrupt_keeps_finished_results_and_is_raised(server: Server) -> None:
    write(*(chat(str(n)) for n in range(20)))
    answered_then_stuck(server, 5)
    with interrupted_once_sent(server, 6), pytest.raises(KeyboardInterrupt):
        run(server)
    assert len(results()) == 5
    server.set(latency=0)
    assert run(server).num_tasks_restored == 5


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_an_interrupt_of_a_call_that_blocks_a_loop_ends_it(server: Server) -> None:
    write(*(chat(str(n)) for n in range(20)))
    answered_then_stuck(server, 5)
    server.set(latency=3)

    async def main() -> None:
        run(server)

    with interrupted_once_sent(server, 6), pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert len(results()) == 5


def test_many_known_requests_do_not_block_the_loop(server: Server) -> None:
    write(*(chat("a", metadata=n) for n in range(2_500)))
    with open("out.jsonl", "w") as file:
        file.writelines(json.dumps([chat("a"), {"id": "1"}, n]) + "\n" for n in range(2_499))
    status = run(server, resume_from_anywhere=True)
    assert (status.num_tasks_restored, status.num_requests_sent) == (2_499, 1)
