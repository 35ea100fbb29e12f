"""Starting and stopping a simulator, in a thread of this process or in a process of its own."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from parallel_openai.local.simulator.faults import scripts
from parallel_openai.local.simulator.other_routes import application
from parallel_openai.local.simulator.server import Simulator
from parallel_openai.local.simulator.settings import Settings

HOST = "127.0.0.1"


class Server:
    """A running simulator, spoken to over its own port wherever it runs.

    Attributes:
        base_url: what an OpenAI client takes, ending in `/v1`.
    """

    def __init__(self, base_url: str, running: _Thread | _Process) -> None:
        self.base_url = base_url
        self._running = running
        self._last_stats: dict[str, Any] | None = None

    def stats(self, *, charged: bool = True) -> dict[str, Any]:
        """What happened so far; after the server was stopped, what had happened until then.

        Args:
            charged: with the count of every request body; leave it out where there are very many.
        """
        if self._last_stats is not None:
            return self._last_stats
        return self._ask("GET", f"/stats?charged={int(charged)}")

    def budget_allowed(self, first: float, last: float) -> dict[str, float | None]:
        """How many requests and tokens the limits allowed between two moments of the server's clock."""
        allowed: dict[str, float | None] = self._ask("GET", f"/stats?charged=0&first={first}&last={last}")["allowed"]
        return allowed

    def set(self, **settings: Any) -> None:
        """Change settings from this moment on. Raises ValueError as `serve` does."""
        self._ask("POST", "/control", settings)

    def reset(self) -> None:
        """Forget what happened, fill the budgets and start the clock again; settings stay."""
        self._ask("POST", "/reset")

    def script(self, answers: Iterable[Any], *, matching: str | None = None) -> None:
        """Lay down the next answers, in order, whatever is asked; then it goes on as usual.

        Args:
            answers: each a status (200 is the usual answer), or a mapping with any of `status`, `headers` (None
                removes one), `body` (text, bytes or JSON), `code`, `message`, `fault` (as in `fault_...`), `latency`.
            matching: only for requests whose body holds this text.
        """
        self._ask("POST", "/script", {"answers": [scripts.as_json(each) for each in answers], "matching": matching})

    def stop(self) -> None:
        """Stop the server; what is in flight is cut off."""
        if self._last_stats is None:
            self._last_stats = self.stats()
            self._running.stop()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        address = urlsplit(self.base_url)
        connection = http.client.HTTPConnection(address.hostname or HOST, address.port, timeout=30)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        finally:
            connection.close()
        if response.status == 400:
            raise ValueError(answer["error"]["message"])
        return answer


def serve(*, separate_process: bool = False, port: int = 0, **settings: Any) -> Server:
    """Start a simulator on this machine; use it with `with`, or call `stop()`.

    Args:
        separate_process: in a Python of its own, so that it does not share the interpreter's lock with a benchmark.
        port: 0 takes any free one.
        settings: see `Settings`.

    Raises:
        ValueError: a setting that there is not, or with a value that makes no sense.
        OSError: the port is taken.

    >>> with serve(max_requests_per_minute=60, burst_seconds=1.0) as server:
    ...     server.base_url.endswith("/v1"), server.stats()["received"]
    (True, 0)
    >>> serve(latencies=3)
    Traceback (most recent call last):
    ValueError: The simulator has no setting 'latencies'.
    """
    checked = Settings().changed(**settings)
    if separate_process:
        process = _Process(port, settings)
        return Server(process.base_url, process)
    thread = _Thread(Simulator(checked), listen(port))
    return Server(thread.base_url, thread)


def listen(port: int) -> socket.socket:
    """A socket on localhost, and nowhere else."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if sys.platform != "win32":  # pragma: no branch - a test runs on one system
        # On Windows this would let two servers share a port.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        # From here on clients are queued, so the address can be told before the loop runs.
        listening.listen(4096)
    except OSError:
        listening.close()
        raise
    return listening


def base_url(listening: socket.socket) -> str:
    return f"http://{HOST}:{listening.getsockname()[1]}/v1"


async def run(simulator: Simulator, listening: socket.socket, stop: asyncio.Event, ready: threading.Event) -> None:
    """Serve on the socket until `stop` is set, then close it."""
    runner = web.AppRunner(
        application(simulator), access_log=None, handle_signals=False, handler_cancellation=True, shutdown_timeout=0.01
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listening, backlog=4096).start()
        ready.set()
        await stop.wait()
    finally:
        await runner.cleanup()
        listening.close()


class _Thread:
    """The server in a thread, on a loop of its own."""

    def __init__(self, simulator: Simulator, listening: socket.socket) -> None:
        self.base_url = base_url(listening)
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(simulator, listening), name="openai-simulator", daemon=True
        )
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self, simulator: Simulator, listening: socket.socket) -> None:
        # Not asyncio.run: a notebook may have patched that to use the notebook's loop.
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(run(simulator, listening, self._stop, self._ready))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._ready.set()
            asyncio.set_event_loop(None)
            self._loop.close()


def in_child(module: str) -> list[str]:
    """The command that runs a module in another process, as `python -m` does.

    That would look into the working folder first, whose files may be a stranger's.
    """
    program = "import sys; sys.path.remove('') if '' in sys.path else None; "
    program += f"import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    return [sys.executable, "-c", program]


class _Process:
    """The server in a process, which ends when this one does: it holds the other end of its stdin."""

    def __init__(self, port: int, settings: dict[str, Any]) -> None:
        command = [*in_child("parallel_openai.local.simulator"), "--until_stdin_closes", "--port", str(port)]
        for name, value in settings.items():
            command += [f"--{name}={json.dumps(value)}"]
        # The package is found there even where it runs from a checkout and the working directory is elsewhere.
        path = os.pathsep.join(filter(None, (str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
        )
        assert self._process.stdout is not None
        self.base_url = self._process.stdout.readline().decode().strip()
        if not self.base_url:
            self._close()
            raise OSError(f"The simulator did not start on port {port} (exit code {self._process.returncode}).")

    def stop(self) -> None:
        self._close()

    def _close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # pragma: no cover - for a process that is stuck
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
