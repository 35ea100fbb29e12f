"""Rewrites heads of HTTP answers that other clients accept but aiohttp's parser refuses, so that no answer is lost.

httpx and curl both accept a Content-Length beside chunks, a repeated Content-Length, a later HTTP version and bytes
after the end of the content; curl also accepts invalid header names. What remains is left to aiohttp's parser.
"""

from __future__ import annotations

import asyncio
import re
import select
from functools import partial
from typing import Any, NamedTuple

import aiohttp
from aiohttp.client_proto import ResponseHandler

_NAME = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_USUAL_STATUS = re.compile(rb"HTTP/1\.[01] \d{3}[ \r\n]")
_OTHER_LINES = rb"(?:(?!(?i:content-length|transfer-encoding):)" + _NAME + rb":.*\n)*"
#: A whole head as nearly all servers write it, with one Content-Length, which is the group.
_USUAL = re.compile(
    rb"HTTP/1\.[01] [2-5]\d\d(?: .*|\r)?\n"
    + _OTHER_LINES
    + rb"(?i:content-length):[ \t]*(\d{1,18})[ \t]*\r?\n"
    + _OTHER_LINES
    + rb"\r?\n"
)
_ODD_LINE = re.compile(rb"\n(?!" + _NAME + rb":|\r?\n|\Z)")
_END = re.compile(rb"\n\r?\n")
#: A header that decides the content's length. The first group is empty for Transfer-Encoding; the second is the value.
_FRAMING = re.compile(rb"(?i)\n(?:(content-length)|transfer-encoding):[ \t]*([^\r\n]*?)[ \t]*\r?(?=\n)")
#: Longer ones are left to the parser; Python's int() refuses them from some digit on.
_NUMBER = re.compile(rb"\d{1,18}")
#: Says that there are no chunks; curl accepts it, from servers older than RFC 7230.
_IDENTITY = re.compile(rb"(?im)^transfer-encoding:[ \t]*identity[ \t]*\r?\n")
_LENGTH_LINE = re.compile(rb"(?im)^content-length:.*\n")
_STATUS_LINE = re.compile(rb"(?i)HTTP/(\d(?:\.\d)?) +(\d{3}(?: .*)?)")
_BEGINNING = re.compile(rb"(?i)H(?:T(?:T(?:P(?:/.*)?)?)?)?", re.DOTALL)
#: The longest head that is collected, in bytes. A longer one goes to the parser, which refuses it.
_MOST = 2**20


class Head(NamedTuple):
    """A head for the parser, the content's length if stated, and whether the connection can be used again."""

    content: bytes
    length: int | None
    is_clear: bool


def normalized(head: bytes) -> Head:
    r"""A whole head in the form that the parser accepts, or unchanged if it should be refused.

    If it has both a Content-Length and chunks, the chunks count and the connection is closed (RFC 9112, 6.3).

    >>> normalized(b"HTTP/1.2 200 OK\r\nX Rate: 1\r\nContent-Length: 2, 2\r\n\r\n")
    Head(content=b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n', length=2, is_clear=True)
    >>> normalized(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n").length
    """
    if _ODD_LINE.search(head) or not _USUAL_STATUS.match(head):
        head = _in_usual_form(head)
    head = _IDENTITY.sub(b"", head)
    lengths, encodings = list[bytes](), list[bytes]()
    for is_length, value in _FRAMING.findall(head):
        (lengths if is_length else encodings).append(value)
    if not encodings and len(lengths) == 1 and _NUMBER.fullmatch(lengths[0]):  # as nearly all are
        return Head(head, int(lengths[0]), True)
    if encodings:
        is_chunked = encodings[-1].lower().split(b",")[-1].strip() == b"chunked"
        return Head(_LENGTH_LINE.sub(b"", head) if is_chunked and lengths else head, None, not lengths)
    stated = {each.strip() for value in lengths for each in value.split(b",")}
    if len(stated) != 1 or not _NUMBER.fullmatch(length := stated.pop()):
        return Head(head, None, True)
    return Head(_LENGTH_LINE.sub(b"", head)[:-2] + b"Content-Length: %b\r\n\r\n" % length, int(length), True)


