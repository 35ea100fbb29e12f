"""An account's connections: one transport for each event loop that uses it, since a transport cannot serve two."""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, wait
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakSet, finalize

from parallel_openai._loop.background import drain, is_background_thread
from parallel_openai._loop.forks import at_fork

if TYPE_CHECKING:
    from parallel_openai._http.transport import Transport


class Connections:
    """One transport per event loop, opened on first use.

    They are closed when the client is garbage collected, or at exit.
    """

    def __init__(self, make: Callable[[], Transport]) -> None:
        self._make = make
        self._transports: WeakKeyDictionary[asyncio.AbstractEventLoop, Transport] = WeakKeyDictionary()
        self._borrowers: WeakKeyDictionary[asyncio.AbstractEventLoop, int] = WeakKeyDictionary()
        forgotten = finalize(self, _close, self._transports)
        forgotten.atexit = False
        _all.add(self)

    def here(self) -> Transport:
        """The running loop's transport."""
        loop = asyncio.get_running_loop()
        transport = self._transports.get(loop)
        if transport is None:
            transport = self._transports[loop] = self._make()
        return transport

    @asynccontextmanager
    async def borrowed(self) -> AsyncIterator[None]:
        """Use the running loop's transport and close it with the last use, since the loop may end after that."""
        loop = asyncio.get_running_loop()
        self._borrowers[loop] = self._borrowers.get(loop, 0) + 1
        try:
            yield
        finally:
            self._borrowers[loop] -= 1
            if not self._borrowers[loop]:
                await self.here().close()

    def close(self, *, at_once: bool = False) -> None:
        """Close all transports, those in use when they no longer are. They are opened again on the next use."""
        wait(_close(self._transports, at_once=at_once), PATIENCE)


def _close(
    transports: WeakKeyDictionary[asyncio.AbstractEventLoop, Transport], *, at_once: bool = False
) -> list[Future[None]]:
    """Begin to close transports, and return the futures that may be waited for.

    It does not wait itself, since it also runs as a finalizer: its thread may hold a lock that the loop is waiting for.
    """
    ends = []
    for loop, transport in list(transports.items()):
        if loop.is_running():
            end = asyncio.run_coroutine_threadsafe(transport.close(at_once=at_once), loop)
            is_own = is_background_thread() or loop is asyncio._get_running_loop()  # it cannot wait for itself
            if not is_own and (at_once or not transport.in_use):
                ends.append(end)
    return ends


#: Seconds to wait for connections to close.
PATIENCE = 5.0
_all: WeakSet[Connections] = WeakSet()
_inherited: list[tuple[asyncio.AbstractEventLoop, Transport]] = []


def _leave_to_parent() -> None:
    """In a forked child, forget the connections without closing them."""
    for each in list(_all):
        _inherited.extend(each._transports.items())
        each._transports.clear()


at_fork(in_child=_leave_to_parent)


@atexit.register
def _close_all() -> None:
    drain()
    for each in list(_all):
        each.close(at_once=True)
