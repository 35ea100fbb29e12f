"""`Client`: an account at a server, with its limits. Every run on it shares one limiter and one pool of connections."""

from __future__ import annotations

import asyncio
import os
import ssl as ssl_module
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Literal
from weakref import WeakKeyDictionary, finalize

from parallel_openai.engine.budget import Budget
from parallel_openai.engine.limiter import Limiter
from parallel_openai.engine.loop import arun, is_background_thread
from parallel_openai.engine.processor import NO_SIZE, End, Processor
from parallel_openai.engine.retry import RetryPolicy, judge
from parallel_openai.engine.sharing import COUNT_EVERY, SharedAccount
from parallel_openai.engine.status import StatusTracker
from parallel_openai.engine.transport import Transport, check_url, is_local, mask_url
from parallel_openai.errors import AuthenticationError, InvalidInputError
from parallel_openai.records import APIRequest, Response, Result
from parallel_openai.requests.endpoints import usage_of
from parallel_openai.requests.prices import tier_of

OPENAI_URL = "https://api.openai.com/v1"
MAX_CONCURRENT_REQUESTS = 500
#: Seconds for an answer of the flex tier, which may stand in a queue for long, as OpenAI advises.
FLEX_TIMEOUT = 900.0


class Client:
    """An account at OpenAI or a compatible server.

    Args:
        base_url: where the API lives; None: `OPENAI_BASE_URL`, else OpenAI's own.
        api_key: None: `OPENAI_API_KEY`. A server that wants none needs none.
        organization, project: None: `OPENAI_ORG_ID`, `OPENAI_PROJECT_ID`.
        max_requests_per_minute, max_tokens_per_minute: the account's limits; None: read from the server's headers.
        max_concurrent_requests: requests in flight at the most; None: 500.
        max_attempts: sends of one request that may fail before its row does. Waiting for the limits counts as none.
        timeout: seconds for one answer, from the send to its last byte.
        burst: seconds of the limits that may be sent at once; None: learned from the server.
        max_wait: seconds one request may wait because the server refuses or is away, before its row fails.
        shared: a name; all processes on this machine whose clients bear it divide the limits among themselves, each
            an equal part while it runs. None: the limits are this process's alone.
        headers: sent with every request, besides the key's.
        loop: `thread`: the engine has a loop of its own; `running`: it works on the caller's loop, patched by
            nest_asyncio.
        trust_env: whether the proxies of the environment are used.
        ssl: a context, for a certificate authority of your own.

    Raises:
        InvalidInputError: an option is out of its range; the message says which.

    >>> client = Client("http://127.0.0.1:8000/v1", max_requests_per_minute=600)
    >>> client
    Client('http://127.0.0.1:8000/v1', max_requests_per_minute=600)
    >>> Client(max_tokens_per_minute=0)
    Traceback (most recent call last):
        ...
    parallel_openai.errors.InvalidInputError: max_tokens_per_minute must be a number above 0 or None, not 0.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        organization: str | None = None,
        project: str | None = None,
        max_requests_per_minute: float | None = None,
        max_tokens_per_minute: float | None = None,
        max_concurrent_requests: int | None = None,
        max_attempts: int = 5,
        timeout: float = 600.0,
        burst: float | None = None,
        max_wait: float = 3600.0,
        shared: str | None = None,
        headers: Mapping[str, str] | None = None,
        loop: Literal["thread", "running"] = "thread",
        trust_env: bool = True,
        ssl: ssl_module.SSLContext | bool = True,
    ) -> None:
        self.base_url = (base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL).rstrip("/")
        check_url(self.base_url)
        _check_options(
            max_requests_per_minute=max_requests_per_minute,
            max_tokens_per_minute=max_tokens_per_minute,
            max_concurrent_requests=max_concurrent_requests,
            max_attempts=max_attempts,
            timeout=timeout,
            burst=burst,
            max_wait=max_wait,
        )
        if loop not in ("thread", "running"):
            raise InvalidInputError(f"loop must be 'thread' or 'running', not {loop!r}.")
        self.loop: Literal["thread", "running"] = loop
        self.max_concurrent_requests = max_concurrent_requests or MAX_CONCURRENT_REQUESTS
        self.max_attempts = max_attempts
        self.timeout = timeout
        self.max_wait = max_wait
        self.limiter = Limiter(max_requests_per_minute, max_tokens_per_minute, burst=burst, clock=time.monotonic)
        self._shared = SharedAccount(shared) if shared is not None else None
        self._has_key = False
        self._headers = self._make_headers(api_key, organization, project, headers or {})
        self._trust_env = trust_env
        self._ssl = ssl
        self._transports: WeakKeyDictionary[asyncio.AbstractEventLoop, Transport] = WeakKeyDictionary()
        finalize(self, _close_transports, self._transports)

    @property
    def max_requests_per_minute(self) -> float | None:
        """The limit in force: given, or read from the server; None while unknown."""
        return self.limiter.requests.limit

    @property
    def max_tokens_per_minute(self) -> float | None:
        """The limit in force: given, or read from the server; None while unknown."""
        return self.limiter.tokens.limit

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine."""
        return is_local(self.base_url)

    def check_key(self) -> None:
        """See that there is a key where one is certainly needed.

        Raises:
            AuthenticationError: the server is OpenAI's and no key was given.
        """
        if not self._has_key and self.base_url.startswith("https://api.openai.com"):
            raise AuthenticationError("There is no API key. Set OPENAI_API_KEY or pass Client(api_key=...).")

    async def send(self, request: APIRequest) -> Response:
        """Send one request, once, within the limits. Works on any loop. Raises nothing for an HTTP error."""
        return await arun(self._send_once(request), lambda: None)

    async def process(
        self,
        requests: Iterable[APIRequest | None],
        *,
        on_result: Callable[[Result], APIRequest | None],
        status: StatusTracker,
        budget: Budget | None = None,
        deadline: float | None = None,
    ) -> End:
        """Bring requests to their results within the limits, on the loop that runs this.

        `deadline` is a moment of time.monotonic. Gives how the run ended.

        Raises:
            RunStoppedError: the server refuses every request.
        """
        transport = self._transport()
        processor = Processor(
            send=lambda request: transport.post(request.path, request.body, timeout=self._patience(request)),
            limiter=self.limiter,
            on_result=on_result,
            retry=RetryPolicy(self.max_attempts, max_wait=self.max_wait),
            status=status,
            max_concurrent_requests=self.max_concurrent_requests,
            budget=budget,
            deadline=deadline,
        )
        try:
            async with self._sharing():
                return await processor.run(requests)
        finally:
            if self.loop == "running":  # that loop may be gone before the next run
                await transport.close()

    def transport(self) -> Transport:
        """The connections of the loop that runs, for what is no request of a run, such as files."""
        return self._transport()

    def close(self) -> None:
        """Close the pool of connections. The client can be used again and will open a new one."""
        _close_transports(self._transports)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        limits = {
            "max_requests_per_minute": self.max_requests_per_minute,
            "max_tokens_per_minute": self.max_tokens_per_minute,
        }
        shown = "".join(f", {name}={limit:g}" for name, limit in limits.items() if limit is not None)
        return f"Client({mask_url(self.base_url)!r}{shown})"

    @asynccontextmanager
    async def _sharing(self) -> AsyncIterator[None]:
        """Takes part in the shared account, if there is one, and keeps to the part of it that is ours."""
        account = self._shared
        if account is None:
            yield
            return

        async def keep_to_our_part() -> None:
            while True:
                self.limiter.set_share(1 / account.count())
                await asyncio.sleep(COUNT_EVERY)

        await account.join()
        self.limiter.set_share(1 / account.count())
        keeping = asyncio.ensure_future(keep_to_our_part())
        try:
            yield
        finally:
            keeping.cancel()
            account.leave()

    async def _send_once(self, request: APIRequest) -> Response:
        lease = await self.limiter.acquire(request.size or NO_SIZE)
        response = await self._transport().post(request.path, request.body, timeout=self._patience(request))
        verdict = judge(response, reached=True)
        if response.status == 429:
            self.limiter.refused(lease, response.headers, verdict.dimension, verdict.wait)
        elif response.status:
            self.limiter.answered(lease, response.headers, usage_of(response.data))
        else:
            self.limiter.unanswered(lease)
        return response

    def _patience(self, request: APIRequest) -> float | None:
        """Seconds for a request that needs more than others; None: the usual timeout."""
        return FLEX_TIMEOUT if tier_of(request.request_json) == "flex" and self.timeout < FLEX_TIMEOUT else None

    def _transport(self) -> Transport:
        loop = asyncio.get_running_loop()
        transport = self._transports.get(loop)
        if transport is None:
            transport = self._transports[loop] = Transport(
                self.base_url,
                self._headers,
                timeout=self.timeout,
                clock=time.monotonic,
                trust_env=self._trust_env,
                ssl=self._ssl,
            )
        return transport

    def _make_headers(
        self, api_key: str | None, organization: str | None, project: str | None, extra: Mapping[str, str]
    ) -> dict[str, str]:
        key = (api_key if api_key is not None else os.environ.get("OPENAI_API_KEY", "")).strip()
        if not key.isascii() or any(character.isspace() for character in key):
            raise InvalidInputError("The API key holds a space or a character that no key has; copy it again.")
        headers = {"User-Agent": "parallel_openai"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        organization = organization or os.environ.get("OPENAI_ORG_ID")
        project = project or os.environ.get("OPENAI_PROJECT_ID")
        if organization:
            headers["OpenAI-Organization"] = organization
        if project:
            headers["OpenAI-Project"] = project
        headers.update(extra)
        self._has_key = any(name.lower() in ("authorization", "api-key") for name in headers)
        return headers


def _check_options(**options: float | None) -> None:
    for name, value in options.items():
        if value is None and name not in ("max_attempts", "timeout", "max_wait"):
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise InvalidInputError(f"{name} must be a number above 0{_or_none(name)}, not {value!r}.")
        if name in ("max_attempts", "max_concurrent_requests") and value != int(value):
            raise InvalidInputError(f"{name} must be a whole number, not {value!r}.")


def _or_none(name: str) -> str:
    return "" if name in ("max_attempts", "timeout", "max_wait") else " or None"


_defaults: dict[tuple[str | None, ...], Client] = {}


def default_client() -> Client:
    """The client of the environment: the same one for every call, as long as the environment stays the same."""
    names = ("OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID")
    state = tuple(os.environ.get(name) for name in names)
    if state not in _defaults:
        _defaults[state] = Client()
    return _defaults[state]


def _close_transports(transports: WeakKeyDictionary[asyncio.AbstractEventLoop, Transport]) -> None:
    """Also called when a client is forgotten and at the interpreter's end, so that no connection is left behind."""
    for loop, transport in list(transports.items()):
        if loop.is_running():
            end = asyncio.run_coroutine_threadsafe(transport.close(), loop)
            if not is_background_thread():
                end.result(5)
