"""The pool of idle connections to one server, kept to be used again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp.connector import Connection

from parallel_openai._http.heads import Handler

#: Seconds for which an idle connection is kept: servers and gateways silently close theirs after a minute or so.
KEPT = 30.0
#: Seconds for which the first connection is watched before any is used again. If a server sends more than one answer to
#: a request, the rest would be taken for the answer to the next.
WATCHED = 0.05
#: Seconds for which a connection is used again without polling its socket. A poll releases the interpreter lock, and
#: getting it back from other threads takes longer than a row does.
FRESH = 0.02
#: Once this many are idle while the first is still watched, requests wait for that rather than open a connection, which
#: costs more than a request.
ENOUGH = 24


class IdleConnections:
    """Idle connections to one server. The last one put in is taken first, so that surplus ones time out.

    Args:
        loop: the running loop.
        seconds: how long a connection is kept.
        watched: for how many seconds the first one must stay silent before any is used again; 0 trusts the server.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, seconds: float = KEPT, watched: float = WATCHED) -> None:
        self._loop = loop
        self._seconds = seconds
        self._watched = watched
        self._is_trusted: bool | None = None if watched else True  # None until the first has been watched
        self._watch: asyncio.TimerHandle | None = None
        self._decided = asyncio.Event()
        self._kept: list[tuple[Connection, float]] = []  # with the time of `put`, the oldest first
        self._timer: asyncio.TimerHandle | None = None

    def put(self, connection: Connection) -> None:
        protocol = connection.protocol
        if self._is_trusted is False or protocol is None or protocol.should_close:  # the server closes it
            connection.close()
            return
        self._kept.append((connection, self._loop.time()))
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._close_old)
        if self._is_trusted is None and self._watch is None:
            self._watch = self._loop.call_later(self._watched, self._judge)

    def take(self) -> Connection | None:
        """A usable connection, or None."""
        while self._is_trusted and self._kept:
            connection, since = self._kept.pop()
            protocol = connection.protocol
            # Bytes that arrived while the connection was idle would be taken for the next answer.
            is_sound = protocol is not None and protocol.is_connected() and not protocol.should_close
            is_stale = self._loop.time() > since + FRESH
            if is_sound and not (is_stale and isinstance(protocol, Handler) and protocol.has_unread()):
                return connection
            self._is_trusted = False if _has_extra_data(connection) else self._is_trusted
            connection.close()
        return None

    async def take_soon(self) -> Connection | None:
        """As `take`, but wait until the server is trusted if enough connections are idle."""
        if self._is_trusted is None and len(self._kept) >= ENOUGH:
            await self._decided.wait()
        return self.take()

    def _judge(self) -> None:
        """Trust the server unless something unrequested has come on an idle connection."""
        self._is_trusted = not any(_has_extra_data(connection) for connection, _ in self._kept)
        if self._is_trusted:
            self._decided.set()
        else:
            self.drop()

    def drop(self) -> None:
        """Close all connections at once."""
        self._empty(Connection.close)

    def give_back(self) -> None:
        """Release all connections to aiohttp, which closes them cleanly with its session."""
        self._empty(Connection.release)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _empty(self, end: Callable[[Connection], None]) -> None:
        for connection, _ in self._kept:
            end(connection)
        self._kept.clear()
        if self._watch is not None:  # the watched connection is gone
            self._watch.cancel()
            self._watch = None
        self._decided.set()
        self._decided = asyncio.Event()

    def _close_old(self) -> None:
        self._timer, oldest = None, self._loop.time() - self._seconds
        fresh = [each for each in self._kept if each[1] > oldest]
        for connection, _ in self._kept[: len(self._kept) - len(fresh)]:
            connection.close()
        self._kept = fresh
        if fresh:
            self._timer = self._loop.call_later(fresh[0][1] - oldest, self._close_old)


def _has_extra_data(connection: Connection) -> bool:
    """Whether something unrequested has come on a connection that is still open."""
    protocol = connection.protocol
    return protocol is not None and protocol.is_connected() and protocol.should_close
