"""A stop ends a run in order at first and at once the second time, and nothing more is sent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pydantic import BaseModel, field_validator

import parallel_openai as po
from parallel_openai._loop.interrupts import recorded_interrupts
from parallel_openai.errors import RunStoppedError
from parallel_openai.local.simulator import Server
from tests.conftest import interrupted_once_sent, wait_until_sent

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")

IN_FLIGHT = 18
OPTIONS: dict[str, Any] = {"model": "gpt-4o-mini", "progress": False}


def texts(count: int) -> pd.DataFrame:
    return pd.DataFrame({"text": [f"Review {n}" for n in range(count)]})


@pytest.fixture
def client(server: Server) -> po.Client:
    return po.Client(server.base_url, max_concurrent_requests=IN_FLIGHT)


# Gently.

CALLS: dict[str, Callable[[po.Client], Any]] = {
    "chat": lambda client: po.process_dataframe(texts(30), "text", client=client, **OPTIONS),
    "responses": lambda client: po.process_dataframe(texts(30), "text", endpoint="responses", client=client, **OPTIONS),
    "labels with samples": lambda client: po.label_dataframe(
        texts(10), "text", labels=["a", "b"], samples=3, temperature=1.0, client=client, **OPTIONS
    ),
    "embeddings": lambda client: po.embed_dataframe(
        texts(30), "text", model="m", rows_per_request=1, progress=False, client=client
    ),
    "compare": lambda client: po.compare(texts(30), {"one": "{text}"}, labels=["a", "b"], client=client, **OPTIONS),
}


@pytest.mark.parametrize("call", CALLS)
def test_answers_in_flight_at_an_interrupt_are_kept_and_not_paid_again(
    server: Server, client: po.Client, call: str
) -> None:
    server.set(latency=1.2)  # the press has this long to come, also on a busy machine
    with interrupted_once_sent(server, IN_FLIGHT, times=1), pytest.raises(KeyboardInterrupt):
        CALLS[call](client)
    sent = server.stats()["received"]
    assert IN_FLIGHT <= sent < 30
    time.sleep(0.1)
    assert server.stats()["received"] == sent
    server.set(latency=0)
    CALLS[call](client)
    assert server.stats()["received"] == 30


def test_answers_in_flight_at_the_deadline_are_kept(server: Server, client: po.Client) -> None:
    po.process_dataframe(texts(1), "Before {text}", client=client, **OPTIONS)  # what a process does once takes time too
    server.set(latency=1.0)
    out = po.process_dataframe(texts(30), "text", deadline=0.6, client=client, **OPTIONS)
    assert 0 < out["status"].eq("succeeded").sum() == server.stats()["received"] - 1 < 30


def test_answers_in_flight_when_a_run_fails_are_kept(server: Server, client: po.Client) -> None:
    po.process_dataframe(texts(1), "Before {text}", client=client, **OPTIONS)  # or the first send would go alone
    server.set(latency=0.5)
    server.script([{"status": 401, "latency": 0.1}])
    with pytest.raises(RunStoppedError) as stopped:
        po.process_dataframe(texts(30), "text", client=client, **OPTIONS)
    assert stopped.value.partial["status"].eq("succeeded").sum() == server.stats()["received"] - 2


def test_an_interrupt_while_a_deadline_waits_for_answers_leaves_at_once(server: Server, client: po.Client) -> None:
    server.set(latency=100)
    began = time.monotonic()
    threading.Timer(0.8, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        po.process_dataframe(texts(30), "text", deadline=0.3, client=client, **OPTIONS)
    assert time.monotonic() - began < 3


def test_a_request_waiting_for_its_key_or_connection_is_not_sent_after_an_interrupt(server: Server) -> None:
    asked = threading.Event()

    def key() -> str:
        asked.set()
        time.sleep(0.7)
        return "sk-fake"

    def press() -> None:
        asked.wait(20)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    with pytest.raises(KeyboardInterrupt):
        po.process_dataframe(texts(30), "text", client=po.Client(server.base_url, key), **OPTIONS)
    time.sleep(0.3)
    assert server.stats()["received"] == 0


def test_a_second_interrupt_leaves_while_the_frame_is_built() -> None:
    with pytest.raises(KeyboardInterrupt, match=r"^$"), recorded_interrupts() as presses, presses.raising_after_first():
        press_twice()


def press_twice() -> None:
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    pytest.fail("it was not left at once")


def test_rows_left_at_the_deadline_are_not_rendered(server: Server, client: po.Client) -> None:
    rendered = 0

    def prompt(row: Any) -> str:
        nonlocal rendered
        rendered += 1
        time.sleep(0.001)
        return str(row.text)

    server.set(latency=0.1)
    began = time.monotonic()
    out = po.process_dataframe(texts(100_000), prompt, deadline=0.5, client=client, **OPTIONS)
    assert time.monotonic() - began < 5
    assert rendered < 2_000
    assert out["error_code"].eq("deadline").sum() > 90_000


# What the caller gets.

PRELUDE = """
import signal, sys, time
import pandas as pd
import parallel_openai as po
df = pd.DataFrame({"text": [f"Review {n}" for n in range(20)]})
client = po.Client(max_concurrent_requests=4)
def ask(month):
    return po.process_dataframe(df, month + " {text}", model="gpt-4o-mini", client=client, progress=False)
