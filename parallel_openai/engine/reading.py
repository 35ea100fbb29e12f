"""The content of an HTTP answer, up to a size."""

from __future__ import annotations

from collections.abc import Mapping

import aiohttp


class TooLargeError(Exception):
    """The answer is larger than it may be."""


async def read(content: aiohttp.StreamReader, headers: Mapping[str, str], most: int) -> bytes:
    """The whole of it.

    Raises:
        TooLargeError: it has more bytes than `most`; not all of it was read, so the connection must be closed.
    """
    length = headers.get("Content-Length")
    if length is not None and "Content-Encoding" not in headers:
        if length.isdecimal() and int(length) > most:
            raise TooLargeError
        # A short answer has come all at once by now.
        return content.read_nowait() if content.is_eof() else await content.read()
    chunks, size = [], 0
    async for chunk in content.iter_any():
        size += len(chunk)
        if size > most:
            raise TooLargeError
        chunks.append(chunk)
    return b"".join(chunks)
