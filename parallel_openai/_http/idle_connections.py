"""Connections that wait to be used again."""

from __future__ import annotations

import asyncio
import select

from aiohttp.connector import Connection

#: Seconds that one is kept for: servers and what stands before them close after a minute or so, without a word.
KEPT = 30.0
#: For which the first one is watched before any is used again: a server that says more than it was asked would have the
#: rest taken for the answer to the next request.
WATCHED = 0.05


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
        self._is_trusted: bool | None = None  # None until one has been watched
        self._kept: list[tuple[Connection, float]] = []  # in the order in which they came
        self._timer: asyncio.TimerHandle | None = None
        self._poll = select.poll() if hasattr(select, "poll") else None  # Windows has none

    def put(self, connection: Connection) -> None:
        if self._is_trusted is False or not _is_sound(connection):  # the server has said that it closes it
            connection.close()
            return
        self._kept.append((connection, self._loop.time()))
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._end_old)

    def take(self) -> Connection | None:
        """One that can be used; None where there is none."""
        if self._is_trusted is None:
            self._watch()
        while self._is_trusted and self._kept:
            connection, _ = self._kept.pop()
            if _is_sound(connection) and not self._has_come(connection):
                return connection
            self._is_trusted = False if _says_more(connection) else self._is_trusted
            connection.close()
        return None

    def _watch(self) -> None:
        """Judge the server by the connections that were kept, the first one for long enough."""
        if any(_says_more(connection) for connection, _ in self._kept):
            self._is_trusted = False
            self.drop()
        elif self._kept and self._loop.time() >= self._kept[0][1] + self._watched:
            self._is_trusted = True

    def _has_come(self, connection: Connection) -> bool:
        """Whether something lies there that the loop has not read: the end, mostly, if a server closes unannounced."""
        socket = connection.transport.get_extra_info("socket") if connection.transport is not None else None
        if self._poll is None or socket is None:
            return False
        file = socket.fileno()
        self._poll.register(file, select.POLLIN)
        try:
            return bool(self._poll.poll(0))
        finally:
            self._poll.unregister(file)

    def drop(self) -> None:
        """Close them all."""
        for connection, _ in self._kept:
            connection.close()
        self._kept.clear()

    def give_back(self) -> None:
        """Leave them to aiohttp, which closes them in good order when its session is closed."""
        for connection, _ in self._kept:
            connection.release()
        self._kept.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

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


def _is_sound(connection: Connection) -> bool:
    """Whether it is open, and nothing has come while nobody had asked, which would pass for the next answer."""
    protocol = connection.protocol
    return protocol is not None and protocol.is_connected() and not protocol.should_close
