"""What a client does with requests, to one account or to several."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from parallel_openai._limits.admission import Admissions, model_of
from parallel_openai._limits.sizes import NO_SIZE
from parallel_openai._loop.background import in_background
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._records import DONE, APIRequest, Response, Result, Ruling
from parallel_openai._requests.endpoints import usage_of
from parallel_openai._run.equal_refusals import models_like
from parallel_openai._run.failed_sends import inform
from parallel_openai._run.response_verdict import RetryPolicy, judge
from parallel_openai._run.runner import End, Runner
from parallel_openai._run.spending.budget import Budget, PriceOf
from parallel_openai._run.spending.caps import prices_at
from parallel_openai.errors import RequestRefusedError

if TYPE_CHECKING:
    from parallel_openai._http.transport import Transport

Self = TypeVar("Self", bound="BaseClient")


class BaseClient(ABC):
    """Sends requests within the limits of whatever account or accounts it is for."""

    base_url: str
    members: Sequence[BaseClient] = ()  # the accounts, of a pool
    max_concurrent_requests: int
    max_attempts: int
    timeout: float
    max_wait: float
    give_up_after: float

    #: Monotonic seconds, for waits and deadlines.
    clock: Callable[[], float] = staticmethod(time.monotonic)

    @property
    def price(self) -> PriceOf:
        """What an answer costs here, in dollars."""
        return prices_at(*(each.base_url for each in self.members or (self,)))

    def pace(self, model: str | None) -> tuple[float | None, float | None, int]:
        """A model's requests and tokens per minute, None while unknown, and the number of its token-counting rule."""
        limiter = self._admissions.of(model)
        requests, tokens = (
            level.limit * 60.0 / level.period if level.limit is not None else None
            for level in (limiter.requests, limiter.tokens)
        )
        return requests, tokens, limiter.counting.rule

    def largest_prompt(self, model: str | None) -> float | None:
        """Tokens of the largest prompt that the model's limit can ever admit; None while unknown."""
        return self._admissions.of(model).largest

    async def send(self, request: APIRequest) -> Response:
        """Make one attempt of a request, within the limits, on any loop. An HTTP error is returned, not raised."""
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
        """Process requests within the limits, on the running loop; returns how the run ended.

        Args:
            requests: None lets other tasks of the loop run in between.
            on_result: called with each result.
            status: the run's counters.
            budget: the most that may be spent.
            deadline: by the client's clock.

        Raises:
            RunStoppedError: the server refuses every request.
        """
        runner = Runner(
            send=self._deliver,
            limiter=self._admissions,
            on_result=on_result,
            retry=RetryPolicy(self.max_attempts, max_wait=self.max_wait, give_up_after=self.give_up_after),
            status=status,
            max_concurrent_requests=self.max_concurrent_requests,
            budget=budget,
            price=self.price,
            deadline=deadline,
            clock=self.clock,
        )
        async with self._running(status):
            try:
                return await runner.run(requests)
            except RequestRefusedError as error:
                raise await self.with_advice(error) from None

    async def with_advice(self, error: RequestRefusedError) -> RequestRefusedError:
        """The error, with similar names from the server's list if it does not know the model."""
        if error.model is None:
            return error
        listed = await self.transport().call("GET", "models")
        similar = models_like(error.model, listed.data)
        advised = RequestRefusedError(f"{error} The server lists {', '.join(similar)}." if similar else str(error))
        advised.model = error.model
        return advised

    @abstractmethod
    def transport(self) -> Transport:
        """The running loop's connections, for calls outside a run, such as file uploads."""

    @abstractmethod
    def close(self) -> None:
        """Close the connections."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    @abstractmethod
    def _admissions(self) -> Admissions:
        """The limiters of the account or accounts."""

    @abstractmethod
    def _running(self, status: StatusTracker) -> AbstractAsyncContextManager[None]:
        """The context of a run, whose counters are `status`."""

    @abstractmethod
    def _deliver(self, request: APIRequest, lease: Any) -> Awaitable[Response]:
        """Send a request with its lease, once."""

    async def _send_once(self, request: APIRequest) -> Response:
        async with self._running(StatusTracker()):
            limiter = self._admissions.of(model_of(request))
            lease = await limiter.acquire(request.size or NO_SIZE)
            try:
                response = await self._deliver(request, lease)
            except BaseException:
                limiter.unanswered(lease)
                raise
        verdict = judge(response, reached=True, path=request.path)
        if verdict is DONE:
            limiter.answered(lease, response.headers, usage_of(response.data))
        else:
            inform(limiter, lease, response, verdict)
        return response
