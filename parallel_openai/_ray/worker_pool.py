"""A run's requests, sent by many workers of a cluster; their results come together here, where the run is."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from parallel_openai._client.client import MAX_CONCURRENT_REQUESTS, Client
from parallel_openai._frames.repair import Repair
from parallel_openai._journal.entry import JournalEntry
from parallel_openai._journal.origins import Origin
from parallel_openai._journal.undelivered import new_undelivered, remove_if_empty, undelivered_lines
from parallel_openai._json import dumps
from parallel_openai._limits.model_limiters import InUse
from parallel_openai._loop.background import DRAIN_SECONDS
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._ray.cluster import (
    AccountHandle,
    account_name,
    count_workers,
    error_of,
    find_ray,
    learn_limits,
    seal,
)
from parallel_openai._ray.shared_budget import Share
from parallel_openai._ray.worker import Delivery, Worker, numbered, with_request
from parallel_openai._records import APIRequest, Result, Ruling
from parallel_openai._run.runner import End
from parallel_openai._run.spending.budget import Budget
from parallel_openai.errors import RunStoppedError

#: Requests that a worker has beyond those that it can have on the wire, and how many it is given at once.
STOCK = 64
REQUESTS_AT_ONCE = 64
#: Seconds after which a worker tells how it stands, also when nothing has come to its end.
PATIENCE = 0.25
#: A worker that dies is replaced; so many deaths without a result between them are too many.
MOST_DEATHS = 10
#: Seconds that a run whose workers have all died waits for the next one to be up.
REPLACED_WITHIN = 30.0
#: Seconds beyond the workers' own wait in which what came to them at last reaches the run.
LAST_DELIVERY = 0.5


class WorkerPool:
    """Does for a run what a client does, on the workers of a cluster.

    A worker that dies, however it dies, is replaced, and what was on the wire is sent again.

    Args:
        client: the account.
        workers: how many; True for a fitting number.
        journal: beside which each worker keeps what it has not delivered.
        origin: of the answers.
    """

    def __init__(self, client: Client, workers: bool | int | None, journal: Path, origin: Origin | None) -> None:
        self._journal, self._origin = journal, origin
        self._ray = find_ray()
        self._client = client
        self._workers = count_workers(self._ray, workers, client)
        self._sealed = seal(client, self._workers)
        concurrency = self._sealed.open()["options"]["max_concurrent_requests"] or MAX_CONCURRENT_REQUESTS
        self._room = concurrency + STOCK
        cpus = self._ray.cluster_resources().get("CPU", 1.0)
        self._cpus = min(1.0, cpus / self._workers)  # more workers than processors are welcome: they mostly wait
        self._account = AccountHandle(account_name(client), client.limiter.given)

    async def process(
        self,
        requests: Iterable[APIRequest | None],
        *,
        on_result: Callable[[Result], Ruling | None],
        status: StatusTracker,
        budget: Budget | None = None,
        deadline: float | None = None,
    ) -> End:
        """Bring requests to their results, as `Client.process` does.

        Raises:
            RunStoppedError: the server refuses every request.
        """
        share = await self._share_out(budget)
        run = _Run(iter(requests), on_result, status, self._client, share)
        status.timeline.begin(run.limits, time.monotonic())
        self._account.find()  # begun here, so that it lives as long as this run
        serving = [asyncio.ensure_future(self._serve(run)) for _ in range(self._workers)]
        for each in serving:
            each.add_done_callback(run.look_at)
        try:
            await asyncio.wait([run.end], timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
            in_time = run.end.done()
            await run.come_home()
            ending = run.ending()
            return ending if in_time else "deadline"
        except asyncio.CancelledError:
            if not run.end.done():
                await run.come_home()
            raise
        finally:
            run.end.cancel()
            for each in serving:
                each.cancel()
            await asyncio.wait(serving)
            if budget is not None and share is not None:
                await self._settle(budget, share)
            status.timeline.end(time.monotonic(), max_concurrent_requests=self._room * self._workers)
            status.num_tasks_in_progress = status.num_tasks_waiting = 0

    async def _share_out(self, budget: Budget | None) -> Share | None:
        """Have the account's actor lend the budget to the workers."""
        if budget is None:
            return None
        share = Share(uuid.uuid4().hex, budget.funds.left, budget.tier)
        await self._account.aask("open_budget", share.run, share.limits, self._workers)
        return share

    async def _settle(self, budget: Budget, share: Share) -> None:
        """What is not given back counts as spent."""
        left = await self._account.aask("budget_left", share.run)
        spent = [had - has if had < math.inf else 0.0 for had, has in zip(share.limits, left, strict=True)]
        budget.funds.spent_tokens += spent[0]
        budget.funds.spent_usd += spent[1]
        await self._account.aask("end", share.run)

    async def _serve(self, run: _Run) -> None:
        """Feed one worker, and its successors, until nothing is left to do."""
        from ray.exceptions import RayActorError

        me = asyncio.current_task()
        assert me is not None
        actor = self._ray.remote(num_cpus=self._cpus, max_restarts=0)(Worker)
        while True:
            worker = actor.remote(self._account)
            mine: dict[int, APIRequest] = {}
            undelivered = new_undelivered(self._journal)
            try:
                opening = worker.open.remote(self._sealed, run.share, undelivered, self._origin, run.known)
                await run.wait_for(opening)
                run.working.add(me)
                await self._feed(worker, run, mine, me)
                undelivered.unlink(missing_ok=True)
                return
            except RayActorError as error:
                run.receive_left(undelivered, mine)
                undelivered.unlink(missing_ok=True)
                run.give_back(mine, error)
            finally:
                run.working.discard(me)
                run.forget(mine)
                self._ray.kill(worker)
                remove_if_empty(undelivered)

    async def _feed(self, worker: Any, run: _Run, mine: dict[int, APIRequest], me: asyncio.Task[None]) -> None:
        while not run.end.done():
            room = self._room - len(mine)
            requests = await run.take(min(room, REQUESTS_AT_ONCE), mine)
            if not mine:
                await run.wait_for_news()
                continue
            more = len(requests) == REQUESTS_AT_ONCE and room > REQUESTS_AT_ONCE
            delivery = await worker.exchange.remote(requests, 0.0 if more else PATIENCE)
            run.receive(delivery, mine)
            if delivery.ended:
                run.leave_to_others(mine, me)
                return
        if mine or run.share is not None:  # what was lent to it is given back
            run.receive(await worker.come_home.remote(run.left_to_drain()), mine)
        await asyncio.sleep(0)  # in which the journal writes


