"""Bytes to the server and back, over kept connections. The door to aiohttp, with `poster`, `idle` and `reading`."""

from __future__ import annotations

import asyncio
import errno
import io
import ssl as ssl_module
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import IO, Any, cast
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from parallel_openai.engine.deadlines import Deadlines
from parallel_openai.engine.poster import Poster
from parallel_openai.engine.reading import TooLargeError, read
from parallel_openai.engine.retry import TOO_MANY_FILES
from parallel_openai.engine.secrets import Secrets
from parallel_openai.engine.urls import check_url, mask_url
from parallel_openai.errors import InvalidInputError
from parallel_openai.jsonl import loads_quickly
from parallel_openai.records import Response

LARGE_BODY = 2**20
#: An answer larger than this is refused: no completion is, and an endless body would fill the memory.
MAX_RESPONSE_BYTES = 64 * 2**20
#: Seconds for a connection: an address that swallows what is sent to it is named soon, and not after the answer's time.
CONNECT_TIMEOUT = 15.0
#: What goes wrong with a proxy; where there is one, no other name is looked up.
_OF_PROXY = (aiohttp.ClientHttpProxyError, aiohttp.ClientProxyConnectionError, aiohttp.ClientConnectorDNSError)


class Transport:
    """A pool of connections to one server.

    Args:
        base_url: where the API lives, such as `https://api.openai.com/v1`; its query is kept for every call.
        headers: sent with every request, the key among them.
        timeout: seconds from the send to the last byte.
        trust_env: whether `HTTP_PROXY` and its kin are heeded.
        ssl: a context for a private certificate authority; True is the system's usual one.
        clock: gives seconds, never going back.
        renewed: gives headers that change, asked before every send; None: none do.

    Raises:
        InvalidInputError: the URL is not one.
    """

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str],
        *,
        timeout: float,
        clock: Callable[[], float],
        trust_env: bool = True,
        ssl: ssl_module.SSLContext | bool = True,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
        renewed: Callable[[], Awaitable[Mapping[str, str]]] | None = None,
    ) -> None:
        self._base = check_url(base_url)
        self._headers = {"Content-Type": "application/json", **headers}
        self._seconds = timeout
        # The whole is timed by the deadlines.
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=min(0.8 * timeout, CONNECT_TIMEOUT))
        self._deadlines: dict[float, Deadlines] = {}  # by the seconds that they give
        self._clock = clock
        self._proxy = _proxy_for(self._base) if trust_env else None
        self._secrets = Secrets(headers, base_url, self._proxy)
        self._ssl = ssl
        self._max_response_bytes = max_response_bytes
        self._renewed = renewed
        self._urls: dict[str, URL] = {}
        self._session: aiohttp.ClientSession | None = None
        self._poster: Poster | None = None  # none where there is a proxy, which aiohttp's sessions know how to ask

    def use(self, headers: Mapping[str, str]) -> None:
        """Send these headers from now on, in the place of those of the same name: a key that was renewed."""
        new = {name: value for name, value in headers.items() if self._headers.get(name) != value}
        if new:
            self._headers.update(new)
            self._secrets.renew(new)
            if self._poster is not None:
                self._poster.forget_headers()

    def post(self, path: str, body: bytes, *, timeout: float | None = None) -> Coroutine[Any, Any, Response]:
        """Send one body to a path, which is quoted as URLs have it; give the answer or the reason why there is none.

        Raises nothing but cancellation, and what `renewed` raises. `timeout` is in seconds; None: the transport's own.
        """
        return self._exchange("POST", self._url(path), body=body, seconds=timeout)

    async def call(
        self, method: str, path: str, *, body: bytes | None = None, query: Mapping[str, str] | None = None
    ) -> Response:
        """The same for another method, with a query."""
        url = self._url(path)
        return await self._exchange(method, url.update_query(query) if query else url, body=body)

    async def upload(self, path: str, file: Path, *, filename: str, fields: Mapping[str, str]) -> Response:
        """Send a file as a form, from the disk piece by piece.

        The timeout is for each silence of the server, and not for the whole.
        """
        form = aiohttp.MultipartWriter("form-data")
        for name, value in fields.items():
            form.append(value).set_content_disposition("form-data", name=name)
        with _open(file, "rb") as content:
            part = form.append(content, {"Content-Type": "application/jsonl"})
            part.set_content_disposition("form-data", name="file", filename=filename)
            headers = {"Content-Type": form.headers["Content-Type"]}
            return await self._exchange(
                "POST", self._url(path), data=form, headers=headers, timeout=self._timeout_of_silence()
            )

    async def download(self, path: str, place: Path) -> Response:
        """Fetch what stands at a path into a file, piece by piece; where that went well, the response has no body."""
        with _open(place, "wb") as file:
            return await self._exchange("GET", self._url(path), into=file, timeout=self._timeout_of_silence())

    async def _exchange(
        self,
        method: str,
        url: URL,
        *,
        body: bytes | None = None,
        into: IO[bytes] | None = None,
        seconds: float | None = None,
        **options: Any,
    ) -> Response:
        if self._renewed is not None:
            self.use(await self._renewed())
        session = self._session or self._open()
        began = self._clock()
        seconds = seconds or self._seconds
        deadlines = None if "timeout" in options else self._deadlines_of(seconds)
        wait = None if deadlines is None else deadlines.begin(began)
        try:
            if self._poster is not None and method == "POST" and body is not None and wait is not None:
                status, headers, content = await self._poster.post(url, body)
            else:
                status, headers, content = await self._by_session(session, method, url, body, into, options)
        except asyncio.CancelledError:
            if wait is None or not wait.ended():
                raise
            return self._too_late(began, seconds)
        except aiohttp.ConnectionTimeoutError:
            place = f"{self._base.host}:{self._base.port}"
            sentence = f"No connection to {place} within {self._timeout.sock_connect:g} s. Is base_url right?"
            return self._failure(began, "connect_timeout", sentence)
        except TooLargeError:
            sentence = f"The answer is larger than {self._max_response_bytes:,} bytes, so it was not read to the end."
            return self._failure(began, "response_too_large", sentence)
        except asyncio.TimeoutError:
            return self._too_late(began, seconds)
        except (aiohttp.ClientError, OSError) as error:
            code, sentence = self._explain(error)
            return self._failure(began, code, sentence)
        finally:
            if deadlines is not None and wait is not None:
                deadlines.end(wait)
        headers, content = self._secrets.out_of_headers(headers), self._secrets.out_of_body(content)
        data = {} if into is not None and status == 200 else _parse(content)
        if status >= 300 or not isinstance(data, dict) or data.get("error"):
            content = self._secrets.out_of_error(content)
            data = _parse(content)
        return Response(status, headers, content, data, self._clock() - began)

    async def _by_session(
        self,
        session: aiohttp.ClientSession,
        method: str,
        url: URL,
        body: bytes | None,
        into: IO[bytes] | None,
        options: dict[str, Any],
    ) -> tuple[int, Mapping[str, str], bytes]:
        if body is not None:
            # aiohttp warns of large bodies that are plain bytes, since it would write them in one go.
            options["data"] = body if len(body) < LARGE_BODY else io.BytesIO(body)
        # Not the session's own headers, for those are shown to a proxy too, which is asked without TLS.
        options["headers"] = {**self._headers, **options.get("headers", {})}
        # A redirect could carry the key to another host, so none is followed.
        async with session.request(method, url, allow_redirects=False, **options) as answer:
            if into is None or answer.status != 200:
                return answer.status, answer.headers, await self._read(answer)
            async for chunk in answer.content.iter_any():
                into.write(chunk)
            return answer.status, answer.headers, b""

    def _too_late(self, began: float, seconds: float) -> Response:
        sentence = f"No complete answer within {seconds:g} s (the client's timeout)."
        return self._failure(began, "timeout", sentence)

    def _timeout_of_silence(self) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(total=None, sock_connect=self._timeout.sock_connect, sock_read=self._seconds)

    def _deadlines_of(self, seconds: float) -> Deadlines:
        deadlines = self._deadlines.get(seconds)
        if deadlines is None:
            deadlines = self._deadlines[seconds] = Deadlines(seconds, self._clock)
        return deadlines

    async def close(self) -> None:
        for deadlines in self._deadlines.values():
            deadlines.close()
        if self._poster is not None:
            await self._poster.close()
        if self._session is not None:
            session, self._session, self._poster = self._session, None, None
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        self._session = aiohttp.ClientSession(
            connector=self._connector(),
            timeout=self._timeout,
            # aiohttp would read the environment and .netrc anew for every request, in threads: half of its cost.
            proxy=self._proxy,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        if self._proxy is None:
            self._poster = Poster(
                self._session,
                self._connector(),
                self._headers,
                ssl=self._ssl,
                timeout=self._timeout,
                max_response_bytes=self._max_response_bytes,
            )
        return self._session

    def _connector(self) -> aiohttp.TCPConnector:
        # The limiter and the processor say how many are in flight, so there is no limit here.
        return aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, ssl=self._ssl, keepalive_timeout=30)

    def _url(self, path: str) -> URL:
        url = self._urls.get(path)
        if url is None:
            joined = self._base.raw_path.rstrip("/") + "/" + path.lstrip("/")
            url = self._urls[path] = self._base.with_path(joined, encoded=True, keep_query=True)
        return url

    async def _read(self, answer: aiohttp.ClientResponse) -> bytes:
        try:
            return await read(answer.content, answer.headers, self._max_response_bytes)
        except TooLargeError:
            answer.close()
            raise

    def _failure(self, began: float, code: str, sentence: str) -> Response:
        return Response(0, {}, b"", None, self._clock() - began, code, self._secrets.out_of(sentence))

    def _explain(self, error: Exception) -> tuple[str, str]:
        place = f"{self._base.host}:{self._base.port}"
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
            sentence = "No further connection, since this process may open no more files. Raise the limit (`ulimit -n`)"
            return TOO_MANY_FILES, f"{sentence}, or lower Client(max_concurrent_requests=...)."
        if self._proxy is not None and isinstance(error, _OF_PROXY):
            why = f"HTTP {error.status}" if isinstance(error, aiohttp.ClientHttpProxyError) else _reason(error)
            sentence = f"The proxy {mask_url(self._proxy)}, which the environment names, gives no connection to {place}"
            return "proxy_error", f"{sentence}: {why}. Client(trust_env=False) leaves it out."
        if isinstance(error, (aiohttp.ClientSSLError, ssl_module.SSLError)):
            hint = " Does the server speak plain http there?" if "WRONG_VERSION" in str(error) else ""
            return "tls_error", f"No secure connection to {place}: {_reason(error)}.{hint}"
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            return "dns_error", f"No address is known for {self._base.host!r}. Check base_url and the network."
        if isinstance(error, aiohttp.ClientConnectorError):
            return (
                "connection_refused",
                f"No connection to {place}: {_reason(error)}. Is base_url right and the server up?",
            )
        return "connection_error", f"The connection to {place} broke: {_reason(error)}."


