"""Posts bodies over aiohttp's connections, past its session, which takes longer to make a request than to send it.

What a session does anew for every request, it does once here: the head of the request is made and kept as bytes. Its
connections, their TLS, the names and the reading of HTTP stay aiohttp's.
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
from parallel_openai._http.connection_errors import NotHTTPError, what_it_speaks
from parallel_openai._http.idle_connections import IdleConnections
from parallel_openai._loop.interrupts import sending_stopped

#: A body up to this size is joined to its head, so that both travel in one piece.
JOINED_BODY = 2**16
#: Headers that say how long the body is.
_LENGTHS = frozenset({"content-length", "transfer-encoding"})
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class _Target(NamedTuple):
    """What is the same for all requests to a URL: what says which connections serve it, and the head."""

    request: aiohttp.ClientRequest
    head: bytes


class Poster:
    """Posts to the URLs of one server."""

    def __init__(
        self,
        session: aiohttp.ClientSession,  # which the requests belong to
        # Makes the connections, and is closed with this. It is nobody else's, so that each is a new one.
        connector: aiohttp.BaseConnector,
        headers: Mapping[str, str],  # those of every request
        *,
        ssl: object,  # as `aiohttp` has it
        timeout: aiohttp.ClientTimeout,  # its `sock_connect` is kept to
        max_response_bytes: int,  # what an answer may have at the most
    ) -> None:
        self._session = session
        self._connector = connector
        self._headers = headers
        self._ssl = ssl
        self._timeout = timeout
        self._max_response_bytes = max_response_bytes
        self._loop = asyncio.get_running_loop()
        self._idle = IdleConnections(self._loop)
        self._targets: dict[URL, _Target] = {}

    def forget_headers(self) -> None:
        """They have changed."""
        self._targets.clear()

    async def post(self, url: URL, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        """Send the body; gives the answer's status, headers and content.

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
                if message.code >= 200 or message.code == 101:  # those below only say that it goes on
                    break
            if content.is_eof():  # it has come all at once, as short answers do
                answer = content.read_nowait()
                if len(answer) > self._max_response_bytes:
                    raise TooLargeError
            else:
                answer = await read(content, message.headers, self._max_response_bytes)
        except HttpProcessingError as error:
            connection.close()
            raise NotHTTPError(what_it_speaks(str(error))) from error
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            connection.close()
            self._idle.drop()  # one has died unseen, so all may have, and a request would use its attempts up on them
            raise
        except BaseException:
            connection.close()
            raise
        if transport.get_write_buffer_size():  # answered before all was sent, whose rest would go before the next head
            connection.close()
            if message.code < 300:
                raise aiohttp.ClientPayloadError("The server answered before it had the whole request.")
        else:
            self._idle.put(connection)
        return message.code, message.headers, decompressed(answer, message.headers, self._max_response_bytes)

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
    r"""A request's first bytes, up to the number that says how long its body is.

    Raises:
        ValueError: a header holds a character that would end it.

    >>> head_of(URL("http://localhost/v1/chat?a=b"), {"Host": "localhost", "Accept": "*/*"})
    b'POST /v1/chat?a=b HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nContent-Length: '
    """
    lines = [f"POST {url.raw_path_qs} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items() if name.lower() not in _LENGTHS]
    if any(_CONTROL.search(line) for line in lines):
        raise ValueError("A header holds a line break or another control character.")
    return "\r\n".join([*lines, "Content-Length: "]).encode()
