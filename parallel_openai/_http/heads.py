"""The heads of HTTP answers, mended where others read what aiohttp's parser refuses, so that no answer is lost.

httpx and curl both read a length beside chunks, a length told twice, a later version and what stands behind the end;
curl also names of headers that are none. The parser still has the last word on what is left.
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
#: A whole head of an answer, as nearly all servers write it: the group is how long the content is, which stands once.
_USUAL = re.compile(
    rb"HTTP/1\.[01] [2-5]\d\d(?: .*|\r)?\n"
    + _OTHER_LINES
    + rb"(?i:content-length):[ \t]*(\d{1,18})[ \t]*\r?\n"
    + _OTHER_LINES
    + rb"\r?\n"
)
_ODD_LINE = re.compile(rb"\n(?!" + _NAME + rb":|\r?\n|\Z)")
_END = re.compile(rb"\n\r?\n")
#: What says how long the content is; the first group tells which.
_FRAMING = re.compile(rb"(?i)\n(?:(content-length)|transfer-encoding):[ \t]*([^\r\n]*?)[ \t]*\r?(?=\n)")
#: Longer ones are left to the parser; Python's int() refuses them from some digit on.
_NUMBER = re.compile(rb"\d{1,18}")
_LENGTH_LINE = re.compile(rb"(?im)^content-length:.*\n")
_STATUS_LINE = re.compile(rb"(?i)HTTP/(\d(?:\.\d)?) +(\d{3}(?: .*)?)")
_BEGINNING = re.compile(rb"(?i)H(?:T(?:T(?:P(?:/.*)?)?)?)?", re.DOTALL)
#: Bytes of a head that are waited for; a longer one is left to the parser, which refuses it.
_MOST = 2**20


class Head(NamedTuple):
    """A head as it is to be read, how long its content is if it says so, and whether its connection can be trusted."""

    content: bytes
    length: int | None
    is_clear: bool


def mended(head: bytes) -> Head:
    r"""A whole head in the form that the parser reads; as it is where it must not be read.

    An answer with a length and chunks is read by its chunks, and its connection is closed (RFC 9112, 6.3).

    >>> mended(b"HTTP/1.2 200 OK\r\nX Rate: 1\r\nContent-Length: 2, 2\r\n\r\n")
    Head(content=b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n', length=2, is_clear=True)
    >>> mended(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n").length
    """
    if _ODD_LINE.search(head) or not _USUAL_STATUS.match(head):
        head = _in_usual_form(head)
    lengths, encodings = list[bytes](), list[bytes]()
    for is_length, value in _FRAMING.findall(head):
        (lengths if is_length else encodings).append(value)
    if not encodings and len(lengths) == 1 and _NUMBER.fullmatch(lengths[0]):  # as nearly all are
        return Head(head, int(lengths[0]), True)
    if encodings:
        is_chunked = encodings[-1].lower().split(b",")[-1].strip() == b"chunked"
        return Head(_LENGTH_LINE.sub(b"", head) if is_chunked and lengths else head, None, not lengths)
    told = {each.strip() for value in lengths for each in value.split(b",")}
    if len(told) != 1 or not _NUMBER.fullmatch(length := told.pop()):
        return Head(head, None, True)
    return Head(_LENGTH_LINE.sub(b"", head)[:-2] + b"Content-Length: %b\r\n\r\n" % length, int(length), True)


def _in_usual_form(head: bytes) -> bytes:
    """Without what is no header's name; as it is where that might hide how long the content is."""
    status, *lines = head.replace(b"\r\n", b"\n").split(b"\n")
    found = _STATUS_LINE.fullmatch(status)
    if found is None or b"\r" in head.replace(b"\r\n", b""):
        return head
    kept, is_kept = [b"HTTP/%b %b" % (b"1.0" if found[1] in (b"1.0", b"0.9") else b"1.1", found[2])], True
    for line in lines:
        name, colon, _ = line.partition(b":")
        if line and line[:1] not in (b" ", b"\t"):  # else it goes on with the line before
            is_kept = re.fullmatch(_NAME, name) is not None
            if not colon or (not is_kept and re.search(rb"(?i)content-length|transfer-encoding", name)):
                return head
        if is_kept or not line:
            kept.append(line)
    return b"\r\n".join(kept)


def left_to_come(data: bytes) -> int | None:
    r"""How many bytes of an answer are still to come, if it begins with a head that needs no mending, as nearly all do,
    and no more than its content follows; None if this has to be looked at more closely.

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
    """Takes in what comes on a connection, each answer's head as a whole."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._head: bytes | None = None  # what has come of it; None within the content
        self._left: int | None = None  # bytes of the content that are to come, if that is known
        self._poll = select.poll() if hasattr(select, "poll") else None  # Windows has none

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        socket = transport.get_extra_info("socket")
        if self._poll is not None and socket is not None:
            self._poll.register(socket.fileno(), select.POLLIN)

    def has_unread(self) -> bool:
        """Whether something lies there that the loop has not read: the end, mostly, if a server closes unannounced."""
        return self._poll is not None and bool(self._poll.poll(0))

    def set_response_params(self, **params: Any) -> None:
        self._head, self._left = b"", None
        super().set_response_params(**params)

    def resume_reading(self, *args: Any, **options: Any) -> None:
        if self._reading_paused:  # aiohttp calls it with each answer, and would have the parser go on with nothing
            super().resume_reading(*args, **options)

    def data_received(self, data: bytes) -> None:
        if self._head == b"" and (left := left_to_come(data)) is not None:
            self._head, self._left = None, left
        elif self._head is not None and data:
            data = self._read_head(self._head, data)
            if not data:
                return
        elif self._left:
            data = self._within(data)
        super().data_received(data)

    def _read_head(self, before: bytes, data: bytes) -> bytes:
        """What the parser gets, as soon as the head has come to its end."""
        whole = (before + data).lstrip(b"\r\n") if not before else before + data
        found = _END.search(whole, max(0, len(before) - 2))
        if found is None:
            is_one = len(whole) < _MOST and _BEGINNING.fullmatch(whole) is not None
            self._head = whole if is_one else None
            return b"" if is_one else whole
        head, rest = mended(whole[: found.end()]), whole[found.end() :]
        if re.match(rb"HTTP/\S+ 1(?!01)", head.content):  # it only says that it goes on
            self._head = b""
            return head.content + (self._read_head(b"", rest) if rest else b"")
        self._head, self._left = None, head.length
        if not head.is_clear:
            self.force_close()
        return head.content + self._within(rest) if rest else head.content

    def _within(self, data: bytes) -> bytes:
        """Without what stands behind the content's end; no answer can be told from it, so the connection is given up.

        What comes later than the end is left, for those who watch over the connections that wait.
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
    """Have a connector's connections read so. aiohttp has no other door than this name of its own."""
    connector._factory = partial(Handler, asyncio.get_running_loop())  # type: ignore[assignment]
    return connector
