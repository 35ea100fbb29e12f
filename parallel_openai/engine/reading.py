"""The content of an HTTP answer, up to a size."""

from __future__ import annotations

from collections.abc import Mapping

import aiohttp


class TooLargeError(Exception):
    """The answer is larger than it may be."""


def read_at_once(content: aiohttp.StreamReader, headers: Mapping[str, str], most: int) -> bytes | None:
    """The whole of a short answer, which has come all at once, as most do; None where it must be waited for.

    Raises:
        TooLargeError: as `read` does.
    """
    if not content.is_eof() or "Content-Encoding" in headers:
        return None
    answer = content.read_nowait()
    if len(answer) > most:
        raise TooLargeError
    return answer


async def read(content: aiohttp.StreamReader, headers: Mapping[str, str], most: int) -> bytes:
    """The whole of it.

    Raises:
        TooLargeError: it has more bytes than `most`; not all of it was read, so the connection must be closed.
    """
    length = headers.get("Content-Length")
    if length is not None and "Content-Encoding" not in headers:
        if length.isdecimal() and int(length) > most:
            raise TooLargeError
        return await content.read()
    chunks, size = [], 0
    async for chunk in content.iter_any():
        size += len(chunk)
        if size > most:
            raise TooLargeError
        chunks.append(chunk)
    return b"".join(chunks)
