"""tinyproxy, a small HTTP proxy with a limit of clients, which closes each connection after its answer."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers.processes import free_port, running

COMMAND = shutil.which("tinyproxy")
needs_tinyproxy = pytest.mark.skipif(COMMAND is None, reason="needs tinyproxy (Debian: apt-get install tinyproxy)")

CONFIG = """
Port {port}
Listen 127.0.0.1
Timeout 60
MaxClients {most_clients}
LogLevel Error
LogFile "{folder}/tinyproxy.log"
PidFile "{folder}/tinyproxy.pid"
Allow 127.0.0.1
"""


@contextmanager
def tinyproxy(*, most_clients: int = 100) -> Iterator[str]:
    """A proxy on 127.0.0.1; gives its URL, as for `HTTP_PROXY`."""
    assert COMMAND is not None
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="tinyproxy") as folder:
        config = Path(folder) / "tinyproxy.conf"
        config.write_text(CONFIG.format(port=port, most_clients=most_clients, folder=folder))
        with running([COMMAND, "-d", "-c", str(config)], port, log=Path(folder) / "log"):
            yield f"http://127.0.0.1:{port}"
