"""Connections that wait to be used again."""

from __future__ import annotations

import asyncio
import select

from aiohttp.connector import Connection

#: Seconds that one is kept for: servers and what stands before them close after a minute or so, without a word.
KEPT = 30.0


class IdleConnections:
    """Kept until they are taken, or have waited for too long; all lead to the same server.

    The one that came last is taken first: where fewer are needed than before, the others end.

    Args:
        loop: the one that runs.
        seconds: what is too long.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, seconds: float = KEPT) -> None:
        self._loop = loop
        self._seconds = seconds
        self._kept: list[tuple[Connection, float]] = []  # in the order in which they came
        self._timer: asyncio.TimerHandle | None = None

    def put(self, connection: Connection) -> None:
        if not _is_sound(connection):  # the server has said that it closes it
            connection.close()
            return
        self._kept.append((connection, self._loop.time()))
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._end_old)

    def take(self) -> Connection | None:
        """One that can be used; None where there is none."""
        while self._kept:
            connection, _ = self._kept.pop()
            if _is_sound(connection):
                return connection
            connection.close()
        return None

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


def _is_sound(connection: Connection) -> bool:
    """Whether it is open, and nothing has come while nobody had asked, which would pass for the next answer."""
    protocol = connection.protocol
    if protocol is None or not protocol.is_connected() or protocol.should_close:
        return False
    transport = protocol.transport
    socket = None if transport is None else transport.get_extra_info("socket")
    return socket is None or not _has_come(socket.fileno())


def _has_come(file: int) -> bool:
    """Whether something lies there that the loop has not read: the end, mostly, of a server that closes unannounced."""
    if not hasattr(select, "poll"):  # Windows
        return False
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(0))
