"""Reads and decompresses the content of an HTTP answer, up to a maximum size."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import aiohttp
from aiohttp.compression_utils import BrotliDecompressor, ZSTDDecompressor

from parallel_openai._records import MAX_RESPONSE_BYTES

#: The longest header line accepted, and the most of them: gateways send cookies and policies of several kilobytes.
MAX_HEADER_LINE = 2**17
MAX_HEADERS = 2000
_GZIP = frozenset({"gzip", "x-gzip", "deflate"})
#: Supported if the library is installed; only then does aiohttp's `Accept-Encoding` offer them.
_LIBRARIES = {"br": (BrotliDecompressor, "brotli"), "zstd": (ZSTDDecompressor, "backports.zstd")}


class TooLargeError(Exception):
    """The answer is larger than allowed."""


class UnreadableError(Exception):
    """The answer has an unsupported compression, which the message names."""


async def read(content: aiohttp.StreamReader, headers: Mapping[str, str]) -> bytes:
    """Read all of the content.

    Raises:
        TooLargeError: it is too long. It was not read to the end, so the connection must be closed.
    """
    length = headers.get("Content-Length")
    if length is not None:
        if length.isdecimal() and float(length) > MAX_RESPONSE_BYTES:
            raise TooLargeError
        return await content.read()
    chunks, size = [], 0
    async for chunk in content.iter_any():
        size += len(chunk)
        if size > MAX_RESPONSE_BYTES:
            raise TooLargeError
        chunks.append(chunk)
    return b"".join(chunks)


def decompressed(content: bytes, headers: Mapping[str, str], most: int = MAX_RESPONSE_BYTES) -> bytes:
    """The content decompressed. If it is not compressed, it is returned as it is, whatever the headers say.

    Raises:
        TooLargeError: decompressed, it has more than `most` bytes.
        UnreadableError: the compression is not supported.
        aiohttp.ClientPayloadError: the content is cut off.

    >>> decompressed(b'{"a": 1}', {"Content-Encoding": "gzip"})
    b'{"a": 1}'
    """
    lines = headers.getall("Content-Encoding", ()) if hasattr(headers, "getall") else (headers.get("Content-Encoding"),)
    named = ",".join(filter(None, lines)) or ("gzip" if content.startswith(b"\x1f\x8b") else "")
    if not named:
        return content
    for name in reversed(named.lower().replace(" ", "").split(",")):
        if name in _LIBRARIES:
            content = _by_library(name, content, most)
        elif name in _GZIP and not _is_plain(content):
            content = _unzipped(name, content, most)
        elif name not in ("", "identity") and not _is_plain(content):
            raise UnreadableError(f"The answer is compressed as {name!r:.50}, which is not supported.")
        if len(content) > most:
            raise TooLargeError
    return content


def _is_plain(content: bytes) -> bool:
    """Whether the content is JSON or empty, and therefore not compressed."""
    return content.lstrip()[:1] in (b"{", b"[", b"")


def _unzipped(name: str, content: bytes, most: int) -> bytes:
    whole, rest = b"", content
    while rest and len(whole) <= most:  # there may be several gzip members
        is_raw = name == "deflate" and rest[:1] not in (b"x", b"\x1f")
        reader = zlib.decompressobj(-zlib.MAX_WBITS if is_raw else zlib.MAX_WBITS | 32)
        try:
            whole += reader.decompress(rest, most + 1 - len(whole))
        except zlib.error:
            return whole or content
        # Only the checksum may be missing, without which others read it too; if more is, parsing will tell.
        if not reader.eof and len(whole) <= most and whole.rstrip()[-1:] not in (b"}", b"]"):
            raise aiohttp.ClientPayloadError("The answer is cut off.")
        rest = reader.unused_data
    return whole


def _by_library(name: str, content: bytes, most: int) -> bytes:
    kind, package = _LIBRARIES[name]
    try:
        reader = kind()
    except RuntimeError as error:
        if _is_plain(content):
            return content
        sentence = f"The server compresses its answers as {name!r}, unrequested. To read them, install {package}"
        raise UnreadableError(f"{sentence} (pip install {package}).") from error
    try:
        return reader.decompress_sync(content, most + 1)
    except Exception:  # each library has its own; if it was not compressed at all, parsing will tell
        return content