def _open(place: Path, mode: str) -> IO[bytes]:
    return cast(IO[bytes], open(place, mode))


def _proxy_for(url: URL) -> str | None:
    """The proxy that the environment names for a server, as `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` say.

    Raises:
        InvalidInputError: it is of a kind that is not spoken here.
    """
    proxy = None if proxy_bypass(f"{url.host}:{url.port}") else getproxies().get(url.scheme)
    if not proxy:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if not proxy.startswith(("http://", "https://")):
        raise InvalidInputError(
            f"The environment names the proxy {mask_url(proxy)}, and only http:// and https:// ones are known here. "
            "Client(trust_env=False) leaves it out."
        )
    return proxy


def _parse(content: bytes) -> Any:
    try:
        return loads_quickly(content)
    except ValueError:
        return None


def _reason(error: Exception) -> str:
    cause = getattr(error, "os_error", None) or error
    # aiohttp quotes what is wrong, which may be anything, and tells the URL with all that its query holds.
    if isinstance(error, (aiohttp.ClientResponseError, aiohttp.ClientPayloadError)):
        return "what it sent is cut off, or is no HTTP"
    if isinstance(error, aiohttp.ServerDisconnectedError):  # which may tell all headers that have come
        return "the server closed it before its answer was whole"
    text = getattr(cause, "strerror", None) or str(cause) or type(error).__name__
    return str(text).rstrip(".")