"""
MONTHS = """
for month in ("jan", "feb", "mar"):
    ask(month).to_csv(month + ".csv")
"""


def environment(server: Server) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(po.__file__).parents[1]), "OPENAI_BASE_URL": server.base_url}


def start(server: Server, script: str, **streams: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", PRELUDE + textwrap.dedent(script)]
    return subprocess.Popen(command, env=environment(server), start_new_session=True, **streams)


AWAITED_MONTHS = """
import asyncio
def aask(month):
    return po.aprocess_dataframe(df, month + " {text}", model="gpt-4o-mini", client=client, progress=False)
async def main():
    for month in ("jan", "feb", "mar"):
        (await aask(month)).to_csv(month + ".csv")
asyncio.run(main())
"""


KEEP = """
import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
MONTHS = ("jan", "feb", "mar")
def keep(month):
    ask(month).to_csv(month + ".csv")
def keep_all():
    for month in MONTHS:
        keep(month)
"""
POOL = """
with ThreadPoolExecutor(1) as pool:
    for kept in [pool.submit(keep, month) for month in MONTHS]:
        kept.result()
"""
#: Calls in other threads, for which the main one waits, however it is interrupted.
IN_THREADS = {
    "pool": POOL,
    "pool at a prompt": f"sys.ps1 = '>>> '\n{POOL}",
    "thread": """
