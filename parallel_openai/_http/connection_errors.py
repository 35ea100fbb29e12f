"""Explains why no answer came: an error code, and a sentence for the user."""

from __future__ import annotations

import asyncio
import errno
import re
import ssl
from collections.abc import Callable
from typing import NamedTuple

import aiohttp
from yarl import URL

from parallel_openai._http.addresses.url_checks import mask_url
from parallel_openai._http.body import TooLargeError, UnreadableError
from parallel_openai._records import MAX_RESPONSE_BYTES, TOO_MANY_FILES

#: Errors of a proxy. With a proxy, the only name looked up is its own, so a DNS error is the proxy's too.
_OF_PROXY = (aiohttp.ClientHttpProxyError, aiohttp.ClientProxyConnectionError, aiohttp.ClientConnectorDNSError)
#: If this many connections, one after another, are closed without an answer, there is probably no HTTP server.
_SILENT = 3
_CERTIFICATE = "It may want a client certificate, Client(ssl=...)."
_PLAIN = "If it speaks plain http, write http:// in base_url."
_SECURE = "If it wants a secure connection, write https:// in base_url."
#: Error numbers of a connection that the other side closed.
_CUT_OFF = frozenset({errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE})


class NotHTTPError(aiohttp.ClientPayloadError):
    """The answer is not HTTP/1. The message says what it is, if that is known."""


class Exchange(NamedTuple):
    """One attempted exchange with a server: its target, proxy, start and time limits."""

    url: URL
    proxy: URL | None
    began: float
    seconds: float
    connect_seconds: float | None


class ConnectionErrors:
    """Explains the errors of one server, and remembers whether it has ever answered."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.has_answered = False
        self._silent, self._silent_at = 0, 0.0

    def explain(self, error: Exception, tried: Exchange) -> tuple[str, str]:
        """The error's code and a sentence for the user."""
        place = f"{tried.url.host}:{tried.url.port}"
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            sentence = f"No connection to {place} within {tried.connect_seconds:g} s. Is base_url right?"
            return "connect_timeout", sentence
        if isinstance(error, TooLargeError):
            sentence = f"The answer is larger than {MAX_RESPONSE_BYTES:,} bytes, so it was not read to the end."
            return "response_too_large", sentence
        if isinstance(error, UnreadableError):
            return "response_unreadable", str(error)
        if isinstance(error, asyncio.TimeoutError):
            return "timeout", f"No complete answer within {tried.seconds:g} s (the client's timeout)."
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
            sentence = "No further connection, since this process may open no more files. Raise the limit (`ulimit -n`)"
            return TOO_MANY_FILES, f"{sentence}, or lower Client(max_concurrent_requests=...)."
        if tried.proxy is not None and isinstance(error, _OF_PROXY):
            status = error.status if isinstance(error, aiohttp.ClientHttpProxyError) else None
            why = _reason(error) if status is None else f"HTTP {status}"
            return "proxy_error", about_proxy(tried.proxy, place, status, why)
        if isinstance(error, aiohttp.ClientConnectorError):  # after a redirect it is another one
            place = f"{error.host}:{error.port}"
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            return "dns_error", f"No address is known for {error.host!r}. Check base_url and the network."
        return self._of_connection(error, tried, place)

    def _of_connection(self, error: Exception, tried: Exchange, place: str) -> tuple[str, str]:
        if isinstance(error, (aiohttp.ClientSSLError, ssl.SSLError)) or isinstance(error.__cause__, ssl.SSLError):
            return "tls_error", f"No secure connection to {place}: {_reason(error)}.{_hint_of_tls(str(error))}"
        if isinstance(error, NotHTTPError) and error.args[0] and not self.has_answered:
            return "wrong_protocol", f"The server at {place} does not speak HTTP/1.1: {error.args[0]}"
        other = f" {_CERTIFICATE} {_PLAIN}" if tried.url.scheme == "https" else f" {_SECURE}"
        if isinstance(error, aiohttp.ClientConnectorError):
            hint = other if tried.url.scheme == "https" and _is_cut_off(error.os_error) else ""
            sentence = f"No connection to {place}: {_reason(error)}. Is base_url right and the server up?{hint}"
            return "connection_refused", sentence
        if _is_cut_off(error) and self._is_silent(tried.began):
            sentence = f"The server at {place} closes each connection without an answer. Is what stands behind it up?"
            return "connection_closed", sentence + other
        hint = other if getattr(error, "errno", None) in _CUT_OFF and not self.has_answered else ""
        return "connection_error", f"The connection to {place} broke: {_reason(error)}.{hint}"

    def _is_silent(self, began: float) -> bool:
        """Whether the server has never answered and has closed several connections in a row. Connections that were open
        at the same time count as one, since a restarting server closes them all."""
        if not self.has_answered and began >= self._silent_at:
            self._silent, self._silent_at = self._silent + 1, self._clock()
        return not self.has_answered and self._silent >= _SILENT


def other_protocol(said: str) -> str:
    r"""What a server speaks instead of HTTP/1, judged by the bytes that the parser quotes; empty if unknown.

    >>> other_protocol(r"b'\x15\x03\x03\x00\x02\x02F'")
    'it wants a secure connection. Write https:// in base_url.'
    """
    if re.search(r"b['\"]\\x1[56]\\x03", said):
        return "it wants a secure connection. Write https:// in base_url."
    if re.search(r"b['\"]\\x00\\x00.{1,4}\\x04\\x00\\x00\\x00\\x00\\x00", said):
        return "it speaks HTTP/2 alone. Ask it at a port for HTTP/1.1, or put a gateway before it."
    return ""


def about_proxy(proxy: URL | None, place: str, status: int | None, why: str) -> str:
    """The sentence for a proxy that answers in the server's place or refuses the connection."""
    named = "A proxy on the way" if proxy is None else f"The proxy {mask_url(str(proxy))}, which the environment names,"
    sentence = f"{named} gives no connection to {place}: {why}."
    if status in (401, 407) or "auth" in why.lower():
        sentence += " It wants a name and a password, and right ones: http://name:password@host in the environment."
    return sentence if proxy is None else f"{sentence} Client(trust_env=False) leaves it out."


def _is_cut_off(error: BaseException) -> bool:
    """Whether the other side closed the connection, rather than the network failing."""
    is_reset = isinstance(error, ConnectionResetError) or getattr(error, "errno", None) in _CUT_OFF
    return is_reset or isinstance(error, aiohttp.ServerDisconnectedError)


def _hint_of_tls(said: str) -> str:
    if "WRONG_VERSION" in said:
        return f" {_PLAIN}"
    if "CERTIFICATE_REQUIRED" in said or "HANDSHAKE_FAILURE" in said:
        return f" {_CERTIFICATE}"
    return " It speaks HTTP/2 alone." if "NO_APPLICATION_PROTOCOL" in said else ""


def _reason(error: Exception) -> str:
    cause = getattr(error, "os_error", None) or error
    # aiohttp's message quotes the bytes at fault, which may be anything, and the URL with its query.
    if isinstance(error, (aiohttp.ClientResponseError, aiohttp.ClientPayloadError)):
        return "its answer is cut off or is not HTTP"
    if isinstance(error, aiohttp.ServerDisconnectedError):  # its message may hold all headers received
        return "the server closed it before its answer was whole"
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return str(text).rstrip(".")
