"""Fixtures for most tests: a simulator without limits, and a client for it."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, settings

from parallel_openai import Client
from parallel_openai.local import simulator

# A machine that is busy with other things makes no test fail, and no example is remembered in the folder.
settings.register_profile("ours", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ours")


@pytest.fixture
def server() -> Iterator[simulator.Server]:
    """A simulator without limits, in a thread. Its answers repeat the prompt, up to 200 characters of it."""
    with simulator.serve(max_requests_per_minute=None, refusal_latency=0.0, answer_tokens=50) as running:
        yield running


@pytest.fixture
def client(server: simulator.Server) -> Iterator[Client]:
    with Client(server.base_url) as account:
        yield account


def wait_until_sent(server: simulator.Server, count: int) -> None:
    """Wait until the server has that many requests."""
    give_up_at = time.monotonic() + 20
    while server.stats(charged=False)["received"] < count:
        assert time.monotonic() < give_up_at, "nothing was sent"
        time.sleep(0.02)


def listens_elsewhere(base_url: str) -> list[str]:
    """Addresses, other than the usual one of this machine itself, at which a server answers too.

    127.0.0.2 is this machine as well, but only who listens on every address answers there.
    """
    port = urlsplit(base_url).port
    found = []
    for family, address in ((socket.AF_INET, "127.0.0.2"), (socket.AF_INET6, "::1")):
        with socket.socket(family) as probe:
            probe.settimeout(2)
            try:
                probe.connect((address, port))
            except OSError:
                continue
            found.append(address)
    return found


@contextmanager
def interrupted_once_sent(
    server: simulator.Server, count: int, *, times: int = 2, sent: signal.Signals = signal.SIGINT
) -> Iterator[list[float]]:
    """Send this process the signal of Ctrl-C, or another, as soon as the server has that many requests, and again soon
    after, which leaves at once; gives the moments.

    What is done inside must not end by itself, or the signal would hit whatever comes next.
    """

    moments: list[float] = []

    def interrupt() -> None:
        try:
            wait_until_sent(server, count)
        finally:  # or the test would hang where it should fail
            for number in range(times):
                time.sleep(0.2 if number else 0)
                moments.append(time.monotonic())
                os.kill(os.getpid(), sent)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        yield moments
    finally:
        thread.join()


def answered_then_stuck(server: simulator.Server, count: int) -> None:
    """Let the first requests be answered at once, and all later ones after minutes."""
    answer = {"model": "m", "choices": [{"message": {"content": "Hi."}, "finish_reason": "stop"}]}
    server.script([{"body": answer}] * count)
    server.set(latency=100)
