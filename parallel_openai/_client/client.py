"""`Client`: an account at a server. All its runs share one limiter and one connection pool."""

from __future__ import annotations

import os
import pickle
import ssl as ssl_module
import time
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakSet

from parallel_openai._arguments import mapping_of
from parallel_openai._client.base_client import BaseClient
from parallel_openai._client.client_options import check_options
from parallel_openai._client.pool import Member, PoolLimiter
from parallel_openai._http.account_server import AccountServer
from parallel_openai._http.addresses.base_url import BaseURL, find_base_url
from parallel_openai._http.addresses.url_checks import is_local, mask_url
from parallel_openai._http.credentials.keys import KeyFunction, find_key, make_headers
from parallel_openai._http.credentials.secrets import sent_secrets
from parallel_openai._journal.journal import Sync, check_sync
from parallel_openai._limits.admission import Admissions, per_minute
from parallel_openai._limits.model_limiters import ModelLimiters
from parallel_openai._limits.sharing import SharedAccount, taking_part
from parallel_openai._loop.forks import at_fork
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._records import APIRequest, Response
from parallel_openai.errors import InvalidInputError

if TYPE_CHECKING:
    from parallel_openai._http.transport import Transport

MAX_CONCURRENT_REQUESTS = 500
#: The options that are numbers.
_NUMBERS = (
    *("max_requests_per_minute", "max_tokens_per_minute", "max_concurrent_requests", "burst"),
    *("max_attempts", "timeout", "max_wait", "give_up_after"),
)


