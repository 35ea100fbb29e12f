"""What goes wrong: which send of which request meets which fault, and how each fault looks on the socket."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import zlib
from collections import Counter
from hashlib import blake2b

from aiohttp import web

from parallel_openai.local.simulator.settings import Settings

FLAWS = frozenset({"empty", "length", "refusal", "content_filter", "off_schema"})
REFUSED = frozenset({"429", "slow_down"})
FAILED = frozenset({"500", "502", "503"})
PAGE = b"<!doctype html><html><body><h1>Simulated: not the API you are looking for.</h1></body></html>"
BOMB_MEGABYTES = 256


class FaultDice:
    """Draws by the seed, the body and how often it was sent, so that the order of arrival changes nothing.

    >>> first, second = FaultDice(Settings(fault_500=0.5)), FaultDice(Settings(fault_500=0.5))
    >>> [first.draw(b"a") for _ in range(5)] == [second.draw(b"a") for _ in range(5)]
    True
    """

    def __init__(self, settings: Settings) -> None:
        self._sends: Counter[bytes] = Counter()
        self.change(settings)

    def change(self, settings: Settings) -> None:
        self._seed = settings.seed.to_bytes(16, "little", signed=True)
        self._faults = [(kind, chance) for kind, chance in settings.faults().items() if chance]
        self._most = settings.faulty_attempts

    def draw(self, digest: bytes) -> str | None:
        """The fault of this send, or None; call it once for each send."""
        if not self._faults:
            return None
        self._sends[digest] += 1
        attempt = self._sends[digest]
        if self._most is not None and attempt > self._most:
            return None
        rolled = blake2b(self._seed + digest + attempt.to_bytes(4, "little"), digest_size=8).digest()
        share = int.from_bytes(rolled, "little") / 2**64
        for kind, chance in self._faults:
            if share < chance:
                return kind
            share -= chance
        return None


def reset(request: web.Request) -> web.StreamResponse:
    """Answer with a TCP reset."""
    transport = request.transport
    if transport is not None:  # pragma: no branch - None only where the client was faster
        connection = transport.get_extra_info("socket")
        # Lingering for no time is what turns a close into a reset.
        linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()
    return web.Response()


async def truncated(request: web.Request, body: bytes, headers: dict[str, str]) -> web.StreamResponse:
    """Promise the whole body, send half of it, and close."""
    response = web.StreamResponse(headers={**headers, "content-length": str(len(body))})
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if request.transport is not None:  # pragma: no branch - None only where the client was faster
        request.transport.close()
    return response


async def close_keepalive(request: web.Request, body: bytes, headers: dict[str, str]) -> web.StreamResponse:
    """A good answer on a connection that seems to stay open, and does not."""
    response = web.Response(body=body, headers=headers)
    await response.prepare(request)
    await response.write_eof()
    if request.transport is not None:  # pragma: no branch - None only where the client was faster
        request.transport.close()
    return response


async def gzip_bomb(request: web.Request, headers: dict[str, str]) -> web.StreamResponse:
    """Some 250 kB that unpack to 256 MB of spaces; the checksum at the end is missing."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    megabyte = b" " * 2**20
    start = packer.compress(megabyte) + packer.flush(zlib.Z_FULL_FLUSH)
    # After a full flush the same input gives the same bytes, so one megabyte is packed for all of them.
    again = packer.compress(megabyte) + packer.flush(zlib.Z_FULL_FLUSH)
    return web.Response(body=start + again * (BOMB_MEGABYTES - 1), headers={**headers, "content-encoding": "gzip"})


async def endless(request: web.Request, headers: dict[str, str], seconds: float) -> web.StreamResponse:
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    until = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < until:
        await response.write(b" " * 2**20)
        await asyncio.sleep(0.01)
    return response
