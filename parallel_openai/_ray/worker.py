"""A worker of the pool: an actor that sends the requests it is fed, in its slots of the account's limit."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from parallel_openai._client.client import Client
from parallel_openai._frames.repair import Repair
from parallel_openai._journal.entry import result_line
from parallel_openai._journal.origins import Origin
from parallel_openai._journal.undelivered import Undelivered
from parallel_openai._json import loads_quickly
from parallel_openai._limits.admission import RunLimits, model_of, per_minute
from parallel_openai._limits.limiter import Limiter
from parallel_openai._limits.sizes import NO_SIZE
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._progress.timeline import Timeline
from parallel_openai._ray.cluster import AccountHandle, SealedClient, worker_name
from parallel_openai._ray.leased_slots import LeasedLimiters
from parallel_openai._ray.shared_account import Grant, Limits, Report
from parallel_openai._ray.shared_budget import Share
from parallel_openai._records import APIRequest, Attempt, Result, Size, Usage, Verdict
from parallel_openai._requests.endpoints import usage_of
from parallel_openai._run.incoming import Incoming
from parallel_openai._run.spending.caps import SpendingCaps
from parallel_openai.errors import RunStoppedError

#: A worker that hears nothing from its run for this many seconds stops sending until it does. If the run's process has
#: died, further answers would be paid for and lost.
SILENCE = 0.75
#: Seconds for which results are collected before they are delivered together.
GATHER = 0.02
#: The counters that workers keep. The others are counted where the results arrive.
COUNTS = (
    "num_requests_sent",
    "num_retries",
    "num_rate_limit_errors",
    "num_api_errors",
    "num_busy_errors",
    "num_other_errors",
    "prompt_tokens",
    "completion_tokens",
    "cost_usd",
)


class Numbered(NamedTuple):
    """The context of a request at a worker."""

    number: int  # identifies the request to the run
    repair: Repair | None  # set if the request is a repair of another


def numbered(number: int, request: APIRequest) -> APIRequest:
    """A lean copy of a request to send to a worker, with a number that identifies it."""
    lean = APIRequest.of_key(request.key, request.path, request.sample)
    for name in ("body", "model", "tier", "size"):  # the JSON is parsed from the bytes if it is needed
        setattr(lean, name, getattr(request, name))
    lean.metadata = request.metadata
    lean.context = Numbered(number, request.context if isinstance(request.context, Repair) else None)
    return lean


def _context_of(request: APIRequest) -> Numbered:
    assert isinstance(request.context, Numbered)
    return request.context


#: Stands for the request in a result that is delivered, with the answer as raw bytes only.
_ELSEWHERE = APIRequest.of_key("", "")


def with_request(result: Result, request: APIRequest) -> Result:
    """A delivered result, with its request and its parsed answer restored."""
    response = None if result.raw is None else loads_quickly(result.raw)
    return result._replace(request=request, response=response, usage=usage_of(response))


@dataclass(slots=True)
class TimelinePiece:
    """A piece of a worker's timeline, by the worker's clock, with which its run's need not agree."""

    sends: list[float] = field(default_factory=list)
    # When each was sent and came, the number of its request, its latency, and its usage.
    answers: list[tuple[float, float, int, float, Usage | None]] = field(default_factory=list)
    failures: list[tuple[float, int, Verdict]] = field(default_factory=list)  # when it came, and its HTTP status
    taken_at: float = field(default=0.0, compare=False)  # when the piece was taken

    def replay(self, timeline: Timeline, requests: Mapping[int, APIRequest], now: float) -> None:
        """Add the piece to a timeline whose clock shows `now`. `requests` are the requests by number."""
        later = now - self.taken_at
        for at in self.sends:
            timeline.sent(at + later)
        for sent_at, came_at, number, seconds, usage in self.answers:
            request = requests[number]
            model, size = model_of(request), request.size or NO_SIZE
            timeline.answered(sent_at + later, came_at + later, request, model, size, seconds, usage)
        for at, status, verdict in self.failures:
            timeline.failed(at + later, status, verdict)


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """A model's limits as a worker knows them, and the seconds spent waiting since the last delivery, by cause."""

    model: str | None
    limits: Limits
    waited: dict[str, float]


@dataclass(slots=True)
class Delivery:
    """What happened at a worker since the last delivery."""

    results: list[tuple[int, Result]]  # with the number of each request
    billed_in_vain: list[tuple[int, tuple[Attempt, ...]]]  # the attempts of requests still without a result
    recording: TimelinePiece
    counts: Counter[str]  # by how much the counters have grown
    in_flight: int
    waiting: int  # requests that wait to be sent again
    limits: list[ModelLimits]
    stop: tuple[str, str] | None  # the error that must stop the run: its class name and message
    ended: bool  # what is left of the budget is too small for the next request


class RemoteTimeline(Timeline):
    """Collects events for the timeline of the run's process, or drops them if `keeps` is False."""

    def __init__(self, *, keeps: bool = True) -> None:
        super().__init__()
        self._keeps = keeps
        self._piece = TimelinePiece()

    def begin(self, limiter: RunLimits, now: float) -> None:
        pass

    def end(self, now: float, *, max_concurrent_requests: int) -> None:
        pass

    def sent(self, at: float) -> None:
        if self._keeps:
            self._piece.sends.append(at)

    def answered(
        self,
        sent_at: float,
        now: float,
        request: APIRequest,
        model: str | None,
        size: Size,
        seconds: float,
        usage: Usage | None,
    ) -> None:
        if self._keeps:
            self._piece.answers.append((sent_at, now, _context_of(request).number, seconds, usage))

    def failed(self, now: float, status: int, verdict: Verdict) -> None:
        if self._keeps:
            self._piece.failures.append((now, status, verdict))

    def take(self, now: float) -> TimelinePiece:
        """The events since the last call."""
        piece, self._piece = self._piece, TimelinePiece()
        piece.taken_at = now
        return piece


