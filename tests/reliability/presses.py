"""Ctrl-C in a real terminal and the stop button of a real kernel, at many moments of a run that is then repeated."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from parallel_openai.local import simulator

ROOT = Path(__file__).parents[2]
ROWS = 40
#: Seconds from the first step to the end of a run that nobody stops, and more than a stop may take.
LIFE, PATIENCE = 1.6, 5.0
#: Seconds after which a kernel will not answer any more: it forgets a request when the signal meets its own machinery.
LOST = 8.0
PRELUDE = """
import os, sys
import pandas as pd
import parallel_openai as po

df = pd.DataFrame({"text": [f"Review {n}" for n in range(40)]})
client = po.Client(max_concurrent_requests=8, max_requests_per_minute=2400)
def ask(name, **options):
    return po.process_dataframe(df, name + " {text}", model="m", client=client, **options)
"""
#: A session's leader that opens a terminal has its Ctrl-C.
IN_TERMINAL = (
    PRELUDE
    + """
os.open(os.ttyname(2), os.O_RDWR)
print("begin", flush=True)
ask(sys.argv[1])
"""
)


@dataclass
class Stops:
    """What the stops came to.

    Attributes:
        seconds: from each press to the prompt.
        sent_after: requests that were sent later than 0.3 s after a press.
        faults: what else went wrong, in words.
    """

    seconds: list[float] = field(default_factory=list)
    sent_after: int = 0
    charged_again: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not self.faults and not self.sent_after and not self.charged_again and max(self.seconds) < PATIENCE

    def __str__(self) -> str:
        return (
            f"{len(self.seconds)} stops, the prompt back after {max(self.seconds):.1f} s at the most; "
            f"{self.sent_after} requests sent after a stop, {self.charged_again} charged again. {' '.join(self.faults)}"
        )


@contextmanager
def hostile_server() -> Iterator[simulator.Server]:
    """One whose answers take a while and which is away now and then, so that runs wait for all there is to wait for."""
    with simulator.serve(max_requests_per_minute=None, latency=0.15, refusal_latency=0.0) as server:
        yield server


def be_away(server: simulator.Server) -> None:
    server.script([{"status": 503, "headers": {"retry-after": "0.3"}}] * 3)


def moments(count: int) -> list[float]:
    """Seconds, from before a run's first step to its end."""
    return [LIFE * (number + 0.5) / count for number in range(count)]


def environment(server: simulator.Server, folder: Path) -> Mapping[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OPENAI_BASE_URL": server.base_url,
        "IPYTHONDIR": str(folder / ".ipython"),
    }


def watch(stops: Stops, server: simulator.Server, pressed_at: float) -> None:
    """Look, from 0.3 s after the press on, whether more is sent."""
    time.sleep(max(0.0, pressed_at + 0.3 - time.monotonic()))
    before = server.stats()["received"]
    time.sleep(0.3)
    stops.sent_after += server.stats()["received"] - before


def press_in_terminals(folder: Path, count: int) -> Stops:
    """Each in a process of its own, which must end by the press, with KeyboardInterrupt."""
    stops = Stops()
    with hostile_server() as server:
        for number, moment in enumerate(moments(count)):
            be_away(server)
            code = _terminal(stops, server, folder, f"stop {number}", moment)
            if code not in (0, -2):
                stops.faults.append(f"The press at {moment:.2f} s: exit code {code}.")
            if _terminal(stops, server, folder, f"stop {number}", None):
                stops.faults.append(f"After the press at {moment:.2f} s the same run does not go on.")
        stops.charged_again = _charged_again(stops, server, count)
    return stops