def _in_usual_form(head: bytes) -> bytes:
    """The head without invalid headers; unchanged if one of them might state the content's length."""
    status, *lines = head.replace(b"\r\n", b"\n").split(b"\n")
    found = _STATUS_LINE.fullmatch(status)
    if found is None or b"\r" in head.replace(b"\r\n", b""):
        return head
    kept, is_kept = [b"HTTP/%b %b" % (b"1.0" if found[1] in (b"1.0", b"0.9") else b"1.1", found[2])], True
    for line in lines:
        name, colon, _ = line.partition(b":")
        if line and line[:1] not in (b" ", b"\t"):  # else it continues the line before
            is_kept = re.fullmatch(_NAME, name) is not None
            if not colon or (not is_kept and re.search(rb"(?i)content-length|transfer-encoding", name)):
                return head
        if is_kept or not line:
            kept.append(line)
    return b"\r\n".join(kept)


def left_to_come(data: bytes) -> int | None:
    r"""How many bytes of an answer are still to come, if it begins with a usual head and no more than its content
    follows, as in nearly all answers; else None.

    >>> left_to_come(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}")
    1
    >>> left_to_come(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{}")
    """
    usual = _USUAL.match(data)
    if usual is None:
        return None
    left = int(usual[1]) + usual.end() - len(data)
    return left if left >= 0 else None


class Handler(ResponseHandler):
    """Collects the head of each answer on a connection before aiohttp parses it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._head: bytes | None = None  # the part received so far; None while content is received
        self._left: int | None = None  # bytes of content still to come, if known
        self._poll = select.poll() if hasattr(select, "poll") else None  # not on Windows

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        socket = transport.get_extra_info("socket")
        if self._poll is not None and socket is not None:
            self._poll.register(socket.fileno(), select.POLLIN)

    def has_unread(self) -> bool:
        """Whether the socket has something that the loop has not read: usually that the server has closed it."""
        return self._poll is not None and bool(self._poll.poll(0))

    def set_response_params(self, **params: Any) -> None:
        self._head, self._left = b"", None
        super().set_response_params(**params)

    def resume_reading(self, *args: Any, **options: Any) -> None:
        if self._reading_paused:  # aiohttp also calls this after every answer, where the parser would run for nothing
            super().resume_reading(*args, **options)

    def data_received(self, data: bytes) -> None:
        if self._head == b"" and (left := left_to_come(data)) is not None:
            self._head, self._left = None, left
        elif self._head is not None and data:
            data = self._read_head(self._head, data)
            if not data:
                return
        elif self._left:
            data = self._cut_to_content(data)
        super().data_received(data)

    def _read_head(self, before: bytes, data: bytes) -> bytes:
        """What to pass to the parser: nothing until the head is complete."""
        parsed, interim = b"", True
        while interim:
            whole = (before + data).lstrip(b"\r\n") if not before else before + data
            found = _END.search(whole, max(0, len(before) - 2))
            if found is None:
                is_one = not whole or (len(whole) < _MOST and _BEGINNING.fullmatch(whole) is not None)
                self._head = whole if is_one else None
                return parsed if is_one else parsed + whole
            head, before, data = normalized(whole[: found.end()]), b"", whole[found.end() :]
            parsed += head.content
            interim = re.match(rb"HTTP/\S+ 1(?!01)", head.content) is not None
        self._head, self._left = None, head.length
        if not head.is_clear:
            self.force_close()
        return parsed + self._cut_to_content(data) if data else parsed

    def _cut_to_content(self, data: bytes) -> bytes:
        """The data without anything after the end of the content, which would be taken for the next answer. If there is
        something, the connection is closed. What comes later is left to `IdleConnections`.
        """
        if self._left is None:
            return data
        content, more = data[: self._left], data[self._left :]
        self._left -= len(content)
        if not more.strip():
            return data
        self.force_close()
        return content


def read_leniently(connector: aiohttp.TCPConnector) -> aiohttp.TCPConnector:
    """Make a connector's connections use `Handler`. aiohttp offers nothing public for it."""
    connector._factory = partial(Handler, asyncio.get_running_loop())  # type: ignore[assignment]
    return connector
