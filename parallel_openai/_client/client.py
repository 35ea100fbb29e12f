"""`Client`: an account at a server, with its limits. Every run on it shares one limiter and one pool of connections."""

from __future__ import annotations

import os
import pickle
import ssl as ssl_module
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

from parallel_openai._arguments import mapping_of
from parallel_openai._client.pool import Member, PoolLimiter
from parallel_openai._http.account_server import AccountServer
from parallel_openai._http.addresses.base_url import BaseURL, find_address
from parallel_openai._http.addresses.url_checks import is_local, mask_url
from parallel_openai._http.credentials.keys import KeyFunction, find_key, make_headers
from parallel_openai._http.credentials.secrets import sent_secrets
from parallel_openai._journal.journal import Sync, check_sync
from parallel_openai._limits.admission import Admissions, model_of, per_minute
from parallel_openai._limits.limits import check_options
from parallel_openai._limits.model_limiters import ModelLimiters
from parallel_openai._limits.sharing import SharedAccount, taking_part
from parallel_openai._limits.sizes import NO_SIZE
from parallel_openai._loop.background import in_background
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._records import DONE, APIRequest, Response, Result, Ruling
from parallel_openai._requests.endpoints import usage_of
from parallel_openai._run.equal_refusals import models_like
from parallel_openai._run.failed_sends import tell
from parallel_openai._run.response_verdict import RetryPolicy, judge
from parallel_openai._run.runner import End, Runner
from parallel_openai._run.spending.budget import Budget
from parallel_openai._run.spending.caps import prices_at
from parallel_openai.errors import InvalidInputError, RequestRefusedError

if TYPE_CHECKING:
    from parallel_openai._http.transport import Transport

MAX_CONCURRENT_REQUESTS = 500


