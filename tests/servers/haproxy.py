"""haproxy in front of a server: a gateway that lets requests wait for a slot, or counts those of each address."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.servers.processes import free_port, running

# Debian puts it where only root's PATH looks.
COMMAND = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
needs_haproxy = pytest.mark.skipif(COMMAND is None, reason="needs haproxy (Debian: apt-get install haproxy)")

CONFIG = """
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout queue {queue_seconds}s
frontend gateway
    bind 127.0.0.1:{port}
    {frontend}
    default_backend model
backend model
    server model {address} {server}
"""


@contextmanager
def haproxy(base_url: str, *, frontend: str = "", server: str = "", queue_seconds: int = 60) -> Iterator[str]:
    """A gateway before the server of this base URL; gives its own.

    Args:
        frontend: further lines of its `frontend`, as for a limit of each address.
        server: what stands after the server's address, as `maxconn 8`.
        queue_seconds: how long a request waits for its turn before it is answered with 503.
    """
    assert COMMAND is not None
    port = free_port()
    text = CONFIG.format(
        port=port,
        address=urlsplit(base_url).netloc,
        frontend=frontend,
        server=server,
        queue_seconds=queue_seconds,
    )
    with tempfile.TemporaryDirectory(prefix="haproxy") as folder:
        config = Path(folder) / "haproxy.cfg"
        config.write_text(text)
        with running([COMMAND, "-db", "-f", str(config)], port, log=Path(folder) / "log"):
            yield f"http://127.0.0.1:{port}/v1"
