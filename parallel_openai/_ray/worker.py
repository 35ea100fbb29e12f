"""A process of the cluster that sends requests, within its slots of the account's limit."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
from parallel_openai._records import APIRequest, Response, Result, Size, Usage, Verdict
from parallel_openai._requests.endpoints import usage_of
from parallel_openai._run.incoming import Incoming
from parallel_openai._run.spending.caps import SpendingCaps
from parallel_openai.errors import RunStoppedError

#: A worker that hears nothing of its run for so many seconds sends nothing more until it does: where the run's process
#: has died, all that it gets from then on would be paid for and lost.
SILENCE = 0.75
#: Seconds in which results gather before they travel together.
GATHER = 0.02
#: What is counted here and not by who receives the results.
COUNTS = (
    "num_requests_sent",
    "num_retries",
    "num_rate_limit_errors",
    "num_api_errors",
    "num_other_errors",
    "prompt_tokens",
    "completion_tokens",
    "cost_usd",
)


class Numbered(NamedTuple):
    """What a worker needs of a request's context."""

    number: int  # to know it by
    repair: Repair | None  # what it is for, if it stands in the place of another


def numbered(number: int, request: APIRequest) -> APIRequest:
    """A request as it travels: what is sent, and a number to know it by."""
    lean = APIRequest.of_key(request.key, request.path, request.sample)
    for name in ("body", "model", "tier", "size"):  # whoever needs the JSON reads it back from the bytes
        setattr(lean, name, getattr(request, name))
    lean.metadata = request.metadata
    lean.context = Numbered(number, request.context if isinstance(request.context, Repair) else None)
    return lean


#: The request of a result that travels: whoever receives it has the request.
_ELSEWHERE = APIRequest.of_key("", "")


def without_request(result: Result) -> Result:
    """A result as it travels: without its request, and the answer as the bytes that came."""
    return result._replace(request=_ELSEWHERE, response=None, usage=None)


def with_request(result: Result, request: APIRequest) -> Result:
    """The result that travelled, with its request and all that its bytes say."""
    response = None if result.raw is None else loads_quickly(result.raw)
    return result._replace(request=request, response=response, usage=usage_of(response))


@dataclass(frozen=True, slots=True)
class Answered:
    """A send that brought a good answer; moments are seconds ago."""

    number: int
    sent: float
    came: float
    seconds: float
    usage: Usage | None


@dataclass(frozen=True, slots=True)
class Failed:
    """A send that brought something else, so many seconds ago."""

    came: float
    status: int
    seconds: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class TimelinePiece:
    """A piece of a worker's timeline. `sends` are seconds ago, since the machines' clocks need not agree."""

    sends: list[float]
    answers: list[Answered]
    failures: list[Failed]

    def replay(self, timeline: Timeline, requests: Mapping[int, APIRequest], now: float) -> None:
        """Write it into a timeline whose clock shows `now`; the requests are those that the numbers stand for."""
        for ago in self.sends:
            timeline.sent(now - ago)
        for each in self.answers:
            request = requests[each.number]
            model, size = model_of(request), request.size or NO_SIZE
            timeline.answered(now - each.sent, now - each.came, request, model, size, each.seconds, each.usage)
        for one in self.failures:
            response = Response(one.status, {}, b"", None, one.seconds)
            timeline.failed(now - one.came, response, one.verdict)


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """A model's limits as a worker knows them, and seconds that the next request to it had to wait, by cause."""

    model: str | None
    limits: Limits
    waited: Counter[str]


@dataclass(slots=True)
class Delivery:
    """What happened at a worker since the last one."""

    results: list[tuple[int, Result]]  # what came to its end, with the request's number
    recording: TimelinePiece  # what was sent, and what came of it
    counts: Counter[str]  # how much the counters have grown
    # Requests on the wire, and those that wait to be sent again.
    in_flight: int
    waiting: int
    limits: list[ModelLimits]  # of each model
    stop: tuple[str, str] | None  # why the run must end: the error's name and sentence
    ended: bool  # what is left of the budget is too small for the next request


class RemoteTimeline(Timeline):
    """Keeps what happened for somebody else's timeline; or nothing, where nobody asks for it."""

    def __init__(self, *, keeps: bool = True) -> None:
        super().__init__()
        self._keeps = keeps
        self.sends: list[float] = []
        self.answers: list[Answered] = []
        self.failures: list[Failed] = []

    def begin(self, limiter: RunLimits, now: float) -> None:
        pass

    def end(self, now: float, *, max_concurrent_requests: int) -> None:
        pass

    def sent(self, at: float) -> None:
        if self._keeps:
            self.sends.append(at)

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
            assert isinstance(request.context, Numbered)
            self.answers.append(Answered(request.context.number, sent_at, now, seconds, usage))

    def failed(self, now: float, response: Response, verdict: Verdict) -> None:
        if self._keeps:
            self.failures.append(Failed(now, response.status, response.seconds, verdict))

    def take(self, now: float) -> TimelinePiece:
        """What happened since the last time."""
        sends = [now - at for at in self.sends]
        answers = [replace(each, sent=now - each.sent, came=now - each.came) for each in self.answers]
        failures = [replace(each, came=now - each.came) for each in self.failures]
        self.sends, self.answers, self.failures = [], [], []
        return TimelinePiece(sends, answers, failures)