class Client(BaseClient):
    """An account at OpenAI or a compatible server.

    Args:
        base_url: the API's URL, for most servers including `/v1`; None: `OPENAI_BASE_URL`, otherwise OpenAI's. For
            Azure the URL of the resource, its v1 path or a deployment.
        api_key: None: `OPENAI_API_KEY`; not needed for a server without keys. A function that returns the key is
            called about once a minute, as suits Microsoft Entra's token providers.
        organization: None: `OPENAI_ORG_ID`.
        project: None: `OPENAI_PROJECT_ID`.
        max_requests_per_minute: the account's limit over all models; None: each model's limit is read from the
            server's headers.
        max_tokens_per_minute: the same for prompt and completion tokens.
        max_concurrent_requests: the most requests in flight; None: 500.
        max_attempts: failed attempts of a request after which its row fails. Waiting for the limits does not count.
        timeout: seconds for one response, from sending the request to the last byte.
        burst: seconds of the limits that may be sent at once; None: learned from the server.
        max_wait: seconds that a request may wait for a server that refuses or is unreachable, before its row fails.
        give_up_after: seconds without a successful answer after which a run stops, for the same reasons.
        shared: a name. Clients with the same name in all processes of this machine share the limits, each with an
            equal part while it runs. None: not shared.
        headers: additional headers for every request.
        query: query parameters added to every request's URL, besides those in the base URL.
        azure_endpoint: the resource's URL, as in the SDK's `AzureOpenAI`; None: `AZURE_OPENAI_ENDPOINT`, used if
            another Azure argument is given, or if neither `OPENAI_API_KEY` nor `OPENAI_BASE_URL` is set. The key is
            then `AZURE_OPENAI_API_KEY`, or the token `AZURE_OPENAI_AD_TOKEN`.
        azure_deployment: the deployment for all requests; None: the deployment named like the model.
        api_version: of Azure's dated API; None: `OPENAI_API_VERSION`. Without one, Azure's v1 path is used.
        loop: `thread`: run on an event loop in a background thread; `running`: on the caller's loop, patched by
            nest_asyncio.
        sync: how often written answers are synced to disk: about once a `second`, `always` (after each write) or
            `never` (which survives a crash of the program, but not of the machine).
        trust_env: whether to use the proxies of the environment.
        ssl: a context, for a private certificate authority.

    Raises:
        InvalidInputError: an option is out of range.

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
        give_up_after: float = 1800.0,
        shared: str | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        azure_endpoint: str | None = None,
        azure_deployment: str | None = None,
        api_version: str | None = None,
        loop: Literal["thread", "running"] = "thread",
        sync: Sync = "second",
        trust_env: bool = True,
        ssl: ssl_module.SSLContext | bool = True,
    ) -> None:
        self._settings = {name: value for name, value in locals().items() if name != "self"}
        address = find_base_url(
            base_url,
            azure_endpoint=azure_endpoint,
            azure_deployment=azure_deployment,
            api_version=api_version,
            query=query,
            environment=os.environ,
        )
        self.base_url = address.base_url
        check_options(**{name: self._settings[name] for name in _NUMBERS})
        if loop not in ("thread", "running"):
            raise InvalidInputError(f"loop must be 'thread' or 'running', not {loop!r}.")
        self.loop: Literal["thread", "running"] = loop
        check_sync(sync)
        self.sync = sync
        self._given_concurrency = max_concurrent_requests
        self.max_concurrent_requests = max_concurrent_requests or MAX_CONCURRENT_REQUESTS
        self.max_attempts = max_attempts
        self.timeout = timeout
        self.max_wait = max_wait
        self.give_up_after = give_up_after
        self._begin()
        key = find_key(api_key, is_azure=address.is_azure, environment=os.environ, clock=self.clock)
        sent = make_headers(key.headers, organization, project, mapping_of(headers, "headers"), environment=os.environ)
        self._server = AccountServer(address, key, sent, timeout=timeout, trust_env=trust_env, ssl=ssl)

    def _begin(self) -> None:
        """Begin to learn the limits."""
        limits = (self._settings["max_requests_per_minute"], self._settings["max_tokens_per_minute"])
        self.limiter = ModelLimiters(*limits, burst=self._settings["burst"], clock=self.clock)
        name = self._settings["shared"]
        self._shared = SharedAccount(name) if name is not None else None
        _all.add(self)

    @staticmethod
    def pool(members: Iterable[Client | Mapping[str, Any]]) -> Client:
        """Several accounts as one client: keys, deployments or servers that serve the same model.

        Each has its own limits, and a request goes to the first with capacity. A member that fails permanently (an
        invalid key, no credit, an unreachable server) is excluded with a warning in the log, and the others take over
        its requests; the run stops only when none is left. The next run tries all members again.

        Args:
            members: clients, or the arguments of `Client` as mappings. The first one's address names the journal and
                determines the prices, and the Batch API is used with it alone. Other members may change between runs,
                since requests do not depend on the member.

        Raises:
            InvalidInputError: there are no members, or they have different `loop` options.

        >>> client = Client.pool([
        ...     {"base_url": "http://127.0.0.1:8000/v1", "max_requests_per_minute": 600},
        ...     Client("http://127.0.0.1:8001/v1", max_requests_per_minute=60),
        ... ])
        >>> client.max_requests_per_minute
        660.0
        """
        return _Pool([Client(**member) if isinstance(member, Mapping) else member for member in members])

    @property
    def max_requests_per_minute(self) -> float | None:
        """The limit in force over all models asked: given, or read from the server; None while unknown, or a day's."""
        return per_minute(self.limiter.requests)

    @property
    def max_tokens_per_minute(self) -> float | None:
        """The limit in force over all models asked: given, or read from the server; None while unknown, or a day's."""
        return per_minute(self.limiter.tokens)

    def url(self, request: APIRequest) -> str:
        """The URL of a request, without keys in its query."""
        return self._server.url(request)

    @property
    def place(self) -> str:
        """Identifies the server, whatever the API version and the key; names the journals."""
        return self._server.address.place

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine."""
        return is_local(self.base_url)

    def check_key(self) -> None:
        """Check that there is a key if the server is known to need one.

        Raises:
            AuthenticationError: the server is OpenAI's or Azure's and no key was given.
        """
        self._server.check_key()

    def transport(self) -> Transport:
        return self._server.connections.here()

    def account(self) -> dict[str, Any]:
        """The data from which `of_account` makes an equal client in another process. It contains the key."""
        server = self._server
        return {
            "address": server.address,
            "headers": server.headers,
            "key": server.key.function,
            "options": {
                "max_concurrent_requests": self._given_concurrency,
                "max_attempts": self.max_attempts,
                "timeout": self.timeout,
                "max_wait": self.max_wait,
                "give_up_after": self.give_up_after,
                "trust_env": server.trust_env,
                "ssl": server.ssl,
            },
        }

    @classmethod
    def of_account(cls, account: Mapping[str, Any]) -> Client:
        """The client described by `account`; it learns the limits anew."""
        address: BaseURL = account["address"]
        client = cls(address.base_url, account["key"] or "", **account["options"])
        server = client._server
        client._server = AccountServer(
            address, server.key, account["headers"], timeout=server.timeout, trust_env=server.trust_env, ssl=server.ssl
        )
        return client

    def close(self) -> None:
        """Close the connections; those of a run under way when its answers are in. The client can still be used and
        opens new ones."""
        self._server.connections.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the settings; the client made from them learns the limits anew.

        Raises:
            PicklingError: a key or another secret was given, which must not end up in a file.
        """
        settings = self._settings
        if settings["api_key"] is not None or sent_secrets(settings["headers"] or {}, self._server.address.base_url):
            raise pickle.PicklingError(
                "This client was given a key, a secret header or a query, which must not be written into a pickle. Set "
                "OPENAI_API_KEY in each process, or create the client there."
            )
        return partial(Client, **settings), ()

    def __repr__(self) -> str:
        limits = {
            "max_requests_per_minute": self.max_requests_per_minute,
            "max_tokens_per_minute": self.max_tokens_per_minute,
        }
        known = "".join(f", {name}={limit:g}" for name, limit in limits.items() if limit is not None)
        return f"Client({mask_url(self.base_url)!r}{known})"

    @property
    def _admissions(self) -> Admissions:
        return self.limiter

    @asynccontextmanager
    async def _running(self, status: StatusTracker) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if self.loop == "running":
                await stack.enter_async_context(self._server.connections.borrowed())
            await stack.enter_async_context(taking_part(self._shared, self.limiter))
            yield

    def _deliver(self, request: APIRequest, lease: Any) -> Awaitable[Response]:
        return self._server.post(request)


