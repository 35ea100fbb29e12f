"""Interrupts, cancelled tasks, running loops and threads: calls work, and can be stopped, in all of them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai.local.simulator import Server
from tests.conftest import answered_then_stuck, interrupted_once_sent, wait_until_sent

OPTIONS: dict[str, Any] = {"model": "gpt-4o-mini", "progress": False}
STOPPED_SHORT = {"succeeded": 5, "failed": 0, "cancelled": 195}

needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")


def texts(count: int) -> pd.DataFrame:
    return pd.DataFrame({"text": [f"Review {n}" for n in range(count)]})


def counts(out: pd.DataFrame) -> dict[str, int]:
    return out["status"].value_counts().to_dict()


def stopped(*args: Any, **options: Any) -> pd.DataFrame:
    """The frame of a call that is stopped meanwhile."""
    with pytest.raises(KeyboardInterrupt) as stop:
        po.process_dataframe(*args, **{**OPTIONS, **options})
    frame: pd.DataFrame = stop.value.partial  # type: ignore[attr-defined]
    return frame


@needs_signals
@pytest.mark.parametrize("loop", ["thread", "running"])
def test_an_interrupt_is_raised_to_the_caller_with_the_frame(server: Server, loop: Any) -> None:
    answered_then_stuck(server, 5)
    with interrupted_once_sent(server, 6):
        out = stopped(texts(200), "text", client=po.Client(server.base_url, loop=loop))
    assert counts(out) == STOPPED_SHORT
    assert out.attrs["parallel_openai"]["ended"] == "interrupted"
    report = po.last_run()
    assert report is not None
    assert report.frame is out


class _Impatient(io.StringIO):
    """Where the run says how it ended, when the user interrupts again."""

    def write(self, text: str) -> int:
        if "cancelled" in text:
            os.kill(os.getpid(), signal.SIGINT)
        return super().write(text)


@needs_signals
def test_an_interrupt_during_the_closing_line_does_not_lose_the_frame(server: Server, client: po.Client) -> None:
    answered_then_stuck(server, 5)
    with contextlib.redirect_stderr(_Impatient()) as told, interrupted_once_sent(server, 6):
        out = stopped(texts(200), "text", client=client, progress=True)
    assert counts(out) == STOPPED_SHORT
    assert re.search(r"stopping: \d+ answers on their way, press again to leave at once", told.getvalue())
    assert re.search(r"\d+ left in flight, which the server may bill", told.getvalue())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@needs_signals
def test_after_an_interrupt_nothing_is_sent_and_the_next_run_resumes(server: Server, client: po.Client) -> None:
    answered_then_stuck(server, 5)
    with interrupted_once_sent(server, 6):
        stopped(texts(200), "text", client=client)
    received = server.stats()["received"]
    time.sleep(0.3)
    assert server.stats()["received"] == received
    server.set(latency=0)
    out = po.process_dataframe(texts(200), "text", client=client, **OPTIONS)
    assert out["status"].eq("succeeded").all()
    assert out.attrs["parallel_openai"]["restored"] == 5


@needs_signals
def test_a_second_interrupt_leaves_at_once(server: Server, client: po.Client) -> None:
    server.set(latency=100)
    with interrupted_once_sent(server, 1) as interrupts:
        stopped(texts(200), "text", client=client)
        assert time.monotonic() - interrupts[1] < 1


@needs_signals
@pytest.mark.parametrize("direct", [True, False], ids=["in asyncio.run", "in a loop of one's own"])
def test_an_interrupt_ends_a_call_that_blocks_an_event_loop(server: Server, client: po.Client, direct: bool) -> None:
    answered_then_stuck(server, 5)

    async def main() -> None:
        po.process_dataframe(texts(200), "text", client=client, **OPTIONS)

    with contextlib.closing(asyncio.new_event_loop()) as loop, interrupted_once_sent(server, 6):
        run = asyncio.run if direct else loop.run_until_complete
        with pytest.raises(KeyboardInterrupt):
            run(main())
    report = po.last_run()
    assert report is not None
    assert (report.ended, report.succeeded, report.cancelled) == ("interrupted", 5, 195)


@pytest.mark.parametrize("loop", ["thread", "running"])
def test_a_cancelled_task_raises_cancelled_error_and_keeps_finished_answers(server: Server, loop: Any) -> None:
    answered_then_stuck(server, 5)
    client = po.Client(server.base_url, loop=loop)

    async def main() -> None:
        task = asyncio.create_task(po.aprocess_dataframe(texts(200), "text", client=client, **OPTIONS))
        await asyncio.to_thread(wait_until_sent, server, 6)
        task.cancel("because")
        await asyncio.sleep(0.1)
        task.cancel("because")
        await task

    with pytest.raises(asyncio.CancelledError, match="because"):
        asyncio.run(main())
    report = po.last_run()
    assert report is not None
    assert report.frame is not None
    assert (report.ended, counts(report.frame)) == ("interrupted", STOPPED_SHORT)


VERBS: dict[str, Any] = {
    "process": lambda df, client: po.aprocess_dataframe(df, "text", client=client, **OPTIONS),
    "label": lambda df, client: po.alabel_dataframe(df, "text", labels=["a", "b"], client=client, **OPTIONS),
    "embed": lambda df, client: po.aembed_dataframe(
        df, "text", client=client, model="m", progress=False, rows_per_request=1
    ),
    "compare": lambda df, client: po.acompare(df, {"one": "{text}"}, labels=["a", "b"], client=client, **OPTIONS),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_timeout_around_a_call_is_a_timeout(server: Server, verb: str) -> None:
    server.set(latency=2.5)  # by then they are on their way on a busy machine too
    client = po.Client(server.base_url, max_concurrent_requests=3)

    async def main() -> None:
        await asyncio.wait_for(VERBS[verb](texts(20), client), 1.5)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(main())
    sent = server.stats()["received"]
    server.set(latency=0)
    asyncio.run(VERBS[verb](texts(20), client))
    assert (sent, server.stats()["received"]) == (3, 20)  # what was on its way was taken in and is not asked again


@pytest.mark.parametrize("loop", ["thread", "running"])
def test_a_cancel_scope_stops_a_call_gently_though_it_cancels_again_and_again(server: Server, loop: Any) -> None:
    server.set(latency=0.6)
    client = po.Client(server.base_url, max_concurrent_requests=3, loop=loop)

    async def main() -> None:
        with anyio.move_on_after(0.3):
            await VERBS["process"](texts(20), client)

    anyio.run(main)
    sent = server.stats()["received"]
    server.set(latency=0)
    asyncio.run(VERBS["process"](texts(20), client))
    assert (sent, server.stats()["received"]) == (3, 20)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="task groups are new in Python 3.11")
def test_a_call_in_a_task_group_stops_sending_if_another_task_fails(server: Server) -> None:
    server.set(latency=0.3)
    client = po.Client(server.base_url, max_concurrent_requests=3)
    went_on = False

    async def ask_twice() -> None:
        nonlocal went_on
        await po.aprocess_dataframe(texts(20), "text", client=client, **OPTIONS)
        went_on = True

    async def fail() -> None:
        await asyncio.to_thread(wait_until_sent, server, 3)
        raise ValueError("no")

    async def main() -> None:
        async with asyncio.TaskGroup() as group:  # type: ignore[attr-defined,unused-ignore]
            group.create_task(ask_twice())
            group.create_task(fail())

    with pytest.raises(BaseException, match="unhandled errors"):
        asyncio.run(main())
    assert (went_on, server.stats()["received"]) == (False, 3)


def test_a_blocking_call_completes_in_a_task_cancelled_earlier(client: po.Client) -> None:

    async def handle() -> pd.DataFrame:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            return po.process_dataframe(texts(20), "text", client=client, **OPTIONS)
        raise AssertionError

    async def main() -> pd.DataFrame:
        task = asyncio.create_task(handle())
        await asyncio.sleep(0)
        task.cancel()
        return await task

    assert asyncio.run(main())["status"].eq("succeeded").all()


def test_an_awaited_call_does_not_block_the_callers_loop(server: Server, client: po.Client) -> None:
    server.set(latency=0.3)
    beats = 0

    async def main() -> pd.DataFrame:
        nonlocal beats
        task = asyncio.create_task(po.aprocess_dataframe(texts(20), "text", client=client, **OPTIONS))
        while not task.done():
            beats += 1
            await asyncio.sleep(0.02)
        return await task

    assert asyncio.run(main())["status"].eq("succeeded").all()
    assert beats >= 5


def test_the_blocking_call_works_inside_a_running_loop(client: po.Client) -> None:
    async def main() -> pd.DataFrame:
        return po.process_dataframe(texts(20), "text", client=client, **OPTIONS)

    assert asyncio.run(main())["status"].eq("succeeded").all()


def test_several_awaited_calls_run_at_once(server: Server, client: po.Client) -> None:
    server.set(latency=0.3)

    async def main() -> list[pd.DataFrame]:
        calls = (po.aprocess_dataframe(texts(5), f"{n} {{text}}", client=client, **OPTIONS) for n in range(4))
        return await asyncio.gather(*calls)

    began = time.monotonic()
    assert all(out["status"].eq("succeeded").all() for out in asyncio.run(main()))
    assert time.monotonic() - began < 4 * 0.3 + 0.5
    assert server.stats()["max_in_flight"] > 5


def test_the_work_can_be_done_on_the_callers_own_loop(server: Server) -> None:
    client = po.Client(server.base_url, loop="running")
    assert counts(po.process_dataframe(texts(20), "text", client=client, **OPTIONS))["succeeded"] == 20


def test_the_work_can_be_done_on_the_loop_that_awaits_it(server: Server) -> None:
    client = po.Client(server.base_url, loop="running")
    out = asyncio.run(po.aprocess_dataframe(texts(20), "text", client=client, **OPTIONS))
    assert counts(out)["succeeded"] == 20


# nest_asyncio patches asyncio for the whole process, so these have processes of their own.
NESTED = """
    import asyncio, json
    import pandas as pd
    import parallel_openai as po

    df = pd.DataFrame({"text": [f"Review {n}" for n in range(200)]})
    client = po.Client(loop="running")

    async def main():
        return po.process_dataframe(df, "text", model="m", progress=False, client=client)

    # Not asyncio.run, which takes the interrupts to itself; a notebook's kernel does not.
    try:
        out = asyncio.new_event_loop().run_until_complete(main())
    except KeyboardInterrupt as stop:
        out = stop.partial
    print(json.dumps(out["status"].value_counts().to_dict()))
