"""A TCP proxy in front of the local model that refuses connections whose `Host` is not this machine (DNS rebinding).

The model's server accepts any `Host`, so it listens on a Unix socket, which no web page can reach. Browsers never share
a connection between host names, so checking the first request of a connection is enough.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable

from parallel_openai.local.simulator.hosts import is_own, refusal

_HOST = re.compile(rb"\r\nhost:[ \t]*([^\r\n]*?)[ \t]*\r\n", re.IGNORECASE)
_FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n"
_CHUNK_BYTES = 1 << 16


async def serve_proxy(port: int, inner: str, announce: Callable[[int], object]) -> None:
    """Listen on 127.0.0.1 until cancelled; `announce` is called with the port."""
    server = await asyncio.start_server(lambda reader, writer: _forward(reader, writer, inner), "127.0.0.1", port)
    announce(server.sockets[0].getsockname()[1])
    await server.serve_forever()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, inner: str) -> None:
    # A client that disconnects or sends no HTTP is ignored.
    with (
        contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError),
        contextlib.closing(writer),
    ):
        head = await reader.readuntil(b"\r\n\r\n")
        host = _HOST.search(head)
        name = host[1].decode("latin-1") if host is not None else ""
        if not is_own(name):
            message = refusal(name).encode()
            writer.write(b"%bContent-Length: %d\r\n\r\n%b" % (_FORBIDDEN, len(message), message))
            await writer.drain()
            return
        inner_reader, inner_writer = await asyncio.open_unix_connection(inner)
        with contextlib.closing(inner_writer):
            inner_writer.write(head)
            pairs = ((reader, inner_writer), (inner_reader, writer))
            copies = [asyncio.ensure_future(_copy(*pair)) for pair in pairs]
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
            for copy in copies:
                copy.cancel()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