_all: WeakSet[Client] = WeakSet()
_parents: list[object] = []  # kept, since the end of one might give back what the parent holds


def _begin_in_child() -> None:
    """Begin anew in a forked child, which gets none of the answers that the limiters still expect."""
    for client in sorted(_all, key=lambda each: isinstance(each, _Pool)):  # a pool has its members' limiters
        _parents.append(vars(client).get("_shared"))
        client._begin()


at_fork(in_child=_begin_in_child)


class _Pool(Client):
    """Several clients with the interface of one."""

    def __init__(self, members: Sequence[Client]) -> None:
        _check_members(members)
        first = members[0]
        self.members: tuple[Client, ...] = tuple(members)
        self.base_url, self.loop, self.sync = first.base_url, first.loop, first.sync
        self.max_concurrent_requests = sum(each.max_concurrent_requests for each in members)
        self.max_attempts = max(each.max_attempts for each in members)
        self.timeout = max(each.timeout for each in members)
        self.max_wait = max(each.max_wait for each in members)
        self.give_up_after = max(each.give_up_after for each in members)
        self._begin()

    def _begin(self) -> None:
        self._runs = 0
        self.limiter = self.members[0].limiter
        self._limiters = PoolLimiter(
            [
                Member(
                    f"{number}. {mask_url(each.place)}", each.limiter, each._server.post, each.max_concurrent_requests
                )
                for number, each in enumerate(self.members, 1)
            ],
            clock=time.monotonic,
        )
        _all.add(self)

    @property
    def max_requests_per_minute(self) -> float | None:
        return self._limiters.requests.limit

    @property
    def max_tokens_per_minute(self) -> float | None:
        return self._limiters.tokens.limit

    @property
    def place(self) -> str:
        return self.members[0].place

    def url(self, request: APIRequest) -> str:
        return self.members[0].url(request)

    @property
    def is_local(self) -> bool:
        return all(each.is_local for each in self.members)

    def check_key(self) -> None:
        for each in self.members:
            each.check_key()

    def transport(self) -> Transport:
        return self.members[0].transport()

    def account(self) -> dict[str, Any]:
        raise InvalidInputError("A pool works in one process; a cluster needs a single client.")

    def close(self) -> None:
        for each in self.members:
            each.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return Client.pool, (self.members,)

    def __repr__(self) -> str:
        return f"Client.pool([{', '.join(map(repr, self.members))}])"

    @property
    def _admissions(self) -> Admissions:
        return self._limiters

    @asynccontextmanager
    async def _running(self, status: StatusTracker) -> AsyncIterator[None]:
        if not self._runs:
            self._limiters.include_all()
        before = self._limiters.counts()
        self._runs += 1
        try:
            async with AsyncExitStack() as stack:
                for each in self.members:
                    await stack.enter_async_context(each._running(status))
                yield
        finally:
            self._runs -= 1
            status.members = self._limiters.counts(since=before)

    def _deliver(self, request: APIRequest, lease: Any) -> Awaitable[Response]:
        return self._limiters.send(request, lease)


def _check_members(members: Sequence[Client]) -> None:
    if not members:
        raise InvalidInputError("A pool needs at least one client.")
    for each in members:
        if not isinstance(each, Client) or isinstance(each, _Pool):
            raise InvalidInputError(f"A pool is made of clients or their arguments, not of {each!r:.100}.")
    if len({each.loop for each in members}) > 1 or len(set(map(id, members))) < len(members):
        raise InvalidInputError("The clients of a pool must be different ones, with the same loop=.")
