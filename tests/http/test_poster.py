"""Requests that bypass aiohttp's session are the same to the server and to the caller. Over real sockets."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from yarl import URL

from parallel_openai._http.idle_connections import WATCHED
from parallel_openai._http.post import JOINED_BODY, head_of
from parallel_openai._http.transport import Transport
from parallel_openai._loop.background import _new_loop
from parallel_openai._records import Response

OK = b"HTTP/1.1 200 OK\r\nX-Request-Id: req_1\r\nContent-Length: 2\r\n\r\n{}"


@dataclass
class RawServer:
    """Says what it is told to, byte by byte, and keeps what came: by connection, the heads of the requests."""

    answers: list[bytes]
    port: int = 0
    heads: list[list[bytes]] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    serving: set[Any] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.serving.add(asyncio.current_task())
        heads: list[bytes] = []
        self.heads.append(heads)
        self.writers.append(writer)
        try:
            while self.answers:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
                await reader.readexactly(int(length.partition(b":")[2]))
                heads.append(head)
                self.asked.set()
                answer = self.answers.pop(0)
                writer.write(answer)
                await writer.drain()
                if b"Connection: close" in answer:
                    break
            else:
                await reader.read()
        except asyncio.IncompleteReadError:
            pass
        finally:
            self.gone.set()
            writer.close()


@asynccontextmanager
async def serving(*answers: bytes) -> AsyncIterator[tuple[RawServer, Transport]]:
    raw = RawServer(list(answers))
    server = await asyncio.start_server(raw.serve, "127.0.0.1", 0)
    raw.port = server.sockets[0].getsockname()[1]
    transport = Transport(
        f"http://127.0.0.1:{raw.port}/v1?api-version=1",
        {"Authorization": "Bearer sk-0123456789", "X-Team": "Zoë"},
        timeout=10.0,
        clock=asyncio.get_running_loop().time,
        trust_env=False,
    )
    try:
        yield raw, transport
    finally:
        await transport.close()
        server.close()
        await asyncio.gather(*raw.serving)


def post(*answers: bytes, bodies: tuple[bytes, ...] = (b"{}",)) -> tuple[RawServer, list[Response]]:
    async def main() -> tuple[RawServer, list[Response]]:
        async with serving(*answers) as (raw, transport):
            return raw, [await _post_and_wait(transport, body) for body in bodies]

    return asyncio.run(main())


async def _post_and_wait(transport: Transport, body: bytes) -> Response:
    """Until a connection may be used again."""
    response = await transport.post("chat/completions", body)
    await asyncio.sleep(WATCHED)
    return response


def without_length(head: bytes) -> list[bytes]:
    return sorted(line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length"))


def test_a_request_has_the_same_bytes_as_aiohttps_own() -> None:
    async def main() -> list[bytes]:
        async with serving(OK, OK, OK) as (raw, transport):
            await transport.post("chat/completions", b"{}")
            await transport.post("chat/completions", b" " * JOINED_BODY * 20)
            poster, transport._poster = transport._poster, None  # as where there is a proxy
            await transport.post("chat/completions", b"{}")
            transport._poster = poster
            return [head for heads in raw.heads for head in heads]

    small, large, of_session = asyncio.run(main())
    assert small.startswith(b"POST /v1/chat/completions?api-version=1 HTTP/1.1\r\n")
    assert without_length(small) == without_length(large) == without_length(of_session)
    assert b"Authorization: Bearer sk-0123456789" in small
    assert b"Content-Length: 2\r\n" in small


def test_unrequested_data_is_no_answer_to_the_next_request() -> None:
    async def main() -> tuple[RawServer, Response]:
        async with serving(OK, OK) as (raw, transport):
            await transport.post("chat/completions", b"{}")
            raw.writers[0].write(OK.replace(b"{}", b"[]"))
            await asyncio.sleep(0.05)  # nobody reads that connection, so there is no other sign that it has come
            return raw, await transport.post("chat/completions", b"{}")

    raw, response = asyncio.run(main())
    assert response.data == {}
    assert [len(heads) for heads in raw.heads] == [1, 1]


def test_data_sent_by_the_server_before_the_request_is_the_answer() -> None:
    """As "503, too busy" from a balancer that reads no request."""
    accepted = 0

    async def main() -> Response:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal accepted
            accepted += 1
            writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await reader.read()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        transport = Transport(f"http://127.0.0.1:{port}/v1", {}, timeout=10.0, clock=asyncio.get_running_loop().time)
        response = await transport.post("chat/completions", b"{}")
        await transport.close()
        server.close()
        await asyncio.sleep(0.05)
        return response

    loop = _new_loop()  # uvloop's: what has come is known there before the connection is used
    try:
        assert loop.run_until_complete(main()).status == 503
    finally:
        loop.close()
    assert accepted == 1


def test_a_connection_with_an_unread_body_is_not_reused() -> None:
    """The rest of it would stand before the next request, whose row would get the answer to that."""
    heads = 0

    async def main() -> list[Response]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal heads
            head = await reader.readuntil(b"\r\n\r\n")
            heads += 1
            if b"Content-Length: 2\r\n" in head:
                writer.write(OK)
            else:
                writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\n{}")
            await asyncio.wait_for(gone.wait(), 10.0)
            writer.transport.abort()

        gone = asyncio.Event()
        server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**16)
        port = server.sockets[0].getsockname()[1]
        transport = Transport(f"http://127.0.0.1:{port}/v1", {}, timeout=5.0, clock=asyncio.get_running_loop().time)
        large = await transport.post("chat/completions", b" " * 32_000_000)
        small = await transport.post("chat/completions", b"{}")
        gone.set()
        await transport.close()
        server.close()
        await asyncio.sleep(0.05)
        return [large, small]

    assert [response.status for response in asyncio.run(main())] == [413, 200]
    assert heads == 2


ANSWERS = {
    "with a length": OK,
    "in chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
    "compressed": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b"
    % (len(gzip.compress(b"{}")), gzip.compress(b"{}")),
    "up to the end": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}",
    "after word that it goes on": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + OK,
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_is_read_however_it_is_framed(answer: bytes) -> None:
    _, [response] = post(answer)
    assert (response.status, response.body, response.data) == (200, b"{}", {})


def test_an_answer_without_a_body_is_accepted() -> None:
    _, [response, after] = post(b"HTTP/1.1 204 No Content\r\n\r\n", OK, bodies=(b"{}", b"{}"))
    assert (response.status, response.body, after.status) == (204, b"", 200)


def test_headers_are_found_in_any_case() -> None:
    assert post(OK)[1][0].request_id == "req_1"


def test_a_connection_is_reused_until_the_server_announces_its_close() -> None:
    closing = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    raw, responses = post(OK, closing, OK, bodies=(b"{}",) * 3)
    assert [response.status for response in responses] == [200] * 3
    assert [len(heads) for heads in raw.heads] == [2, 1]


def test_an_answer_that_is_not_http_is_an_error_and_its_connection_is_not_reused() -> None:
    raw, [broken, good] = post(b"220 mail ready\r\n\r\n", OK, bodies=(b"{}", b"{}"))
    assert (broken.status, broken.error_code, good.status) == (0, "connection_error", 200)
    assert f"The connection to 127.0.0.1:{raw.port} broke: " in str(broken.error)
    assert [len(heads) for heads in raw.heads] == [1, 1]


def test_a_truncated_answer_is_an_error() -> None:
    _, [response] = post(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\n{}")
    assert (response.status, response.error_code) == (0, "connection_error")


def test_the_error_for_truncated_headers_does_not_quote_them() -> None:
    _, [response] = post(b"HTTP/1.1 200 OK\r\nSet-Cookie: visitor=0123456789\r\nConnection: close\r\nConte")
    assert response.error_code == "connection_error"
    assert str(response.error).endswith("broke: the server closed it before its answer was whole.")


def test_a_connection_that_the_server_will_not_reuse_is_closed_at_once() -> None:
    async def main() -> None:
        async with serving(OK.replace(b"\r\n\r\n", b"\r\nConnection:  close\r\n\r\n"), OK) as (raw, transport):
            await transport.post("chat/completions", b"{}")
            await asyncio.wait_for(raw.gone.wait(), 5.0)

    asyncio.run(main())


def test_stale_connections_use_up_only_one_attempt_in_all() -> None:
    """As behind a balancer that has moved on: each connection is reset when it is used again."""

    async def main() -> list[int]:
        asked = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal asked
            await reader.readuntil(b"\r\n\r\n{}")
            asked += 1
            if asked == 5:
                all_asked.set()
            await all_asked.wait()
            writer.write(OK)
            await reader.readuntil(b"\r\n\r\n{}")
            writer.transport.abort()

        all_asked = asyncio.Event()
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        transport = Transport(f"http://127.0.0.1:{port}/v1", {}, timeout=10.0, clock=asyncio.get_running_loop().time)
        await asyncio.gather(*(_post_and_wait(transport, b"{}") for _ in range(5)))
        statuses = [(await transport.post("chat/completions", b"{}")).status for _ in range(2)]
        await transport.close()
        server.close()
        return statuses

    assert asyncio.run(main()) == [0, 200]


SECRET = "sk-0123456789"
LEAKS = {
    "in a body": b'HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n{"a":"sk-0123456789"}',
    "escaped": b'HTTP/1.1 200 OK\r\nContent-Length: 26\r\n\r\n{"a":"sk\\u002d0123456789"}',
    "as UTF-16": b"HTTP/1.1 200 OK\r\nContent-Length: 42\r\n\r\n" + '{"a":"sk-0123456789"}'.encode("utf-16-le"),
    "in a header": OK.replace(b"req_1", SECRET.encode()),
    "in what is no HTTP": b"220 sk-0123456789\r\n\r\n",
    "in a header that is none": b"HTTP/1.1 200 OK\r\nX: \x00 sk-0123456789\r\n\r\n",
    "in a length": b"HTTP/1.1 200 OK\r\nContent-Length: sk-0123456789\r\n\r\n",
    "in a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nsk-0123456789\r\n",
}


@pytest.mark.parametrize("answer", LEAKS.values(), ids=LEAKS)
def test_a_key_echoed_by_the_server_is_masked_everywhere(answer: bytes) -> None:
    _, [response] = post(answer)
    shown = f"{response} {dict(response.headers)} {response.body.decode('utf-8', 'replace')}"
    assert SECRET not in shown.replace("\x00", "").replace("\\u002d", "-")


async def _cancelled(raw: RawServer, transport: Transport) -> None:
    sending = asyncio.create_task(transport.post("chat/completions", b"{}"))
    await raw.asked.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending


async def _too_late(raw: RawServer, transport: Transport) -> None:
    response = await transport.post("chat/completions", b"{}", timeout=0.01)
    assert response.error_code == "timeout"
    assert response.error == "No complete answer within 0.01 s (the client's timeout)."


@pytest.mark.parametrize("end", [_cancelled, _too_late])
def test_a_cancelled_request_closes_its_connection(
    end: Callable[[RawServer, Transport], Awaitable[None]],
) -> None:
    async def main() -> None:
        async with serving(b"") as (raw, transport):
            await end(raw, transport)
            await asyncio.wait_for(raw.gone.wait(), 5.0)

    asyncio.run(main())


def test_a_renewed_key_is_sent_from_then_on() -> None:
    async def main() -> list[bytes]:
        async with serving(OK, OK) as (raw, transport):
            await _post_and_wait(transport, b"{}")
            transport.use({"Authorization": "Bearer sk-9876543210"})
            await transport.post("chat/completions", b"{}")
            return raw.heads[0]

    before, after = asyncio.run(main())
    assert b"Bearer sk-0123456789" in before
    assert b"Bearer sk-9876543210" in after
    assert b"sk-0123456789" not in after


def test_a_header_with_a_line_break_is_refused() -> None:
    with pytest.raises(ValueError, match="line break"):
        head_of(URL("http://localhost/v1"), {"X-Team": "blue\r\nX-Other: red"})
