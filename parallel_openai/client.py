"""`Client`: an account at a server, with its limits. Every run on it shares one limiter and one pool of connections."""

from __future__ import annotations

import asyncio
import os
import ssl as ssl_module
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Literal
from weakref import WeakKeyDictionary, finalize

from parallel_openai.engine.address import Address, find_address
from parallel_openai.engine.budget import Budget
from parallel_openai.engine.keys import KeyFunction, find_key
from parallel_openai.engine.limiter import Limiter
from parallel_openai.engine.loop import arun, is_background_thread
from parallel_openai.engine.processor import NO_SIZE, End, Processor
from parallel_openai.engine.retry import RetryPolicy, judge
from parallel_openai.engine.sharing import COUNT_EVERY, SharedAccount
from parallel_openai.engine.status import StatusTracker
from parallel_openai.engine.transport import Transport, is_local, mask_url
from parallel_openai.errors import AuthenticationError, InvalidInputError
from parallel_openai.records import APIRequest, Response, Result
from parallel_openai.requests.endpoints import usage_of
from parallel_openai.requests.prices import tier_of

MAX_CONCURRENT_REQUESTS = 500
#: Seconds for an answer of the flex tier, which may stand in a queue for long, as OpenAI advises.
FLEX_TIMEOUT = 900.0


class Client:
    """An account at OpenAI or a compatible server.

    Args:
        base_url: where the API lives, for most servers up to and with `/v1`; None: `OPENAI_BASE_URL`, else OpenAI's
            own. At Azure the resource, its v1 path or a deployment's URL.
        api_key: None: `OPENAI_API_KEY`. A server that wants none needs none. A function is asked for the key about once
            a minute, as suits Microsoft Entra's token providers.
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
        query: asked with every request, besides what stands in the base URL.
        azure_endpoint: the resource's URL, as the SDK's `AzureOpenAI` has it; None: `AZURE_OPENAI_ENDPOINT`, where
            Azure is meant by one of these three, or by an environment that names no key and server of OpenAI's. The
            key is then `AZURE_OPENAI_API_KEY`, or the token `AZURE_OPENAI_AD_TOKEN`.
        azure_deployment: where all requests go; None: to the deployment that is called like the model.
        api_version: of Azure's dated API; None: `OPENAI_API_VERSION`. Without one, Azure's v1 path is used.
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
        api_key: str | KeyFunction | None = None,
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
        query: Mapping[str, str] | None = None,
        azure_endpoint: str | None = None,
        azure_deployment: str | None = None,
        api_version: str | None = None,
        loop: Literal["thread", "running"] = "thread",
        trust_env: bool = True,
        ssl: ssl_module.SSLContext | bool = True,
    ) -> None:
        self._address = find_address(
            base_url,
            azure_endpoint=azure_endpoint,
            azure_deployment=azure_deployment,
            api_version=api_version,
            query=query,
            environment=os.environ,
        )
        self.base_url = self._address.base_url
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
        self._given_concurrency = max_concurrent_requests
        self.max_concurrent_requests = max_concurrent_requests or MAX_CONCURRENT_REQUESTS
        self.max_attempts = max_attempts
        self.timeout = timeout
        self.max_wait = max_wait
        self.limiter = Limiter(max_requests_per_minute, max_tokens_per_minute, burst=burst, clock=time.monotonic)
        self._shared = SharedAccount(shared) if shared is not None else None
        is_azure = self._address.is_azure
        self._key = find_key(api_key, is_azure=is_azure, environment=os.environ, clock=time.monotonic)
        self._headers = _make_headers(self._key.headers, organization, project, headers or {})
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
    def place(self) -> str:
        """What tells this server from others, whatever its API's version and the key: journals are named by it."""
        return self._address.place

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine."""
        return is_local(self.base_url)

    def check_key(self) -> None:
        """See that there is a key where one is certainly needed.

        Raises:
            AuthenticationError: the server is OpenAI's or Azure's and no key was given.
        """
        has_key = self._key.is_given or any(name.lower() in ("authorization", "api-key") for name in self._headers)
        if self._address.needs_key and not has_key:
            variable = "AZURE_OPENAI_API_KEY" if self._address.is_azure else "OPENAI_API_KEY"
            raise AuthenticationError(f"There is no API key. Set {variable} or pass Client(api_key=...).")

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
        processor = Processor(
            send=self._post,
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
                await self._transport().close()

    def transport(self) -> Transport:
        """The connections of the loop that runs, for what is no request of a run, such as files."""
        return self._transport()

    def account(self) -> dict[str, Any]:
        """What makes a client like this one in another process. The key is in it: show it nobody."""
        return {
            "address": self._address,
            "headers": self._headers,
            "key": self._key.function,
            "options": {
                "max_concurrent_requests": self._given_concurrency,
                "max_attempts": self.max_attempts,
                "timeout": self.timeout,
                "max_wait": self.max_wait,
                "trust_env": self._trust_env,
                "ssl": self._ssl,
            },
        }

    @classmethod
    def of_account(cls, account: Mapping[str, Any]) -> Client:
        """The client that `account` tells of; its limits are learned anew."""
        address: Address = account["address"]
        client = cls(address.base_url, account["key"] or "", **account["options"])
        client._address, client._headers = address, dict(account["headers"])
        return client

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
        response = await self._post(request)
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

    async def _post(self, request: APIRequest) -> Response:
        """Send it, whatever the limits say.

        Raises:
            AuthenticationError: the function that gives the key did not.
        """
        transport, timeout = self._transport(), self._patience(request)
        path = self._address.path(request.path, request.request_json.get("model"))
        used = await self._key.current() if self._key.is_renewed else None
        response = await transport.post(path, request.body, timeout=timeout)
        if response.status == 401 and used is not None:  # it has ended sooner than thought, as while a laptop slept
            self._key.forget(used)
            response = await transport.post(path, request.body, timeout=timeout)
        if response.status == 404:
            response = replace(response, error=self._address.about_404(path, response.body))
        return response

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
                renewed=self._key.current if self._key.is_renewed else None,
            )
        return transport


def _make_headers(
    key: Mapping[str, str], organization: str | None, project: str | None, extra: Mapping[str, str]
) -> dict[str, str]:
    headers = {"User-Agent": "parallel_openai", **key}
    organization = organization or os.environ.get("OPENAI_ORG_ID")
    project = project or os.environ.get("OPENAI_PROJECT_ID")
    if organization:
        headers["OpenAI-Organization"] = organization
    if project:
        headers["OpenAI-Project"] = project
    own = {name.lower() for name in extra}
    return {**{name: value for name, value in headers.items() if name.lower() not in own}, **extra}


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


_ENVIRONMENT = (
    "OPENAI_BASE_URL",
    "OPENAI_API_KEY",
    "OPENAI_ORG_ID",
    "OPENAI_PROJECT_ID",
    "AZURE_OPENAI_ENDPOINT",
    "AZURE_OPENAI_API_KEY",
    "AZURE_OPENAI_AD_TOKEN",
    "OPENAI_API_VERSION",
)
_defaults: dict[tuple[str | None, ...], Client] = {}


def default_client() -> Client:
    """The client of the environment: the same one for every call, as long as the environment stays the same."""
    state = tuple(os.environ.get(name) for name in _ENVIRONMENT)
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