class Client:
    """An account at OpenAI or a compatible server.

    Args:
        base_url: where the API lives, for most servers up to and with `/v1`; None: `OPENAI_BASE_URL`, else OpenAI's
            own. At Azure the resource, its v1 path or a deployment's URL.
        api_key: None: `OPENAI_API_KEY`. A server that wants none needs none. A function is asked for the key about once
            a minute, as suits Microsoft Entra's token providers.
        organization: None: `OPENAI_ORG_ID`.
        project: None: `OPENAI_PROJECT_ID`.
        max_requests_per_minute: the account's limit, for all models together; None: each model's is read from the
            server's headers.
        max_tokens_per_minute: the same for prompt and completion tokens.
        max_concurrent_requests: requests in flight at the most; None: 500.
        max_attempts: sends of one request that may fail before its row does. Waiting for the limits counts as none.
        timeout: seconds for one answer, from the send to its last byte.
        burst: seconds of the limits that may be sent at once; None: learned from the server.
        max_wait: seconds one request may wait because the server refuses or is away, before its row fails.
        give_up_after: seconds without one good answer after which a run stops, while the server refuses or is away.
        shared: a name; all processes on this machine whose clients bear it divide the limits among themselves, each
            an equal part while it runs. None: the limits are this process's alone.
        headers: sent with every request, besides the key's.
        query: query parameters added to every request's URL, besides those in the base URL.
        azure_endpoint: the resource's URL, as the SDK's `AzureOpenAI` has it; None: `AZURE_OPENAI_ENDPOINT`, used if
            another Azure argument is given, or if neither `OPENAI_API_KEY` nor `OPENAI_BASE_URL` is set. The key is
            then `AZURE_OPENAI_API_KEY`, or the token `AZURE_OPENAI_AD_TOKEN`.
        azure_deployment: where all requests go; None: to the deployment that is called like the model.
        api_version: of Azure's dated API; None: `OPENAI_API_VERSION`. Without one, Azure's v1 path is used.
        loop: `thread`: the engine has a loop of its own; `running`: it works on the caller's loop, patched by
            nest_asyncio.
        sync: how often the disk is told to keep the answers that were written down: about once a `second`, `always`
            (after each write) or `never` (safe against a crash of the program, not of the machine).
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
        address = find_address(
            base_url,
            azure_endpoint=azure_endpoint,
            azure_deployment=azure_deployment,
            api_version=api_version,
            query=query,
            environment=os.environ,
        )
        self.base_url = address.base_url
        check_options(
            max_requests_per_minute=max_requests_per_minute,
            max_tokens_per_minute=max_tokens_per_minute,
            max_concurrent_requests=max_concurrent_requests,
            max_attempts=max_attempts,
            timeout=timeout,
            burst=burst,
            max_wait=max_wait,
            give_up_after=give_up_after,
        )
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
        self.limiter = ModelLimiters(max_requests_per_minute, max_tokens_per_minute, burst=burst, clock=self.clock)
        self._shared = SharedAccount(shared) if shared is not None else None
        key = find_key(api_key, is_azure=address.is_azure, environment=os.environ, clock=self.clock)
        sent = make_headers(key.headers, organization, project, mapping_of(headers, "headers"), environment=os.environ)
        self._server = AccountServer(address, key, sent, timeout=timeout, trust_env=trust_env, ssl=ssl)

    #: Seconds, never going back: what waits and deadlines are told by.
    clock: Callable[[], float] = staticmethod(time.monotonic)

    @staticmethod
    def pool(members: Iterable[Client | Mapping[str, Any]]) -> Client:
        """Several accounts as one: keys, deployments or servers that answer the same model.

        Each keeps its own limits, and a request goes where there is capacity first. A member that is refused for good
        (a wrong key, no credit, nobody there) is put out with a note in the log, and the others go on with its work;
        only when none is left, the run stops. The next run tries all of them again.

        Args:
            members: clients, or the arguments of `Client` as mappings. The first one's address names the journal and
                tells the prices, and with it alone the Batch API is used; members may come and go behind it, for what
                is asked does not depend on who answers.

        Raises:
            InvalidInputError: there are no members, or they work on different loops.

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

    def pace(self, model: str | None) -> tuple[float | None, float | None, int]:
        """Requests and tokens per minute as far as they are known, and by which of the counting rules tokens count."""
        gate = self._gates.of(model)
        requests, tokens = (
            level.limit * 60.0 / level.period if level.limit is not None else None
            for level in (gate.requests, gate.tokens)
        )
        return requests, tokens, gate.counting.rule

    def largest_prompt(self, model: str | None) -> float | None:
        """Tokens of the largest prompt that the model's limit ever lets through; None while that is not known."""
        return self._gates.of(model).largest

    def url(self, request: APIRequest) -> str:
        """Where a request goes, without what its query says of keys."""
        return self._server.url(request)

    @property
    def place(self) -> str:
        """What tells this server from others, whatever its API's version and the key: journals are named by it."""
        return self._server.address.place

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine."""
        return is_local(self.base_url)

    def check_key(self) -> None:
        """See that there is a key where one is certainly needed.

        Raises:
            AuthenticationError: the server is OpenAI's or Azure's and no key was given.
        """
        self._server.check_key()

    async def send(self, request: APIRequest) -> Response:
        """Send one request, once, within the limits. Works on any loop. Raises nothing for an HTTP error."""
        return await in_background(self._send_once(request))

    async def process(
        self,
        requests: Iterable[APIRequest | None],
        *,
        on_result: Callable[[Result], Ruling | None],
        status: StatusTracker,
        budget: Budget | None = None,
        deadline: float | None = None,
    ) -> End:
        """Bring requests to their results within the limits, on the loop that runs this.

        `deadline` is a moment of the client's clock. Gives how the run ended.

        Raises:
            RunStoppedError: the server refuses every request.
        """
        runner = Runner(
            send=self._deliver,
            limiter=self._gates,
            on_result=on_result,
            retry=RetryPolicy(self.max_attempts, max_wait=self.max_wait, give_up_after=self.give_up_after),
            status=status,
            max_concurrent_requests=self.max_concurrent_requests,
            budget=budget,
            price=prices_at(self.base_url),
            deadline=deadline,
            clock=self.clock,
        )
        async with self._at_work(status):
            try:
                return await runner.run(requests)
            except RequestRefusedError as error:
                raise await self.with_advice(error) from None

    async def with_advice(self, error: RequestRefusedError) -> RequestRefusedError:
        """The same with the models of the server's list that are called almost like the one that it does not know."""
        if error.model is None:
            return error
        listed = await self.transport().call("GET", "models")
        near = models_like(error.model, listed.data)
        better = RequestRefusedError(f"{error} The server lists {', '.join(near)}." if near else str(error))
        better.model = error.model
        return better

    def transport(self) -> Transport:
        """The connections of the loop that runs, for what is no request of a run, such as files."""
        return self._server.connections.here()

    def account(self) -> dict[str, Any]:
        """What makes a client like this one in another process. The key is in it: show it nobody."""
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
        """The client that `account` tells of; its limits are learned anew."""
        address: BaseURL = account["address"]
        client = cls(address.base_url, account["key"] or "", **account["options"])
        server = client._server
        client._server = AccountServer(
            address, server.key, account["headers"], timeout=server.timeout, trust_env=server.trust_env, ssl=server.ssl
        )
        return client

    def close(self) -> None:
        """Close the pool of connections. The client can be used again and will open a new one."""
        self._server.connections.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle holds the settings, from which another process makes a client that learns the limits anew.

        Raises:
            PicklingError: a key, or something like it, was given; pickles lie in files, and keys must not.
        """
        given = self._settings
        if given["api_key"] is not None or sent_secrets(given["headers"] or {}, self._server.address.base_url):
            raise pickle.PicklingError(
                "This client was given a key, a secret header or a query, which must not be written into a pickle. Let "
                "the key come from OPENAI_API_KEY in each process, or make the client there."
            )
        return _client_of, (given,)

    def __repr__(self) -> str:
        limits = {
            "max_requests_per_minute": self.max_requests_per_minute,
            "max_tokens_per_minute": self.max_tokens_per_minute,
        }
        shown = "".join(f", {name}={limit:g}" for name, limit in limits.items() if limit is not None)
        return f"Client({mask_url(self.base_url)!r}{shown})"

    @property
    def _gates(self) -> Admissions:
        return self.limiter

    @asynccontextmanager
    async def _at_work(self, status: StatusTracker) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if self.loop == "running":
                await stack.enter_async_context(self._server.connections.borrowed())
            await stack.enter_async_context(taking_part(self._shared, self.limiter))
            yield

    async def _send_once(self, request: APIRequest) -> Response:
        async with self._at_work(StatusTracker()):
            gate = self._gates.of(model_of(request))
            lease = await gate.acquire(request.size or NO_SIZE)
            try:
                response = await self._deliver(request, lease)
            except BaseException:
                gate.unanswered(lease)
                raise
        verdict = judge(response, reached=True, path=request.path)
        if verdict is DONE:
            gate.answered(lease, response.headers, usage_of(response.data))
        else:
            tell(gate, lease, response, verdict)
        return response

    def _deliver(self, request: APIRequest, lease: Any) -> Awaitable[Response]:
        return self._server.post(request)


def _client_of(settings: Mapping[str, Any]) -> Client:
    return Client(**settings)


class _Pool(Client):
    """Several clients that quack as one."""

    def __init__(self, members: Sequence[Client]) -> None:
        _check_members(members)
        first = members[0]
        self.members = tuple(members)
        self.base_url, self.loop, self.sync, self.limiter = first.base_url, first.loop, first.sync, first.limiter
        self.max_concurrent_requests = sum(each.max_concurrent_requests for each in members)
        self.max_attempts = max(each.max_attempts for each in members)
        self.timeout = max(each.timeout for each in members)
        self.max_wait = max(each.max_wait for each in members)
        self.give_up_after = max(each.give_up_after for each in members)
        self._runs = 0
        self._limiters = PoolLimiter(
            [
                Member(
                    f"{number}. {mask_url(each.place)}", each.limiter, each._server.post, each.max_concurrent_requests
                )
                for number, each in enumerate(members, 1)
            ],
            clock=time.monotonic,
        )

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
    def _gates(self) -> Admissions:
        return self._limiters

    @asynccontextmanager
    async def _at_work(self, status: StatusTracker) -> AsyncIterator[None]:
        if not self._runs:
            self._limiters.begin()
        before = self._limiters.counts()
        self._runs += 1
        try:
            async with AsyncExitStack() as stack:
                for each in self.members:
                    await stack.enter_async_context(each._at_work(status))
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
