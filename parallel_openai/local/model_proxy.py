"""The door of the local model: it lets in who calls this machine by a name of its own, and passes the rest on as it is.

The model's server answers to any name, so it listens on a socket that is a file, which no web page reaches. A browser
keeps its connections apart by the name in the URL, so that the first request tells for all of a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable

from parallel_openai.local.simulator.hosts import is_own, refusal

_HOST = re.compile(rb"\r\nhost:[ \t]*([^\r\n]*?)[ \t]*\r\n", re.IGNORECASE)
_FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n"
_PIECE = 1 << 16


async def keep(port: int, inner: str, announce: Callable[[int], object]) -> None:
    """Listen on 127.0.0.1 for good, and tell the port."""
    server = await asyncio.start_server(lambda reader, writer: _let_in(reader, writer, inner), "127.0.0.1", port)
    announce(server.sockets[0].getsockname()[1])
    await server.serve_forever()


async def _let_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, inner: str) -> None:
    # Whoever leaves, or says no HTTP, is no matter of ours.
    with (
        contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError),
        contextlib.closing(writer),
    ):
        head = await reader.readuntil(b"\r\n\r\n")
        host = _HOST.search(head)
        name = host[1].decode("latin-1") if host is not None else ""
        if not is_own(name):
            said = refusal(name).encode()
            writer.write(b"%bContent-Length: %d\r\n\r\n%b" % (_FORBIDDEN, len(said), said))
            await writer.drain()
            return
        inner_reader, inner_writer = await asyncio.open_unix_connection(inner)
        with contextlib.closing(inner_writer):
            inner_writer.write(head)
            ways = [asyncio.ensure_future(_pass(*way)) for way in ((reader, inner_writer), (inner_reader, writer))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()
