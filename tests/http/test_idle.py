"""Idle connections are used again, the last one first, and closed after a while. Over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any

import aiohttp
import pandas as pd
from aiohttp.connector import Connection
from yarl import URL

import parallel_openai as po
from parallel_openai._http.idle_connections import ENOUGH, IdleConnections

Connect = Callable[[], Awaitable[Connection]]
#: Seconds that a connection may wait in these tests.
KEPT = 0.05


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[Connect, asyncio.Queue[Any]]]:
    """Gives what makes a connection to a server, and the names of those that the server has seen end."""
    ended: asyncio.Queue[Any] = asyncio.Queue()
    serving = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        await reader.read()
        ended.put_nowait(writer.get_extra_info("peername"))
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with aiohttp.ClientSession() as session:
        connector = session.connector
        assert connector is not None
        url = URL.build(scheme="http", host="127.0.0.1", port=server.sockets[0].getsockname()[1])
        request = aiohttp.ClientRequest("POST", url, loop=asyncio.get_running_loop(), session=session)
        yield lambda: connector.connect(request, [], session.timeout), ended
    server.close()
    await asyncio.gather(*serving)


def played(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    @wraps(test)
    def play() -> None:
        asyncio.run(test())

    return play


def name(connection: Connection) -> Any:
    assert connection.transport is not None
    return connection.transport.get_extra_info("sockname")


@played
async def test_the_connection_returned_last_is_used_first() -> None:
    async with listening() as (connect, _):
        idle, one, other = IdleConnections(asyncio.get_running_loop(), watched=0.0), await connect(), await connect()
        idle.put(one)
        idle.put(other)
        assert [idle.take(), idle.take(), idle.take()] == [other, one, None]
        one.close()
        other.close()


@played
async def test_a_connection_idle_for_too_long_is_closed_and_the_others_are_kept() -> None:
    async with listening() as (connect, ended):
        idle, old, fresh = (
            IdleConnections(asyncio.get_running_loop(), seconds=KEPT, watched=0.0),
            await connect(),
            await connect(),
        )
        old_name, fresh_name = name(old), name(fresh)
        idle.put(old)
        await asyncio.sleep(KEPT / 2)
        idle.put(fresh)
        assert await ended.get() == old_name
        assert idle.take() is fresh
        idle.put(fresh)
        assert await ended.get() == fresh_name
        assert idle.take() is None


@played
async def test_a_closed_connection_is_not_returned() -> None:
    async with listening() as (connect, ended):
        idle, closed = IdleConnections(asyncio.get_running_loop(), watched=0.0), await connect()
        idle.put(closed)
        assert closed.transport is not None
        closed.transport.close()
        await ended.get()
        assert idle.take() is None


@played
async def test_all_idle_connections_can_be_dropped_at_once() -> None:
    async with listening() as (connect, ended):
        idle = IdleConnections(asyncio.get_running_loop(), watched=0.0)
        connections = [await connect() for _ in range(3)]
        names = {name(each) for each in connections}
        for each in connections:
            idle.put(each)
        idle.drop()
        assert {await ended.get() for _ in names} == names
        assert idle.take() is None


@played
async def test_released_connections_are_closed_with_the_session() -> None:
    async with listening() as (connect, ended):
        idle, connection = IdleConnections(asyncio.get_running_loop(), watched=0.0), await connect()
        there = name(connection)
        idle.put(connection)
        idle.give_back()
        assert connection.closed  # it is aiohttp's now, and open
        assert ended.empty()
    assert await ended.get() == there


@played
async def test_while_the_first_is_watched_a_request_does_not_wait_for_few_idle_ones() -> None:
    async with listening() as (connect, _):
        idle, one = IdleConnections(asyncio.get_running_loop(), watched=60.0), await connect()
        idle.put(one)
        assert idle.take() is None
        assert await idle.take_soon() is None
        idle.drop()


@played
async def test_while_the_first_is_watched_a_request_waits_for_enough_idle_ones() -> None:
    async with listening() as (connect, _):
        idle = IdleConnections(asyncio.get_running_loop(), watched=KEPT)
        connections = [await connect() for _ in range(ENOUGH)]
        for each in connections:
            idle.put(each)
        assert idle.take() is None
        assert await idle.take_soon() is connections[-1]
        assert idle.take() is connections[-2]
        idle.drop()
        connections[-1].close()
        connections[-2].close()


@played
async def test_a_waiting_request_goes_on_without_one_if_all_are_dropped() -> None:
    async with listening() as (connect, _):
        idle = IdleConnections(asyncio.get_running_loop(), watched=60.0)
        for _ in range(ENOUGH):
            idle.put(await connect())
        waiting = asyncio.create_task(idle.take_soon())
        await asyncio.sleep(0)
        idle.drop()
        assert await waiting is None


def test_a_quick_server_sees_few_connections_however_many_rows_come_while_the_first_is_watched() -> None:
    df = pd.DataFrame({"text": [f"row {number}" for number in range(200)]})
    with po.local.simulator.serve() as server:
        with po.Client(server.base_url, max_concurrent_requests=20) as client:
            out = po.process_dataframe(df, "text", model="gpt-5-mini", client=client, progress=False)
        assert (out["status"] == "succeeded").all()
        assert server.stats()["connections"] <= ENOUGH + 20
