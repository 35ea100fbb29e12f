"""nginx with one fixed answer, so that the server is never the bottleneck."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.servers.nginx import COMMAND, PROCESS
from tests.servers.processes import free_port, running

SERVER = """
    access_log off;
    keepalive_requests 1000000000;
    server {
        listen 127.0.0.1:PORT backlog=4096;
        client_max_body_size 0;
        default_type application/json;
        HEADERS
        location / { return 200 'ANSWER'; }
    }
"""


@contextmanager
def static(answer: str, *, headers: Mapping[str, str] | None = None, core: int | None = None) -> Iterator[str]:
    """The base URL of a server whose only answer this is; on a core of its own where one is named."""
    assert COMMAND is not None
    port = free_port()
    lines = "".join(f"add_header {name} '{value}';" for name, value in (headers or {}).items())
    block = SERVER.replace("PORT", str(port)).replace("HEADERS", lines).replace("ANSWER", answer.replace("'", "\\'"))
    # The path of a unix socket may have some 100 characters, which pytest's folders can exceed.
    with tempfile.TemporaryDirectory(prefix="nginx") as folder:
        text = PROCESS.replace("BLOCKS", block).replace("NAME", "static").replace("1024", "4096")
        config = Path(folder, "static.conf")
        config.write_text(text.replace("FOLDER", folder))
        command = [COMMAND, "-p", folder, "-e", f"{folder}/start.log", "-c", str(config)]
        if core is not None and hasattr(os, "sched_setaffinity") and shutil.which("taskset"):
            command = ["taskset", "-c", str(core), *command]
        with running(command, port, log=Path(folder, "static.log")):
            yield f"http://127.0.0.1:{port}/v1"