def leased_client(sealed: SealedClient, account: AccountHandle) -> tuple[Client, LeasedLimiters]:
    """A client that sends in slots granted by the account's actor, and its limiters."""
    name = worker_name()

    async def ask(model: str | None, requests: int, tokens: float, report: Report) -> Grant:
        grant: Grant = await account.aask("lease", model, name, requests, tokens, report)
        return grant

    client = Client.of_account(sealed.open())
    client.limiter = limiters = LeasedLimiters(ask, account.limits, clock=time.monotonic)
    return client, limiters


@dataclass
class Worker:
    """The actor. One call, `exchange`, both feeds it requests and collects its results.

    Call `open` first. The key is passed there and not to the constructor, whose arguments the cluster stores.
    """

    account: AccountHandle
    _feed: Incoming = field(default_factory=Incoming)
    _results: list[tuple[int, Result]] = field(default_factory=list)
    _stop: tuple[str, str] | None = None
    _ended: bool = False

    async def open(
        self, sealed: SealedClient, share: Share | None, undelivered: Path, origin: Origin | None, known: int = 0
    ) -> str:
        """Start the worker, and return its name.

        Args:
            share: of the run's budget, if there is one.
            undelivered: the file that keeps answers until they are delivered, if this machine can see it.
            origin: the origin of these answers.
            known: how many of the run's answers exist already.
        """
        self._undelivered, self._origin = Undelivered(undelivered), origin
        self._client, self._limiters = leased_client(sealed, self.account)
        self._funds = None if share is None else self.account.borrowed(share)
        tier = None if share is None else share.tier
        self._budget = SpendingCaps(budget_usd=self._funds).budget(self._client.price, tier)
        self._timeline = RemoteTimeline()
        self._status = StatusTracker(timeline=self._timeline, num_tasks_to_restore=known)
        self._has_news = asyncio.Event()
        self._silence = asyncio.get_running_loop().call_later(SILENCE, self._limiters.close)
        self._running = asyncio.ensure_future(self._run())
        return worker_name()

    async def exchange(self, requests: list[APIRequest], patience: float) -> Delivery:
        """Take requests, and return a delivery as soon as there are results, or after `patience` seconds."""
        self._reset_silence()
        self._feed.put(requests)
        if patience and not self._results and self._stop is None and not self._ended:
            self._has_news.clear()
            try:
                await asyncio.wait_for(self._has_news.wait(), patience)
            except asyncio.TimeoutError:
                pass
            else:
                await asyncio.sleep(GATHER)
        return self._deliver()

    def _reset_silence(self) -> None:
        self._silence.cancel()
        self._silence = asyncio.get_running_loop().call_later(SILENCE, self._limiters.close)
        self._limiters.open()

    async def drain(self, seconds: float) -> Delivery:
        """Stop sending, wait up to `seconds` for requests in flight, and return the last delivery."""
        self._silence.cancel()
        self._limiters.close()
        try:
            await asyncio.wait_for(self._limiters.until_idle(), seconds)
        except asyncio.TimeoutError:
            pass
        if self._funds is not None:
            self._funds.give_back()
        return self._deliver()

    async def _run(self) -> None:
        try:
            await self._client.process(self._feed, on_result=self._take, status=self._status, budget=self._budget)
            self._ended = True
        except RunStoppedError as error:
            self._stop = (type(error).__name__, str(error))
        except Exception:  # a bug, which would otherwise look like a run that never ends
            self._stop = ("RuntimeError", f"A worker failed. {traceback.format_exc()}")
        self._has_news.set()

    def _take(self, result: Result) -> None:
        number, repair = _context_of(result.request)
        rows = result if repair is None else repair.as_the_rows(result)
        self._undelivered.add(result_line(rows, record=True, origin=self._origin))
        self._results.append((number, result._replace(request=_ELSEWHERE, response=None, usage=None)))
        self._has_news.set()

    def _deliver(self) -> Delivery:
        results, self._results = self._results, []
        self._undelivered.deliver()
        counts = Counter({name: getattr(self._status, name) for name in COUNTS})
        vars(self._status).update(dict.fromkeys(COUNTS, 0))  # what comes next is in the next delivery
        return Delivery(
            results,
            [(_context_of(request).number, tuple(sends)) for request, sends in self._status.billed_in_vain.items()],
            self._timeline.take(time.monotonic()),
            counts,
            self._status.num_tasks_in_progress,
            self._status.num_tasks_waiting,
            [self._limits_of(model, limiter) for model, limiter in self._limiters],
            self._stop,
            self._ended,
        )

    def _limits_of(self, model: str | None, limiter: Limiter) -> ModelLimits:
        waited = dict(limiter.waited)
        limiter.waited.update(dict.fromkeys(waited, 0.0))
        return ModelLimits(model, (per_minute(limiter.requests), per_minute(limiter.tokens)), waited)
