"""Starts and stops third-party servers on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 20.0


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(
    command: Sequence[str],
    address: int | Path,
    *,
    log: Path,
    within: float = START_SECONDS,
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that listens on a port of 127.0.0.1 or on a unix socket, from the moment it does to the block's end.

    It must do so `within` some seconds; `environment` is added to this process's own.
    """
    whole = {**os.environ, **(environment or {})}
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=whole) as process,
    ):
        try:
            _wait_for(process, address, log, within)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for(process: subprocess.Popen[bytes], address: int | Path, log: Path, within: float) -> None:
    give_up_at = time.monotonic() + within
    while True:
        if _listens(address):
            return
        if process.poll() is not None or time.monotonic() > give_up_at:
            raise RuntimeError(f"{process.args!r} does not listen on {address}: {log.read_text('utf-8', 'replace')}")
        time.sleep(0.05)


def _listens(address: int | Path) -> bool:
    family = socket.AF_INET if isinstance(address, int) else socket.AF_UNIX
    with socket.socket(family) as probe:
        return probe.connect_ex(("127.0.0.1", address) if isinstance(address, int) else str(address)) == 0
