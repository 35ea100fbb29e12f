"""Sends bytes to one server over pooled connections, and returns its answers as `Response`s that hold no secrets."""

from __future__ import annotations

import asyncio
import io
import ssl as ssl_module
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from parallel_openai._http.addresses.proxies import connector_through, is_socks, proxy_for
from parallel_openai._http.addresses.redirects import has_same_owner, redirected
from parallel_openai._http.addresses.url_checks import check_url
from parallel_openai._http.body import MAX_HEADER_LINE, MAX_HEADERS, TooLargeError, UnreadableError, decompressed, read
from parallel_openai._http.connection_errors import ConnectionErrors, Exchange, about_proxy
from parallel_openai._http.credentials.secrets import Secrets
from parallel_openai._http.deadlines import LATE, Deadlines
from parallel_openai._http.error_body import body_summary, is_page
from parallel_openai._http.event_stream import assembled
from parallel_openai._http.heads import read_leniently
from parallel_openai._http.post import Poster
from parallel_openai._json import JSONTooLargeError, dumps, loads_from_anywhere, loads_quickly
from parallel_openai._records import Response

LARGE_BODY = 2**20
#: Seconds to connect: an address where packets vanish is reported soon, rather than after the timeout for an answer.
CONNECT_TIMEOUT = 15.0
MOST_REDIRECTS = 5
#: Statuses without an answer, or without one yet. Any other status from 201 to 299 counts as 200, as some gateways use
#: them for whole answers.
_WITHOUT_ANSWER = frozenset({202, 204, 205})
#: Status, headers and content.
Answer = tuple[int, Mapping[str, str], bytes]
#: Receives the next piece of a download.
Write = Callable[[bytes], None]


