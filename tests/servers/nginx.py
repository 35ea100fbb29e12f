"""nginx in front of a server that answers every chat completion alike: a gateway as people run one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers.processes import free_port, running

COMMAND = shutil.which("nginx")
needs_nginx = pytest.mark.skipif(
    COMMAND is None, reason="needs nginx on the PATH (Debian: apt-get install nginx-light, which lies in /usr/sbin)"
)

#: A model server that needs no time. A unix socket, so that there is no port to be taken by another.
UPSTREAM = """
    access_log off;
    server {
        listen unix:FOLDER/model.sock;
        client_max_body_size 0;
        default_type application/json;
        location / { return 200 '{"id": "chatcmpl-1", "object": "chat.completion", "model": "m", "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}}'; }
    }
"""  # noqa: E501 - one line of JSON in one line of nginx

GATEWAY = """
    log_format plain '$msec $status $connection $sent_http_content_encoding';
    access_log FOLDER/access.log plain;
    HTTP
    server {
        listen 127.0.0.1:PORT;
        SERVER
        location / {
            LOCATION
            proxy_pass BEHIND;
        }
    }
"""

PROCESS = """
daemon off;
master_process off;
pid FOLDER/NAME.pid;
error_log FOLDER/NAME.error.log;
events { worker_connections 1024; }
http {
    client_body_temp_path FOLDER/body;
    proxy_temp_path FOLDER/proxy;
    fastcgi_temp_path FOLDER/fastcgi;
    uwsgi_temp_path FOLDER/uwsgi;
    scgi_temp_path FOLDER/scgi;
    BLOCKS
}
"""


@dataclass(frozen=True)
class Entry:
    """A line of the gateway's log."""

    at: float
    status: int
    connection: int
    encoding: str


class Nginx:
    """A gateway on 127.0.0.1, and the model server behind it, which can be away."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.base_url = f"http://127.0.0.1:{port}/v1"
        self._upstream = ExitStack()
        self._log: list[Entry] = []

    def log(self) -> list[Entry]:
        """What the gateway answered so far; kept when it has ended."""
        path = self.folder / "access.log"
        if not path.exists():
            return self._log
        entries = []
        for line in path.read_text().splitlines():
            at, status, connection, encoding = line.split()
            entries.append(Entry(float(at), int(status), int(connection), encoding))
        return entries

    @property
    def statuses(self) -> list[int]:
        return [entry.status for entry in self.log()]

    @property
    def connections(self) -> set[int]:
        return {entry.connection for entry in self.log()}

    @property
    def compressed(self) -> int:
        return sum(entry.encoding == "gzip" for entry in self.log())

    def start_upstream(self) -> None:
        self._upstream.enter_context(self._process("model", UPSTREAM))

    def stop_upstream(self) -> None:
        self._upstream.close()

    @contextmanager
    def start(self, *, http: str, server: str, location: str, behind: str) -> Iterator[None]:
        """The gateway alone."""
        blocks = GATEWAY.replace("HTTP", http).replace("SERVER", server).replace("LOCATION", location)
        blocks = blocks.replace("BEHIND", behind)
        with self._upstream, self._process("gateway", blocks):
            yield
        self._log = self.log()

    @contextmanager
    def _process(self, name: str, blocks: str) -> Iterator[None]:
        assert COMMAND is not None
        text = PROCESS.replace("BLOCKS", blocks).replace("NAME", name)
        text = text.replace("FOLDER", str(self.folder)).replace("PORT", str(self.port))
        config = self.folder / f"{name}.conf"
        config.write_text(text)
        command = [COMMAND, "-p", str(self.folder), "-e", str(self.folder / "start.log"), "-c", str(config)]
        address = self.port if name == "gateway" else self.folder / "model.sock"
        with running(command, address, log=self.folder / f"{name}.log"):
            yield


@contextmanager
def nginx(
    *, http: str = "", server: str = "", location: str = "", upstream: bool = True, base_url: str | None = None
) -> Iterator[Nginx]:
    """A gateway with further directives in its `http`, `server` and `location` blocks.

    Without `upstream` the server behind it is away until `start_upstream`; with `base_url` it is another one.
    """
    behind = "http://unix:FOLDER/model.sock" if base_url is None else base_url.removesuffix("/v1")
    # The path of a unix socket may have some 100 characters, which pytest's folders can exceed.
    with tempfile.TemporaryDirectory(prefix="nginx") as folder:
        gateway = Nginx(Path(folder), free_port())
        with gateway.start(http=http, server=server, location=location, behind=behind):
            if upstream and base_url is None:
                gateway.start_upstream()
            yield gateway
