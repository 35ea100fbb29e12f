"""An account's connections: a transport for each event loop that it works on, since none can serve two."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, finalize

from parallel_openai.engine.loop import is_background_thread

if TYPE_CHECKING:
    from parallel_openai.engine.transport import Transport


class Connections:
    """Transports, opened where they are first needed.

    Args:
        make: opens one.

    A client that is forgotten, and the interpreter's end, close what is still open.
    """

    def __init__(self, make: Callable[[], Transport]) -> None:
        self._make = make
        self._transports: WeakKeyDictionary[asyncio.AbstractEventLoop, Transport] = WeakKeyDictionary()
        finalize(self, _close, self._transports)

    def here(self) -> Transport:
        """The transport of the loop that runs."""
        loop = asyncio.get_running_loop()
        transport = self._transports.get(loop)
        if transport is None:
            transport = self._transports[loop] = self._make()
        return transport

    def close(self) -> None:
        """Close them all; they are opened again when they are needed."""
        _close(self._transports)


def _close(transports: WeakKeyDictionary[asyncio.AbstractEventLoop, Transport]) -> None:
    for loop, transport in list(transports.items()):
        if loop.is_running():
            end = asyncio.run_coroutine_threadsafe(transport.close(), loop)
            if not is_background_thread() and loop is not asyncio._get_running_loop():  # it cannot wait for itself
                end.result(5)
