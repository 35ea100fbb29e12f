"""Posts bodies over aiohttp's connections but without its session, which takes longer to build a request than to send.

A request's head is built once for each URL and kept as bytes; a session builds it every time. Connecting, TLS, DNS and
parsing HTTP are left to aiohttp.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import NamedTuple

import aiohttp
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from parallel_openai._http.body import MAX_HEADER_LINE, MAX_HEADERS, TooLargeError, decompressed, read
from parallel_openai._http.connection_errors import NotHTTPError, other_protocol
from parallel_openai._http.idle_connections import IdleConnections
from parallel_openai._loop.interrupts import sending_stopped
from parallel_openai._records import MAX_RESPONSE_BYTES

#: A body of up to this many bytes is joined to its head, so that both go out in one write.
JOINED_BODY = 2**16
#: Headers that state the length of the body.
_LENGTHS = frozenset({"content-length", "transfer-encoding"})
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class _Target(NamedTuple):
    """What all requests to a URL share: the request to connect with, and the head as bytes."""

    request: aiohttp.ClientRequest
    head: bytes


class Poster:
    """Posts to the URLs of one server."""

    def __init__(
        self,
        session: aiohttp.ClientSession,  # owns the requests
        # Not shared with the session, so that every connection it makes is a new one. Closed by `close`.
        connector: aiohttp.BaseConnector,
        headers: Mapping[str, str],  # sent with every request
        *,
        ssl: object,  # as in aiohttp
        timeout: aiohttp.ClientTimeout,  # only its `sock_connect` applies
    ) -> None:
        self._session, self._connector, self._headers = session, connector, headers
        self._ssl, self._timeout = ssl, timeout
        self._loop = asyncio.get_running_loop()
        self._idle = IdleConnections(self._loop)
        self._targets: dict[URL, _Target] = {}

    def forget_headers(self) -> None:
        """Build the heads anew, since the headers have changed."""
        self._targets.clear()

    async def post(self, url: URL, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        """Send a body, and return the answer's status, headers and content.

        Raises:
            aiohttp.ClientError, OSError, TooLargeError, UnreadableError: as a session's request and `read` do.
        """
        target = self._targets.get(url) or self._target(url)
        connection = self._idle.take() or await self._idle.take_soon() or await self._connect(target.request)
        try:
            protocol = connection.protocol
            transport = protocol.transport if protocol is not None else None
            if protocol is None or transport is None or transport.is_closing():  # a new one may be broken already
                raise aiohttp.ServerDisconnectedError
            if sending_stopped.get()():
                raise asyncio.CancelledError
            protocol.set_response_params(
                read_until_eof=True,
                auto_decompress=False,
                max_line_size=MAX_HEADER_LINE,
                max_field_size=MAX_HEADER_LINE,
                max_headers=MAX_HEADERS,
            )
            if len(body) <= JOINED_BODY:
                transport.write(b"%b%d\r\n\r\n%b" % (target.head, len(body), body))
            else:
                transport.writelines([b"%b%d\r\n\r\n" % (target.head, len(body)), body])
            while True:
                message, content = await protocol.read()
                if message.code >= 200 or message.code == 101:  # the others below 200 are interim
                    break
            if content.is_eof():  # a short answer, which has come all at once
                answer = content.read_nowait()
                if len(answer) > MAX_RESPONSE_BYTES:
                    raise TooLargeError
            else:
                answer = await read(content, message.headers)
        except HttpProcessingError as error:
            connection.close()
            raise NotHTTPError(other_protocol(str(error))) from error
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            connection.close()
            self._idle.drop()  # the others may have died too, and a request would use up its attempts on them
            raise
        except BaseException:
            connection.close()
            raise
        if transport.get_write_buffer_size():  # answered too early: the unsent rest would precede the next head
            connection.close()
            if message.code < 300:
                raise aiohttp.ClientPayloadError("The server answered before it had the whole request.")
        else:
            self._idle.put(connection)
        return message.code, message.headers, decompressed(answer, message.headers)

    async def close(self) -> None:
        self._idle.give_back()
        await self._connector.close()

    async def _connect(self, request: aiohttp.ClientRequest) -> Connection:
        try:
            return await self._connector.connect(request, [], self._timeout)
        except asyncio.TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError(f"Connection timeout to host {request.url}") from error

    def _target(self, url: URL) -> _Target:
        request = aiohttp.ClientRequest(
            "POST",
            url,
            headers=self._headers,
            loop=self._loop,
            session=self._session,
            ssl=self._ssl,  # type: ignore[arg-type]
        )
        target = self._targets[url] = _Target(request, head_of(url, request.headers))
        return target


def head_of(url: URL, headers: Mapping[str, str]) -> bytes:
    r"""A request's first bytes, up to the value of its Content-Length.

    Raises:
        ValueError: a header holds a control character.

    >>> head_of(URL("http://localhost/v1/chat?a=b"), {"Host": "localhost", "Accept": "*/*"})
    b'POST /v1/chat?a=b HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nContent-Length: '
    """
    lines = [f"POST {url.raw_path_qs} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items() if name.lower() not in _LENGTHS]
    if any(_CONTROL.search(line) for line in lines):
        raise ValueError("A header holds a line break or another control character.")
    return "\r\n".join([*lines, "Content-Length: "]).encode()
