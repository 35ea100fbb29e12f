"""Connections that wait to be used again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp.connector import Connection

from parallel_openai._http.heads import Handler

#: Seconds that one is kept for: servers and what stands before them close after a minute or so, without a word.
KEPT = 30.0
#: For which the first one is watched before any is used again: a server that says more than it was asked would have the
#: rest taken for the answer to the next request.
WATCHED = 0.05
#: Seconds for which what came on one is known from the loop. To look again lets other threads have the interpreter, and
#: to get it back from them costs more than a row.
FRESH = 0.02
#: So many that wait for that are enough: whoever needs one waits with them. Opening one costs more than a request.
ENOUGH = 24


class IdleConnections:
    """Kept until they are taken, or have waited for too long; all lead to the same server.

    The one that came last is taken first: where fewer are needed than before, the others end.

    Args:
        loop: the one that runs.
        seconds: what is too long.
        watched: how long the first one must have been silent.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, seconds: float = KEPT, watched: float = WATCHED) -> None:
        self._loop = loop
        self._seconds = seconds
        self._watched = watched
        self._is_trusted: bool | None = None if watched else True  # None until one has been watched
        self._watch: asyncio.TimerHandle | None = None
        self._news = asyncio.Event()
        self._kept: list[tuple[Connection, float]] = []  # in the order in which they came
        self._timer: asyncio.TimerHandle | None = None

    def put(self, connection: Connection) -> None:
        protocol = connection.protocol
        if self._is_trusted is False or protocol is None or protocol.should_close:  # the server has said that it closes
            connection.close()
            return
        self._kept.append((connection, self._loop.time()))
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._end_old)
        if self._is_trusted is None and self._watch is None:
            self._watch = self._loop.call_later(self._watched, self._judge)

    def take(self) -> Connection | None:
        """One that can be used; None where there is none."""
        while self._is_trusted and self._kept:
            connection, since = self._kept.pop()
            protocol = connection.protocol
            # Something that has come while nobody had asked would pass for the next answer.
            is_sound = protocol is not None and protocol.is_connected() and not protocol.should_close
            if is_sound and not (self._loop.time() > since + FRESH and _has_unread(connection)):
                return connection
            self._is_trusted = False if _says_more(connection) else self._is_trusted
            connection.close()
        return None

    async def take_soon(self) -> Connection | None:
        """The same as soon as the server is trusted, if enough of them wait for that."""
        if self._is_trusted is None and len(self._kept) >= ENOUGH:
            await self._news.wait()
        return self.take()

    def _judge(self) -> None:
        """Judge the server by the connections that were kept, the first one for long enough."""
        self._is_trusted = not any(_says_more(connection) for connection, _ in self._kept)
        if self._is_trusted:
            self._news.set()
        else:
            self.drop()

    def drop(self) -> None:
        """Close them all."""
        self._let_go(Connection.close)

    def give_back(self) -> None:
        """Leave them to aiohttp, which closes them in good order when its session is closed."""
        self._let_go(Connection.release)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _let_go(self, end: Callable[[Connection], None]) -> None:
        for connection, _ in self._kept:
            end(connection)
        self._kept.clear()
        if self._watch is not None:  # the one that was watched is gone
            self._watch.cancel()
            self._watch = None
        self._news.set()
        self._news = asyncio.Event()

    def _end_old(self) -> None:
        self._timer, oldest = None, self._loop.time() - self._seconds
        fresh = [each for each in self._kept if each[1] > oldest]
        for connection, _ in self._kept[: len(self._kept) - len(fresh)]:
            connection.close()
        self._kept = fresh
        if fresh:
            self._timer = self._loop.call_later(fresh[0][1] - oldest, self._end_old)


def _says_more(connection: Connection) -> bool:
    """Whether something has come that nobody had asked for, and the connection is open all the same."""
    protocol = connection.protocol
    return protocol is not None and protocol.is_connected() and protocol.should_close


def _has_unread(connection: Connection) -> bool:
    return isinstance(connection.protocol, Handler) and connection.protocol.has_unread()