"""


def start_nested(server: Server) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(Path(po.__file__).parents[1]), "OPENAI_BASE_URL": server.base_url}
    command = [sys.executable, "-c", textwrap.dedent(NESTED)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, start_new_session=True)


def test_a_blocking_call_can_run_on_the_running_loop(server: Server) -> None:
    with start_nested(server) as process:
        out, _ = process.communicate(timeout=60)
    assert json.loads(out) == {"succeeded": 200, "failed": 0, "cancelled": 0}


@needs_signals
def test_an_interrupt_on_the_running_loop_returns_the_frame_too(server: Server) -> None:
    answered_then_stuck(server, 5)
    with start_nested(server) as process:
        wait_until_sent(server, 6)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        out, _ = process.communicate(timeout=60)
    assert json.loads(out) == STOPPED_SHORT


def test_two_threads_share_a_client(server: Server, client: po.Client) -> None:
    outs: dict[int, pd.DataFrame] = {}

    def work(n: int) -> None:
        outs[n] = po.process_dataframe(texts(50), f"{n} {{text}}", client=client, **OPTIONS)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert all(outs[n]["status"].eq("succeeded").all() for n in range(2))
    assert server.stats()["received"] == 100


def test_a_closed_client_can_be_used_again(client: po.Client) -> None:
    for n in range(2):
        out = po.process_dataframe(texts(3), f"{n} {{text}}", client=client, **OPTIONS)
        assert out["status"].eq("succeeded").all()
        client.close()


@pytest.mark.parametrize("loop", ["thread", "running"])
def test_a_client_closed_during_a_run_still_receives_answers_in_flight(server: Server, loop: str) -> None:
    client = po.Client(server.base_url, max_concurrent_requests=8, loop=loop)  # type: ignore[arg-type]
    server.set(latency=0.5)

    def close() -> None:
        wait_until_sent(server, 8)
        client.close()

    thread = threading.Thread(target=close)
    thread.start()
    out = po.process_dataframe(texts(20), "text", client=client, **OPTIONS)
    thread.join()
    assert out["attempts"].eq(1).all()
    assert server.stats()["received"] == 20


@pytest.mark.parametrize("where", ["prompt", "parse"])
def test_answers_in_flight_are_received_if_the_callers_function_stops_the_run(server: Server, where: str) -> None:
    client = po.Client(server.base_url, max_concurrent_requests=8)
    server.set(latency=0.5)
    calls = 0

    def stops(value: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 12:
            raise KeyboardInterrupt
        return value.text if where == "prompt" else value

    arguments: dict[str, Any] = {"prompt": stops} if where == "prompt" else {"prompt": "text", "parse": stops}
    with pytest.raises(KeyboardInterrupt):
        po.process_dataframe(texts(30), **arguments, client=client, **OPTIONS)
    out = po.process_dataframe(texts(30), **arguments, client=client, **OPTIONS)
    assert out["status"].eq("succeeded").all()
    assert server.stats()["received"] == 30