def _terminal(stops: Stops, server: simulator.Server, folder: Path, name: str, moment: float | None) -> int:
    master, slave = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", IN_TERMINAL, name],
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=slave,
        env=environment(server, folder),
        cwd=folder,
        start_new_session=True,
    )
    os.close(slave)
    drain = threading.Thread(target=_drain, args=(master,), daemon=True)
    drain.start()
    assert process.stdout is not None
    with process:
        process.stdout.readline()
        if moment is not None:
            time.sleep(moment)
            os.write(master, b"\x03")
            pressed_at = time.monotonic()
            process.wait(30)
            stops.seconds.append(time.monotonic() - pressed_at)
            watch(stops, server, pressed_at)
        code = process.wait(30)
    drain.join(10)
    os.close(master)
    return code


def _drain(master: int) -> None:
    try:
        while os.read(master, 65536):
            pass
    except OSError:  # the process has gone, and its terminal with it
        pass


def press_in_kernel(folder: Path, count: int) -> Stops:
    """All in one kernel, in which a run that is queued behind the stopped one must not begin, and a later one must."""
    stops = Stops()
    with hostile_server() as server, kernel(server, folder) as (manager, client):
        assert run_cell(client, PRELUDE)["status"] == "ok"
        for number, moment in enumerate(moments(count)):
            be_away(server)
            cell = client.execute(f"out = ask('stop {number}')")
            queued = client.execute(f"ask('queued {number}')")
            time.sleep(moment)
            manager.interrupt_kernel()
            pressed_at = time.monotonic()
            first, second = reply(client, cell, LOST), reply(client, queued, LOST)
            if "lost" not in (first["status"], second["status"]):
                stops.seconds.append(time.monotonic() - pressed_at)
            watch(stops, server, pressed_at)
            if second["status"] == "ok" and first["status"] == "ok" and moment < LIFE / 2:
                stops.faults.append(f"The press at {moment:.2f} s stopped nothing.")
            for name in ("stop", "queued"):
                again = run_cell(client, f"assert ask('{name} {number}').status.eq('succeeded').all()")
                if again["status"] != "ok":
                    stops.faults.append(f"After the press at {moment:.2f} s: {again}")
        _press_in_loop(stops, server, manager, client)
        stops.charged_again = _charged_again(stops, server, 2 * count + 1)
    return stops


def _press_in_loop(
    stops: Stops, server: simulator.Server, manager: KernelManager, client: BlockingKernelClient
) -> None:
    """The frame that is stopped comes back, and the next one in the same cell is not begun."""
    before = server.stats()["received"]
    cell = client.execute("frames = []\nfor month in ('jan', 'feb'):\n    frames.append(ask(month))")
    while server.stats()["received"] < before + 4:
        time.sleep(0.02)
    manager.interrupt_kernel()
    if reply(client, cell).get("ename") != "KeyboardInterrupt":
        stops.faults.append("A loop went on after it was stopped.")
    kept = "assert [set(out.status) == {'succeeded', 'cancelled'} for out in frames] == [True]"
    if run_cell(client, f"{kept}; ask('jan')")["status"] != "ok":
        stops.faults.append("A stopped loop did not keep the frame, or the next cell did not go on.")


@contextmanager
def kernel(server: simulator.Server, folder: Path) -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env=environment(server, folder), cwd=str(folder))
    client: Any = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def run_cell(client: BlockingKernelClient, code: str) -> dict[str, Any]:
    return reply(client, client.execute(code))


def reply(client: BlockingKernelClient, cell: str, patience: float = 60.0) -> dict[str, Any]:
    """How the cell ended; `lost` where the kernel never says so."""
    while True:
        try:
            message = client.get_shell_msg(timeout=patience)
        except Empty:
            return {"status": "lost"}
        if message["parent_header"].get("msg_id") == cell:
            content: dict[str, Any] = message["content"]
            return content


def _charged_again(stops: Stops, server: simulator.Server, runs: int) -> int:
    charged = server.stats()["charged"]
    if len(charged) != runs * ROWS:
        stops.faults.append(f"{len(charged)} of {runs * ROWS} requests were answered.")
    return sum(charged.values()) - len(charged)