class Transport:
    """A pool of connections to one server."""

    def __init__(
        self,
        base_url: str,  # such as `https://api.openai.com/v1`; a query in it is sent with every call
        headers: Mapping[str, str],  # sent with every request, the key among them
        *,
        timeout: float,  # seconds from the send to the last byte
        clock: Callable[[], float],  # a monotonic clock, in seconds
        trust_env: bool = True,  # whether to use the proxies in `HTTP_PROXY` and the like
        # A context for a private certificate authority; True is the system's default.
        ssl: ssl_module.SSLContext | bool = True,
        # Called before every send for headers that may change, such as an expiring key.
        renewed: Callable[[], Awaitable[Mapping[str, str]]] | None = None,
    ) -> None:
        self._base = check_url(base_url)
        self._headers = {"Content-Type": "application/json", **headers}
        self._seconds = timeout
        # The total time is left to the deadlines.
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=min(0.8 * timeout, CONNECT_TIMEOUT))
        self._deadlines: dict[float, Deadlines] = {}  # by their number of seconds
        self._clock = clock
        self._proxy = proxy_for(self._base) if trust_env else None
        self._errors = ConnectionErrors(clock)
        self._secrets = Secrets(headers, base_url, str(self._proxy or ""))
        self._ssl = ssl
        self._renewed = renewed
        self._urls: dict[str, URL] = {}
        self._session: aiohttp.ClientSession | None = None
        self._poster: Poster | None = None  # None with an HTTP proxy, which only aiohttp's sessions can talk to
        self.in_use = 0  # exchanges under way
        self._unused = asyncio.Event()

    def use(self, headers: Mapping[str, str]) -> None:
        """Send these headers from now on, such as a renewed key, instead of those of the same names."""
        new = {name: value for name, value in headers.items() if self._headers.get(name) != value}
        if new:
            self._headers.update(new)
            self._secrets.renew(new)
            if self._poster is not None:
                self._poster.forget_headers()

    def post(self, path: str, body: bytes, *, timeout: float | None = None) -> Coroutine[Any, Any, Response]:
        """Send a body to a path (already percent-encoded), and return the answer or the reason why there is none.

        Raises nothing but cancellation and what `renewed` raises. `timeout` is in seconds; None is the transport's own.
        """
        return self._exchange("POST", self._urls.get(path) or self._url(path), body=body, seconds=timeout)

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        query: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Response:
        """As `post`, with any method and a query."""
        url = self._url(path)
        return await self._exchange(method, url.update_query(query) if query else url, body=body, seconds=timeout)

    async def upload(self, path: str, file: Path, *, filename: str, fields: Mapping[str, str]) -> Response:
        """Send a file as a form, read from the disk piece by piece.

        The timeout applies to each wait for the server rather than to the whole.
        """
        form = aiohttp.MultipartWriter("form-data")
        for name, value in fields.items():
            form.append(value).set_content_disposition("form-data", name=name)
        with open(file, "rb") as content:  # noqa: ASYNC230
            part = form.append(content, {"Content-Type": "application/jsonl"})
            part.set_content_disposition("form-data", name="file", filename=filename)
            headers = {"Content-Type": form.headers["Content-Type"]}
            return await self._exchange(
                "POST", self._url(path), data=form, headers=headers, timeout=self._timeout_of_silence()
            )

    async def download(self, path: str, into: Write) -> Response:
        """Fetch a file, piece by piece. If that succeeds, the response has no body.

        Raises what `into` raises, except OSErrors, which are taken for errors of the network.
        """
        return await self._exchange("GET", self._url(path), into=into, timeout=self._timeout_of_silence())

    async def _exchange(
        self,
        method: str,
        url: URL,
        *,
        body: bytes | None = None,
        into: Write | None = None,
        seconds: float | None = None,
        **options: Any,
    ) -> Response:
        if self._renewed is not None:
            self.use(await self._renewed())
        began = self._clock()
        seconds = seconds or self._seconds
        deadlines = None
        if "timeout" not in options:
            deadlines = self._deadlines.get(seconds) or self._new_deadlines(seconds)
        wait = None if deadlines is None else deadlines.begin(began)
        failed: Exception
        answer: Answer | None = None
        self.in_use += 1
        try:
            if self._session is None:
                self._open()
            if self._poster is not None and method == "POST" and body is not None and not options:
                answer = await self._poster.post(url, body)
            else:
                answer = await self._by_session(method, url, body, into, options)
            self._errors.has_answered = True
            if answer[0] != 200 and "data" not in options:
                answer = await self._redirected(url, answer, method, body, into, options)
            return self._response(url, answer, began, is_file=into is not None)
        except asyncio.CancelledError:
            if wait is None or not wait.ended():
                raise
            failed = asyncio.TimeoutError()
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError, TooLargeError, UnreadableError) as error:
            failed = error
        finally:
            self.in_use -= 1
            if not self.in_use:
                self._unused.set()
            if deadlines is not None and wait is not None:
                deadlines.end(wait)
        if answer is None and "data" not in options and self._loop_was_blocked(failed, began):
            return await self._exchange(method, url, body=body, into=into, seconds=seconds, **options)
        connect = self._timeout.sock_connect
        tried = Exchange(url, self._proxy, began, seconds, connect)
        return self._failure(began, *self._errors.explain(failed, tried))

    def _loop_was_blocked(self, failed: Exception, began: float) -> bool:
        """Whether connecting timed out only because the loop was blocked, which says nothing of the server."""
        most = (self._timeout.sock_connect or 0.0) + LATE
        return isinstance(failed, aiohttp.ConnectionTimeoutError) and self._clock() - began > most

    async def _redirected(
        self, url: URL, answer: Answer, method: str, body: bytes | None, into: Write | None, options: Mapping[str, Any]
    ) -> Answer:
        """The answer after following redirects, if it is one."""
        for _ in range(MOST_REDIRECTS):
            target = redirected(url, *answer[:2])
            if target is None:
                break
            url, redirect = target, answer
            answer = await self._by_session(method, url, body, into, options)
            if answer[0] in (401, 403, 404) and not has_same_owner(self._base, url):
                return redirect  # the user has to set the target as base_url: it wants the key, or has no such endpoint
        return answer

    def _response(self, url: URL, answer: Answer, began: float, *, is_file: bool) -> Response:
        status, headers, content = answer
        seconds = self._clock() - began
        headers, content = self._secrets.out_of_headers(headers), self._secrets.out_of_body(content)
        if is_file and status == 200:
            return Response(status, headers, content, {}, seconds)
        try:
            content, data = self._read_json(content, headers)
        except JSONTooLargeError as error:
            if status < 300:
                return self._failure(began, "response_too_large", f"The answer was not read: {error}.")
            return Response(status, headers, self._secrets.out_of_error(content), None, seconds)
        if status >= 300 or not isinstance(data, dict) or data.get("error"):
            content, data = self._read_json(self._secrets.out_of_error(content), headers)
        if status >= 300 and self._is_of_proxy(url, status, data):
            page = f", {body_summary(content, headers)}" if is_page(content) else ""
            sentence = about_proxy(self._proxy, f"{url.host}:{url.port}", status, f"HTTP {status}{page}")
            return self._failure(began, "proxy_error", sentence)
        is_good = 200 <= status < 300 and status not in _WITHOUT_ANSWER
        return Response(200 if is_good else status, headers, content, data, seconds)

    def _is_of_proxy(self, url: URL, status: int, data: Any) -> bool:
        """Whether a refusal is the proxy's own. Without TLS, requests go to the proxy in the server's place."""
        asked = self._proxy is not None and url.scheme == "http" and not is_socks(self._proxy)
        return status == 407 or (asked and status in (401, 403) and not isinstance(data, dict))

    def _read_json(self, content: bytes, headers: Mapping[str, str]) -> tuple[bytes, Any]:
        """An answer as UTF-8 JSON and its value, or as it came and None if it is not JSON.

        Raises:
            JSONTooLargeError: it has too many values or is nested too deeply.
        """
        try:
            whole, data = loads_from_anywhere(content, headers.get("Content-Type"))
        except JSONTooLargeError:
            raise
        except ValueError:
            data = assembled(content)
            whole = content if data is None else dumps(data)
        if whole is not content:
            whole = self._secrets.out_of_body(whole)
            data = data and loads_quickly(whole)
        if isinstance(data, list) and len(data) == 1 and isinstance(data[0], dict):
            return whole.strip()[1:-1], data[0]  # some gateways put their one answer into a list, and Google its errors
        return whole, data

    async def _by_session(
        self, method: str, url: URL, body: bytes | None, into: Write | None, options: Mapping[str, Any]
    ) -> Answer:
        assert self._session is not None
        # Not set as the session's headers, since those go to a proxy too, without TLS.
        headers = self._headers if has_same_owner(self._base, url) else {"Content-Type": self._headers["Content-Type"]}
        options = {**options, "headers": {**headers, **options.get("headers", {})}}
        if body is not None:
            # aiohttp warns about large bodies given as bytes, since it writes them in one go.
            options["data"] = body if len(body) < LARGE_BODY else io.BytesIO(body)
        async with self._session.request(
            method, url, allow_redirects=False, auto_decompress=into is not None, **options
        ) as answer:
            if into is None or answer.status != 200:
                return answer.status, answer.headers, await self._read(answer)
            async for chunk in answer.content.iter_any():
                into(chunk)
            return answer.status, answer.headers, b""

    def _timeout_of_silence(self) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(total=None, sock_connect=self._timeout.sock_connect, sock_read=self._seconds)

    def _new_deadlines(self, seconds: float) -> Deadlines:
        deadlines = self._deadlines[seconds] = Deadlines(seconds, self._clock)
        return deadlines

    async def close(self, *, at_once: bool = False) -> None:
        """Close the connections as soon as no answer is on its way, since those are paid for; or `at_once`."""
        while self.in_use and not at_once:
            self._unused.clear()
            await self._unused.wait()
        for deadlines in self._deadlines.values():
            deadlines.close()
        if self._poster is not None:
            await self._poster.close()
        if self._session is not None:
            session, self._session, self._poster = self._session, None, None
            await session.close()

    def _open(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=self._connector(),
            timeout=self._timeout,
            # With trust_env, aiohttp reads the environment and .netrc for each request in a thread: half of its cost.
            proxy=None if is_socks(self._proxy) else self._proxy,
            cookie_jar=aiohttp.DummyCookieJar(),
            max_line_size=MAX_HEADER_LINE,
            max_field_size=MAX_HEADER_LINE,
            max_headers=MAX_HEADERS,
        )
        if self._proxy is None or is_socks(self._proxy):
            self._poster = Poster(
                self._session,
                self._connector(),
                self._headers,
                ssl=self._ssl,
                timeout=self._timeout,
            )

    def _connector(self) -> aiohttp.TCPConnector:
        # No limit, since the limiter and the runner bound the requests in flight.
        connector = connector_through(self._proxy, limit=0, ttl_dns_cache=300, ssl=self._ssl, keepalive_timeout=30)
        return read_leniently(connector)

    def _url(self, path: str) -> URL:
        joined = self._base.raw_path.rstrip("/") + "/" + path.lstrip("/")
        url = self._urls[path] = self._base.with_path(joined, encoded=True, keep_query=True)
        return url

    async def _read(self, answer: aiohttp.ClientResponse) -> bytes:
        try:
            content = await read(answer.content, answer.headers)
            return decompressed(content, answer.headers)
        except TooLargeError:
            answer.close()
            raise

    def _failure(self, began: float, code: str, sentence: str) -> Response:
        return Response(0, {}, b"", None, self._clock() - began, code, self._secrets.out_of(sentence))
