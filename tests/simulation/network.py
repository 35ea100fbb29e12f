"""A stand-in for sockets: a transport that calls the life's server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from parallel_openai._http.transport import Transport
from tests.simulation.batches import BatchServer
from tests.simulation.server import Answer, Server


class Network(Transport):
    """The rest of a request's way is as always."""

    def __init__(self, server: Server, timeout: float) -> None:
        super().__init__("http://127.0.0.1:9/v1", {"Authorization": "Bearer k"}, timeout=timeout, clock=server.now)
        self._server, self._batches = server, BatchServer(server, timeout)

    def _open(self) -> None:
        """No session, and nothing that posts past one."""

    async def _by_session(  # type: ignore[override]
        self, method: str, url: URL, body: bytes | None, into: Any, options: Mapping[str, Any]
    ) -> Answer:
        path = url.path.removeprefix("/v1/")
        if path.startswith(("files", "batches")):
            form = _fields_of(options["data"]) if "data" in options else {}
            return await self._batches.answer(method, path, body, form, dict(url.query), into)
        if method == "POST" and body is not None:
            return await self._server.answer(path, body)
        return 404, CIMultiDict(), b"not found"


def _fields_of(form: aiohttp.MultipartWriter) -> dict[str, bytes]:
    """Of a form that is sent: each field's value, and the name of its file."""
    fields = {}
    for part, *_ in form:
        value, name = part._value, str(part.headers["Content-Disposition"])
        kind = "file" if "filename" in name else "purpose"
        fields[kind] = value if isinstance(value, bytes) else value.read()
        if kind == "file":
            fields["name"] = name.partition('filename="')[2].rstrip('"').encode()
    return fields