class _Run:
    """What all workers of a run have in common."""

    def __init__(
        self,
        requests: Iterator[APIRequest | None],
        on_result: Callable[[Result], Ruling | None],
        status: StatusTracker,
        client: Client,
        share: Share | None,
    ) -> None:
        self.share = share
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.stopped: tuple[str, str] | None = None
        self.working: set[asyncio.Task[None]] = set()
        self._requests = requests
        self._exhausted = False
        self._ending: End = "finished"
        self._again: deque[APIRequest] = deque()
        self._on_result = on_result
        self._status = status
        self.limits = InUse(client.limiter)
        self._limiters = client.limiter
        self._numbers = 0
        self._open = 0  # requests that workers have
        self._deaths = 0  # since the last result
        self._gauges: dict[int, tuple[int, int]] = {}
        self._news = asyncio.Event()
        self._drained_at = math.inf

    @property
    def known(self) -> int:
        """How many good answers there are."""
        return self._status.num_tasks_succeeded + self._status.num_tasks_to_restore

    async def take(self, count: int, mine: dict[int, APIRequest]) -> list[APIRequest]:
        """The next requests, as many as there are up to that count; they are noted in `mine`."""
        requests: list[APIRequest] = []
        while len(requests) < count and not self.end.done():
            if self._again:
                request: APIRequest | None = self._again.popleft()
            else:
                try:
                    request = next(self._requests)
                except StopIteration:
                    self._exhausted = True
                    break
                if request is None:
                    await asyncio.sleep(0)
                    continue
                self._status.num_tasks_started += 1
            assert request is not None
            self._numbers += 1
            self._open += 1
            mine[self._numbers] = request
            requests.append(numbered(self._numbers, request))
        self._look_around()
        return requests

    async def wait_for_news(self) -> None:
        """Until a worker that has nothing gets something: what another one could not finish, or the end."""
        self._news.clear()
        await self._news.wait()

    async def wait_for(self, opening: Any, within: float = REPLACED_WITHIN) -> None:
        """Until a worker is up; for the first ones without end, since the cluster may be busy with others.

        Raises:
            RunStoppedError: the cluster lost its last worker, and it seems that there will be no other.
        """
        up = asyncio.wrap_future(opening.future())
        try:
            while not (await asyncio.wait([up], timeout=within if self._deaths else None))[0]:
                if not self.working:
                    raise RunStoppedError(
                        f"The cluster has lost its last worker, and has started no other within {within:.0f} s. "
                        "What was finished is kept: run the same again as soon as the cluster has machines."
                    )
            await up
        finally:  # also where the run is stopped meanwhile, and nobody will ask for its error
            up.cancel()

    def receive(self, delivery: Delivery, mine: dict[int, APIRequest]) -> None:
        """Book what a worker delivers."""
        now, status = time.monotonic(), self._status
        delivery.recording.replay(status.timeline, mine, now)
        for name, count in delivery.counts.items():
            setattr(status, name, getattr(status, name) + count)
        if delivery.counts["num_rate_limit_errors"]:
            status.time_of_last_rate_limit_error = time.time()
        self._gauges[id(mine)] = (delivery.in_flight, delivery.waiting)
        self._show_gauges()
        self._learn(delivery, now)
        for number, result in delivery.results:
            self._finish(with_request(result, mine.pop(number)))
        if delivery.stop is not None and self.stopped is None:
            self.stopped = delivery.stop
            self._finish_run()
        self._look_around()

    def receive_left(self, path: Path, mine: dict[int, APIRequest]) -> None:
        """Book what a worker that has died did not deliver any more."""
        numbers = {_row_of(request).key: number for number, request in mine.items()}
        for line in undelivered_lines(path):
            entry = JournalEntry.read(line)
            number = numbers.pop(entry.key or "", None) if entry is not None else None
            if entry is not None and number is not None:
                result = entry.result(mine.pop(number))
                raw = None if result.response is None else dumps(result.response)
                self._finish(result._replace(restored=False, raw=raw, earlier=(), sent=None))

    def give_back(self, mine: dict[int, APIRequest], error: Exception) -> None:
        """A worker has died; what it had is for the others."""
        self._deaths += 1
        if self._deaths > MOST_DEATHS:
            raise RuntimeError(f"{self._deaths} workers died one after the other without an answer: {error}") from None
        self._take_back(mine)

    def leave_to_others(self, mine: dict[int, APIRequest], me: asyncio.Task[None]) -> None:
        """A worker's part of the budget is too small for what it has; another's may be large enough."""
        self._take_back(mine)
        self.working.discard(me)
        if not self.working:
            self._ending = "budget"
            self._finish_run()

    def _take_back(self, mine: dict[int, APIRequest]) -> None:
        self._open -= len(mine)
        self._again.extend(mine.values())
        mine.clear()
        self._news.set()

    def forget(self, mine: dict[int, APIRequest]) -> None:
        """Count a worker that is no more out of what is in flight."""
        self._gauges.pop(id(mine), None)
        self._show_gauges()

    def look_at(self, serving: asyncio.Task[None]) -> None:
        """An end that was not meant ends the run."""
        if not serving.cancelled() and (error := serving.exception()) is not None and not self.end.done():
            self.end.set_exception(error)
            self._news.set()

    def ending(self) -> End:
        """How the run ended.

        Raises:
            RunStoppedError: the server refuses every request.
        """
        if self.stopped is not None:
            raise error_of(self.stopped)
        self.end.result()
        return self._ending

    async def come_home(self) -> None:
        """Have the workers send nothing more, and take in what is on its way to them."""
        self._finish_run()
        if self.working:
            await asyncio.wait(self.working, timeout=self.left_to_drain() + LAST_DELIVERY)

    def left_to_drain(self) -> float:
        """Seconds that what is on its way at the end has from now on: until one moment for all workers, however late
        each of them hears of the end, since what comes home later is not waited for."""
        now = time.monotonic()
        self._drained_at = min(self._drained_at, now + DRAIN_SECONDS)
        return max(0.0, self._drained_at - now)

    def _finish(self, result: Result) -> None:
        self._open -= 1
        self._deaths = 0
        further = self._status.count(result, self._on_result(result))
        if further is not None:
            self._again.append(further)
            self._news.set()

    def _learn(self, delivery: Delivery, now: float) -> None:
        for told in delivery.limits:
            self.limits.of(told.model)  # this run asks it
            limiter = self._limiters.of(told.model)
            learn_limits(limiter, told.limits, now)
            for cause, seconds in told.waited.items():  # the workers wait at the same time
                limiter.waited[cause] += seconds / max(1, len(self.working))

    def _show_gauges(self) -> None:
        self._status.num_tasks_in_progress = sum(in_flight for in_flight, _ in self._gauges.values())
        self._status.num_tasks_waiting = sum(waiting for _, waiting in self._gauges.values())

    def _look_around(self) -> None:
        if self._exhausted and not self._again and not self._open:
            self._finish_run()

    def _finish_run(self) -> None:
        if not self.end.done():
            self.end.set_result(None)
        self._news.set()


def _row_of(request: APIRequest) -> APIRequest:
    """The request under whose key the journal keeps the answer."""
    return request.context.original if isinstance(request.context, Repair) else request
