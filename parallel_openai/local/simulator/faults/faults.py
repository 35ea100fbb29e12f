"""Random faults: which attempt of which request gets one, and how each looks on the socket."""

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


class FaultSampler:
    """Draws a fault from the seed, the body and the attempt's number, independent of the order of arrival.

    >>> first, second = FaultSampler(Settings(fault_500=0.5)), FaultSampler(Settings(fault_500=0.5))
    >>> [first.draw(b"a") for _ in range(5)] == [second.draw(b"a") for _ in range(5)]
    True
    """

    def __init__(self, settings: Settings) -> None:
        self._sends: Counter[bytes] = Counter()
        self.change(settings)

    def change(self, settings: Settings) -> None:
        self._seed = settings.seed.to_bytes(16, "little", signed=True)
        self._faults = [(kind, chance) for kind, chance in settings.faults().items() if chance]
        self._faulty_attempts = settings.faulty_attempts

    def draw(self, digest: bytes) -> str | None:
        """The fault of this attempt, or None. Call once for each attempt."""
        if not self._faults:
            return None
        self._sends[digest] += 1
        attempt = self._sends[digest]
        if self._faulty_attempts is not None and attempt > self._faulty_attempts:
            return None
        digested = blake2b(self._seed + digest + attempt.to_bytes(4, "little"), digest_size=8).digest()
        share = int.from_bytes(digested, "little") / 2**64
        for kind, chance in self._faults:
            if share < chance:
                return kind
            share -= chance
        return None


def reset(request: web.Request) -> web.StreamResponse:
    """Answer with a TCP reset."""
    transport = request.transport
    if transport is not None:  # pragma: no branch - None only if the client closed first
        connection = transport.get_extra_info("socket")
        # SO_LINGER with a timeout of 0 makes the close a reset.
        linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()
    return web.Response()


async def truncated(request: web.Request, body: bytes, headers: dict[str, str]) -> web.StreamResponse:
    """Announce the whole body in Content-Length, send half of it, and close."""
    response = web.StreamResponse(headers={**headers, "content-length": str(len(body))})
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if request.transport is not None:  # pragma: no branch - None only if the client closed first
        request.transport.close()
    return response


async def close_keepalive(request: web.Request, body: bytes, headers: dict[str, str]) -> web.StreamResponse:
    """Send a good answer without `Connection: close`, then close the connection."""
    response = web.Response(body=body, headers=headers)
    await response.prepare(request)
    await response.write_eof()
    if request.transport is not None:  # pragma: no branch - None only if the client closed first
        request.transport.close()
    return response


async def gzip_bomb(request: web.Request, headers: dict[str, str]) -> web.StreamResponse:
    """About 250 kB that unpack to 256 MB of spaces, without the final checksum."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    megabyte = b" " * 2**20
    start = packer.compress(megabyte) + packer.flush(zlib.Z_FULL_FLUSH)
    # After a full flush equal input gives equal output, so one packed megabyte can be repeated.
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