thread = Thread(target=keep_all)
thread.start()
thread.join()
""",
    "pool left open": "ThreadPoolExecutor(1).submit(keep_all).result()",
    "to_thread": "asyncio.run(asyncio.to_thread(keep_all))",
}


@pytest.mark.parametrize(
    ("script", "number"),
    [
        (MONTHS, signal.SIGINT),
        (MONTHS, signal.SIGTERM),
        (MONTHS, signal.SIGHUP),
        (AWAITED_MONTHS, signal.SIGTERM),
        *((KEEP + script, signal.SIGINT) for script in IN_THREADS.values()),
    ],
    ids=["SIGINT", "SIGTERM", "SIGHUP", "awaited-SIGTERM", *IN_THREADS],
)
def test_an_interrupted_script_exits_without_partial_files_or_further_requests(
    server: Server, script: str, number: signal.Signals
) -> None:
    server.script([{"latency": 0.0}] * 20)
    server.set(latency=0.4)
    with start(server, script, stderr=subprocess.PIPE) as process:
        wait_until_sent(server, 24)
        process.send_signal(number)
        if number == signal.SIGHUP:  # a terminal's end is told by its shell too
            process.send_signal(number)
        process.communicate(timeout=30)
    assert process.returncode == -number
    assert [Path(f"{month}.csv").exists() for month in ("jan", "feb", "mar")] == [True, False, False]
    assert server.stats()["received"] == 24
    server.set(latency=0)
    for month in ("jan", "feb", "mar"):
        po.process_dataframe(texts(20), month + " {text}", client=po.Client(server.base_url), **OPTIONS)
    assert server.stats()["received"] == 60


def test_sigterm_as_ctrl_c_takes_in_a_threads_answers_too(server: Server) -> None:
    server.set(latency=0.4)
    told = "import signal\nsignal.signal(signal.SIGTERM, signal.default_int_handler)\n"
    with start(server, told + KEEP + IN_THREADS["thread"], stderr=subprocess.PIPE) as process:
        wait_until_sent(server, 4)
        process.terminate()
        process.communicate(timeout=30)
    server.set(latency=0)
    po.process_dataframe(texts(20), "jan {text}", client=po.Client(server.base_url), **OPTIONS)
    assert server.stats()["received"] == 20


class _Full(Exception):
    partial = "the frame"


def press_and_fail() -> None:
    signal.raise_signal(signal.SIGINT)
    raise _Full


def test_an_error_together_with_an_interrupt_still_stops_the_script() -> None:
    with pytest.raises(KeyboardInterrupt) as stop, recorded_interrupts():
        press_and_fail()
    assert isinstance(stop.value.__cause__, _Full)
    assert stop.value.partial == "the frame"  # type: ignore[attr-defined]


def test_an_interrupt_at_the_very_end_is_raised_too() -> None:
    with pytest.raises(KeyboardInterrupt), recorded_interrupts():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_daemon_threads_requests_in_flight_are_collected_when_the_process_ends(server: Server) -> None:
    server.set(latency=0.4)
    script = "from threading import Thread\nThread(target=ask, args=['jan'], daemon=True).start()\nsys.stdin.read()"
    with start(server, script, stdin=subprocess.PIPE) as process:
        wait_until_sent(server, 4)
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert server.stats()["received"] == 4
    server.set(latency=0)
    po.process_dataframe(texts(20), "jan {text}", client=po.Client(server.base_url), **OPTIONS)
    assert server.stats()["received"] == 20


class _AlarmError(Exception):
    pass


@pytest.mark.parametrize("name", ["SIGALRM", "SIGINT", "SIGTERM"])
def test_an_exception_from_the_callers_signal_handler_stops_the_run_and_is_raised(
    server: Server, client: po.Client, name: str
) -> None:
    def handler(*_: Any) -> None:
        raise _AlarmError

    server.set(latency=1.2)
    number = signal.Signals[name]
    before = signal.signal(number, handler)
    try:
        with interrupted_once_sent(server, IN_FLIGHT, times=1, sent=number), pytest.raises(_AlarmError):
            po.process_dataframe(texts(30), "text", client=client, **OPTIONS)
    finally:
        signal.signal(number, before)
    server.set(latency=0)
    assert po.process_dataframe(texts(30), "text", client=client, **OPTIONS)["status"].eq("succeeded").all()
    assert server.stats()["received"] == 30


# A call within a call.


class _Checked(BaseModel):
    answer: str

    @field_validator("answer")
    @classmethod
    def ask_again(cls, text: str) -> str:
        nested()
        return text


def nested(**options: Any) -> Any:
    return po.process_dataframe(texts(1), "Inner {text}", **{**OPTIONS, **options})


@pytest.fixture
def as_default(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)


NESTED: dict[str, Callable[[po.Client], pd.DataFrame]] = {
    "prompt": lambda client: po.process_dataframe(texts(3), lambda row: str(nested()), client=client, **OPTIONS),
    "same client": lambda client: po.process_dataframe(
        texts(3), lambda row: str(nested(client=client)), client=client, **OPTIONS
    ),
    "batch lane": lambda client: po.process_dataframe(
        texts(3), lambda row: str(nested(client=client, lane="batch")), client=client, **OPTIONS
    ),
    "parse": lambda client: po.process_dataframe(
        texts(3), "text", parse=lambda text: nested(), client=client, **OPTIONS
    ),
    "validator": lambda client: po.process_dataframe(
        texts(3), "text", response_format=_Checked, client=client, **OPTIONS
    ),
    "within a batch lane": lambda client: po.process_dataframe(
        texts(3), "text", parse=lambda text: nested(), lane="batch", client=client, **OPTIONS
    ),
}


@pytest.mark.usefixtures("as_default")
@pytest.mark.parametrize("where", NESTED)
def test_a_call_nested_in_another_fails_its_rows_with_advice(server: Server, client: po.Client, where: str) -> None:
    server.set(batch_speed=1e9)
    out = NESTED[where](client)
    assert out["status"].eq("failed").all()
    assert out["error"].str.contains("Run the inner call first").all()
    assert nested()["status"].eq("succeeded").all()


# Late readers.


def test_answers_that_came_while_the_loop_was_blocked_are_read_before_they_time_out(server: Server) -> None:
    client = po.Client(server.base_url, timeout=1.0, max_concurrent_requests=6)
    server.script([{"latency": 0.0}])
    server.set(latency=0.3)
    slow = iter([2.0])

    def parse(text: str) -> str:
        time.sleep(next(slow, 0.0))
        return text

    out = po.process_dataframe(texts(6), "text", parse=parse, client=client, **OPTIONS)
    assert out["status"].eq("succeeded").all()
    assert server.stats()["received"] == 6


def test_answers_that_came_while_the_process_was_suspended_are_not_paid_again(server: Server) -> None:
    server.set(latency=0.5)
    script = """
    client = po.Client(max_concurrent_requests=6, timeout=1.0)
    out = po.process_dataframe(df.head(6), "text", model="m", client=client, progress=False)
    """
    with start(server, script) as process:
        wait_until_sent(server, 6)
        process.send_signal(signal.SIGSTOP)
        time.sleep(1.5)
        process.send_signal(signal.SIGCONT)
        process.wait(30)
    assert server.stats()["received"] == 6