def leased_client(sealed: SealedClient, account: AccountHandle) -> tuple[Client, LeasedLimiters]:
    """A client that sends when the account's actor says."""
    name = worker_name()

    async def ask(model: str | None, requests: int, tokens: float, report: Report) -> Grant:
        grant: Grant = await account.aask("lease", model, name, requests, tokens, report)
        return grant

    client = Client.of_account(sealed.open())
    client.limiter = limiters = LeasedLimiters(ask, account.limits, clock=time.monotonic)
    return client, limiters


@dataclass
class Worker:
    """The actor. It is fed with requests and asked for results, in one call for both.

    `open` must come first: the key travels in a call, and not with what makes the actor, which the cluster keeps.
    """

    account: AccountHandle
    _feed: Incoming = field(default_factory=Incoming)
    _results: list[tuple[int, Result]] = field(default_factory=list)
    _stop: tuple[str, str] | None = None
    _ended: bool = False

    async def open(
        self, sealed: SealedClient, share: Share | None, undelivered: Path, origin: Origin | None, known: int = 0
    ) -> str:
        """Begin, within a share of the budget if there is one, and give this worker's name.

        Args:
            undelivered: where answers are kept until they are delivered, if this machine sees it.
            origin: of these answers.
            known: how many answers of the run are there already.
        """
        self._undelivered, self._origin = Undelivered(undelivered), origin
        self._client, self._limiters = leased_client(sealed, self.account)
        self._funds = None if share is None else self.account.borrowed(share)
        tier = None if share is None else share.tier
        self._budget = SpendingCaps(budget_usd=self._funds).budget(self._client.base_url, tier)
        self._timeline = RemoteTimeline()
        self._status = StatusTracker(timeline=self._timeline, num_tasks_to_restore=known)
        self._told: Counter[str] = Counter()
        self._told_waited: dict[str | None, Counter[str]] = {}
        self._news = asyncio.Event()
        self._silence = asyncio.get_running_loop().call_later(SILENCE, self._limiters.close)
        self._running = asyncio.ensure_future(self._run())
        return worker_name()

    async def exchange(self, requests: list[APIRequest], patience: float) -> Delivery:
        """Take requests, and give what has happened as soon as there are results, or after so many seconds."""
        self._listen()
        self._feed.put(requests)
        if patience and not self._results and self._stop is None and not self._ended:
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), patience)
            except asyncio.TimeoutError:
                pass
            else:
                await asyncio.sleep(GATHER)
        return self._deliver()

    def _listen(self) -> None:
        self._silence.cancel()
        self._silence = asyncio.get_running_loop().call_later(SILENCE, self._limiters.close)
        self._limiters.open()

    async def come_home(self, seconds: float) -> Delivery:
        """Send nothing more, wait for what is on its way, at the most so many seconds, and give what came."""
        self._silence.cancel()
        self._limiters.close()
        try:
            await asyncio.wait_for(self._limiters.all_back(), seconds)
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
        except Exception:  # a bug, which must not look like a run that takes long
            self._stop = ("RuntimeError", f"A worker failed. {traceback.format_exc()}")
        self._news.set()

    def _take(self, result: Result) -> None:
        assert isinstance(result.request.context, Numbered)
        number, repair = result.request.context
        rows = result if repair is None else repair.as_the_rows(result)
        self._undelivered.add(result_line(rows, record=True, origin=self._origin))
        self._results.append((number, without_request(result)))
        self._news.set()

    def _deliver(self) -> Delivery:
        results, self._results = self._results, []
        self._undelivered.deliver()
        counts = Counter({name: getattr(self._status, name) for name in COUNTS})
        delivery = Delivery(
            results,
            self._timeline.take(time.monotonic()),
            _grown(counts, self._told),
            self._status.num_tasks_in_progress,
            self._status.num_tasks_waiting,
            [self._limits_of(model, limiter) for model, limiter in self._limiters],
            self._stop,
            self._ended,
        )
        self._told = counts
        return delivery

    def _limits_of(self, model: str | None, limiter: Limiter) -> ModelLimits:
        waited = Counter(limiter.waited)
        before, self._told_waited[model] = self._told_waited.get(model, Counter()), waited
        return ModelLimits(model, (per_minute(limiter.requests), per_minute(limiter.tokens)), _grown(waited, before))


def _grown(now: Counter[str], before: Counter[str]) -> Counter[str]:
    return Counter({name: count - before[name] for name, count in now.items()})
