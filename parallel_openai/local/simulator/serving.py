"""Start and stop a simulator, in a thread of this process or in a separate process."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from parallel_openai.local.simulator.child_process import end_child, start_child
from parallel_openai.local.simulator.faults import scripts
from parallel_openai.local.simulator.other_routes import application
from parallel_openai.local.simulator.server import Simulator
from parallel_openai.local.simulator.settings import Settings

HOST = "127.0.0.1"


class Server:
    """A running simulator. All methods talk to it over its port.

    Attributes:
        base_url: the base URL for an OpenAI client, ending in `/v1`.
    """

    def __init__(self, base_url: str, stop: Callable[[], None]) -> None:
        self.base_url = base_url
        self._stop = stop
        self._last_stats: dict[str, Any] | None = None

    def stats(self, *, charged: bool = True) -> dict[str, Any]:
        """The statistics so far; after `stop()`, those at that moment.

        Args:
            charged: include the count of every request body; set to False if there are very many.
        """
        if self._last_stats is not None:
            return self._last_stats
        return self._request("GET", f"/stats?charged={int(charged)}")

    def budget_allowed(self, first: float, last: float) -> dict[str, float | None]:
        """The requests and tokens that the limits allowed between two moments of the server's clock."""
        allowed: dict[str, float | None] = self._request("GET", f"/stats?charged=0&first={first}&last={last}")[
            "allowed"
        ]
        return allowed

    def set(self, **settings: Any) -> None:
        """Change settings from this moment on. Raises ValueError as `serve` does."""
        self._request("POST", "/control", settings)

    def reset(self) -> None:
        """Clear the statistics, refill the budgets and restart the clock; settings stay."""
        self._request("POST", "/reset")

    def script(self, answers: Iterable[Any], *, matching: str | None = None) -> None:
        """Set the next answers, in order, whatever the requests; after them it answers as usual.

        Args:
            answers: each a status (200 is the ordinary answer), or a mapping with any of `status`, `headers` (None
                removes one), `body` (a string, bytes or JSON), `code`, `message`, `fault` (as in `fault_...`) and
                `latency`.
            matching: only for requests whose body contains this string.
        """
        self._request("POST", "/script", {"answers": [scripts.as_json(each) for each in answers], "matching": matching})

    def stop(self) -> None:
        """Stop the server; requests in flight are cut off."""
        if self._last_stats is None:
            self._last_stats = self.stats()
            self._stop()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _request(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
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
        separate_process: run in its own Python process, so that it does not share the GIL with a benchmark.
        port: 0 for any free one.
        settings: see `Settings`.

    Raises:
        ValueError: an unknown setting or an invalid value.
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
        return Server(*_start_process(port, settings))
    thread = _Thread(Simulator(checked), listen(port))
    return Server(thread.base_url, thread.stop)


def listen(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if sys.platform != "win32":  # pragma: no branch - a test runs on one system
        # On Windows this would let two servers share a port.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        # From here on the system queues connections, so the address may be announced before the loop runs.
        listening.listen(4096)
    except (OSError, OverflowError):
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
        # Not asyncio.run: in a notebook it may be patched (nest_asyncio) to use the notebook's loop.
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(run(simulator, listening, self._stop, self._ready))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._ready.set()
            asyncio.set_event_loop(None)
            self._loop.close()


def _start_process(port: int, settings: dict[str, Any]) -> tuple[str, Callable[[], None]]:
    """Start the server in a child process; returns its base URL and the function that stops it."""
    arguments = [f"--{name}={json.dumps(value)}" for name, value in settings.items()]
    process = start_child("parallel_openai.local.simulator", ["--until_stdin_closes", "--port", str(port), *arguments])
    assert process.stdout is not None
    base_url = process.stdout.readline().decode().strip()
    if not base_url:
        end_child(process)
        raise OSError(f"The simulator did not start on port {port} (exit code {process.returncode}).")
    return base_url, partial(end_child, process)
