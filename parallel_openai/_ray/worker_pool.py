"""Sends a run's requests through many workers of a cluster, and collects their results in the run's process."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from parallel_openai._client.client import MAX_CONCURRENT_REQUESTS, Client
from parallel_openai._frames.repair import row_of
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
    cause_of,
    count_workers,
    error_of,
    find_ray,
    learn_limits,
    seal,
)
from parallel_openai._ray.shared_budget import Share
from parallel_openai._ray.worker import Delivery, Worker, numbered, with_request
from parallel_openai._records import APIRequest, Attempt, Result, Ruling
from parallel_openai._run.runner import End
from parallel_openai._run.spending.budget import Budget
from parallel_openai.errors import RunStoppedError

#: Requests that a worker holds beyond those that it can have in flight, and how many it is given at once.
STOCK = 64
REQUESTS_AT_ONCE = 64
#: Seconds after which a worker reports, even without results.
PATIENCE = 0.25
#: A worker that dies is replaced, until more than this many have died without a result in between.
MOST_DEATHS = 10
#: Seconds that a run without any worker left waits for the next one to start.
REPLACED_WITHIN = 30.0
#: Seconds for the last deliveries to reach the run, after the workers have stopped waiting for answers.
LAST_DELIVERY = 0.5


class WorkerPool:
    """Processes requests as a client does, but on the workers of a cluster.

    A worker that dies is replaced, and the requests that it had in flight are sent again.

    Args:
        client: the account.
        workers: how many; True for one per processor of the cluster, up to 8.
        journal: the run's journal. Each worker keeps its undelivered answers in a file beside it.
        origin: the origin of the answers.
    """

    def __init__(self, client: Client, workers: bool | int | None, journal: Path, origin: Origin | None) -> None:
        self._journal, self._origin = journal, origin
        self._ray = find_ray()
        self._client = client
        self._workers = count_workers(self._ray, workers, client)
        self._sealed = seal(client, self._workers)
        concurrency = self._sealed.open()["options"]["max_concurrent_requests"] or MAX_CONCURRENT_REQUESTS
        self._max_held = concurrency + STOCK
        cpus = self._ray.cluster_resources().get("CPU", 1.0)
        self._cpus = min(1.0, cpus / self._workers)  # workers mostly wait, so there may be more than processors
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
        """Process requests, as `Client.process` does.

        Raises:
            RunStoppedError: the server refuses every request.
        """
        share = await self._share_out(budget)
        run = _Run(iter(requests), on_result, status, self._client, share)
        status.timeline.begin(run.limits, time.monotonic())
        self._account.find()  # started by this process, so that the actor lives as long as this run
        serving = [asyncio.ensure_future(self._serve(run)) for _ in range(self._workers)]
        for each in serving:
            each.add_done_callback(run.look_at)
        try:
            await asyncio.wait([run.end], timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
            in_time = run.end.done()
            await run.drain()
            ending = run.ending()
            return ending if in_time else "deadline"
        except asyncio.CancelledError:
            if not run.end.done():
                await run.drain()
            raise
        finally:
            run.end.cancel()
            for each in serving:
                each.cancel()
            await asyncio.wait(serving)
            if budget is not None and share is not None:
                await self._settle(budget, share)
            status.timeline.end(time.monotonic(), max_concurrent_requests=self._max_held * self._workers)
            status.num_tasks_in_progress = status.num_tasks_waiting = 0

    async def _share_out(self, budget: Budget | None) -> Share | None:
        """Hand the budget to the account's actor, which lends it to the workers."""
        if budget is None:
            return None
        share = Share(uuid.uuid4().hex, budget.funds.left, budget.tier)
        await self._account.aask("open_budget", share.run, share.limits, self._workers)
        return share

    async def _settle(self, budget: Budget, share: Share) -> None:
        """Count as spent what was not given back."""
        left = await self._account.aask("budget_left", share.run)
        spent = [had - has if had < math.inf else 0.0 for had, has in zip(share.limits, left, strict=True)]
        budget.funds.spent_tokens += spent[0]
        budget.funds.spent_usd += spent[1]
        await self._account.aask("end", share.run)

    async def _serve(self, run: _Run) -> None:
        """Feed one worker, and its replacements, until nothing is left to do."""
        from ray.exceptions import RayActorError

        this_task = asyncio.current_task()
        assert this_task is not None
        actor = self._ray.remote(num_cpus=self._cpus, max_restarts=0)(Worker)
        while True:
            worker = actor.remote(self._account)
            mine: dict[int, APIRequest] = {}
            undelivered = new_undelivered(self._journal)
            try:
                opening = worker.open.remote(self._sealed, run.share, undelivered, self._origin, run.known)
                await run.wait_for(opening)
                run.working.add(this_task)
                await self._feed(worker, run, mine, this_task)
                undelivered.unlink(missing_ok=True)
                return
            except RayActorError as error:
                run.receive_left(undelivered, mine)
                undelivered.unlink(missing_ok=True)
                run.give_back(mine, error)
            finally:
                run.working.discard(this_task)
                run.forget(mine)
                self._ray.kill(worker)
                remove_if_empty(undelivered)

    async def _feed(self, worker: Any, run: _Run, mine: dict[int, APIRequest], this_task: asyncio.Task[None]) -> None:
        while not run.end.done():
            room = self._max_held - len(mine)
            requests = await run.take(min(room, REQUESTS_AT_ONCE), mine)
            if not mine:
                await run.wait_for_news()
                continue
            more = len(requests) == REQUESTS_AT_ONCE and room > REQUESTS_AT_ONCE
            delivery = await worker.exchange.remote(requests, 0.0 if more else PATIENCE)
            run.receive(delivery, mine)
            if delivery.ended:
                run.leave_to_others(mine, this_task)
                return
        if mine or run.share is not None:  # the call also makes it give back its part of the budget
            run.receive(await worker.drain.remote(run.left_to_drain()), mine)
        await asyncio.sleep(0)  # lets the journal write


class _Run:
    """The state that all workers of a run share."""

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
        self._to_send_again: deque[APIRequest] = deque()
        self._on_result = on_result
        self._status = status
        self.limits = InUse(client.limiter)
        self._limiters = client.limiter
        self._last_number = 0
        self._with_workers = 0  # requests that workers have
        self._deaths = 0  # since the last result
        self._given_up: dict[APIRequest, Sequence[Attempt]] = {}  # what was billed at workers that had to leave them
        self._gauges: dict[int, tuple[int, int]] = {}
        self._has_news = asyncio.Event()
        self._drained_at = math.inf

    @property
    def known(self) -> int:
        """How many answers there are."""
        return self._status.num_tasks_succeeded + self._status.num_tasks_to_restore

    async def take(self, count: int, mine: dict[int, APIRequest]) -> list[APIRequest]:
        """Up to `count` further requests, which are also entered in `mine`."""
        requests: list[APIRequest] = []
        while len(requests) < count and not self.end.done():
            if self._to_send_again:
                request: APIRequest | None = self._to_send_again.popleft()
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
            self._last_number += 1
            self._with_workers += 1
            mine[self._last_number] = request
            requests.append(numbered(self._last_number, request))
        self._finish_if_done()
        return requests

    async def wait_for_news(self) -> None:
        """Wait until there are requests to send again, or the run ends."""
        self._has_news.clear()
        await self._has_news.wait()

    async def wait_for(self, opening: Any, within: float = REPLACED_WITHIN) -> None:
        """Wait until a worker has started; as long as none has died, without limit, as the cluster may be busy.

        Raises:
            RunStoppedError: the cluster has lost its last worker and started no other in time.
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
        finally:  # if the run is stopped meanwhile, nobody retrieves this future's error
            up.cancel()

    def receive(self, delivery: Delivery, mine: dict[int, APIRequest]) -> None:
        """Take in a worker's delivery."""
        now, status = time.monotonic(), self._status
        delivery.recording.replay(status.timeline, mine, now)
        for name, count in delivery.counts.items():
            setattr(status, name, getattr(status, name) + count)
        if delivery.counts["num_rate_limit_errors"]:
            status.time_of_last_rate_limit_error = time.time()
        self._gauges[id(mine)] = (delivery.in_flight, delivery.waiting)
        self._show_gauges()
        self._learn(delivery, now)
        for number, attempts in delivery.billed_in_vain:
            request = mine[number]
            status.billed_in_vain[request] = (*self._given_up.get(request, ()), *attempts)
        for number, result in delivery.results:
            self._finish(with_request(result, mine.pop(number)))
        if delivery.stop is not None and self.stopped is None:
            self.stopped = delivery.stop
            self._finish_run()
        self._finish_if_done()

    def receive_left(self, path: Path, mine: dict[int, APIRequest]) -> None:
        """Take in the answers that a dead worker had not delivered."""
        numbers = {row_of(request).key: number for number, request in mine.items()}
        for line in undelivered_lines(path):
            entry = JournalEntry.read(line)
            number = numbers.pop(entry.key or "", None) if entry is not None else None
            if entry is not None and number is not None:
                result = entry.result(mine.pop(number))
                raw = None if result.response is None else dumps(result.response)
                self._finish(result._replace(restored=False, raw=raw, earlier=(), sent=None))

    def give_back(self, mine: dict[int, APIRequest], error: Exception) -> None:
        """Leave a dead worker's requests to the others."""
        self._deaths += 1
        if self._deaths > MOST_DEATHS:
            raise RunStoppedError(
                f"{self._deaths} workers died one after the other without an answer: {cause_of(error).rstrip('.')}. "
                "What was finished is kept, and the same call goes on from there."
            ) from None
        self._take_back(mine)

    def leave_to_others(self, mine: dict[int, APIRequest], this_task: asyncio.Task[None]) -> None:
        """Leave a worker's requests to others, as its part of the budget is too small for them."""
        self._take_back(mine)
        self.working.discard(this_task)
        if not self.working:
            self._ending = "budget"
            self._finish_run()

    def _take_back(self, mine: dict[int, APIRequest]) -> None:
        billed = self._status.billed_in_vain
        self._given_up.update({request: billed[request] for request in mine.values() if request in billed})
        self._with_workers -= len(mine)
        self._to_send_again.extend(mine.values())
        mine.clear()
        self._has_news.set()

    def forget(self, mine: dict[int, APIRequest]) -> None:
        """Remove a worker that has ended from the gauges."""
        self._gauges.pop(id(mine), None)
        self._show_gauges()

    def look_at(self, serving: asyncio.Task[None]) -> None:
        """End the run if serving a worker failed."""
        if not serving.cancelled() and (error := serving.exception()) is not None and not self.end.done():
            self.end.set_exception(error)
            self._has_news.set()

    def ending(self) -> End:
        """How the run ended.

        Raises:
            RunStoppedError: the server refuses every request.
        """
        if self.stopped is not None:
            raise error_of(self.stopped)
        self.end.result()
        return self._ending

    async def drain(self) -> None:
        """Make the workers stop sending, and take in the answers to requests in flight."""
        self._finish_run()
        if self.working:
            await asyncio.wait(self.working, timeout=self.left_to_drain() + LAST_DELIVERY)

    def left_to_drain(self) -> float:
        """Seconds left for requests in flight at the end. The deadline is the same for all workers, however late each
        of them learns of the end, since later deliveries are not waited for."""
        now = time.monotonic()
        self._drained_at = min(self._drained_at, now + DRAIN_SECONDS)
        return max(0.0, self._drained_at - now)

    def _finish(self, result: Result) -> None:
        self._with_workers -= 1
        self._deaths = 0
        self._status.billed_in_vain.pop(result.request, None)
        result = result._replace(attempts=(*self._given_up.pop(result.request, ()), *result.attempts))
        further = self._status.count(result, self._on_result(result))
        if further is not None:
            self._to_send_again.append(further)
            self._has_news.set()

    def _learn(self, delivery: Delivery, now: float) -> None:
        for known in delivery.limits:
            self.limits.of(known.model)  # marks the model as used by this run
            limiter = self._limiters.of(known.model)
            learn_limits(limiter, known.limits, now)
            for cause, seconds in known.waited.items():  # divided, since the workers wait at the same time
                limiter.waited[cause] += seconds / max(1, len(self.working))

    def _show_gauges(self) -> None:
        self._status.num_tasks_in_progress = sum(in_flight for in_flight, _ in self._gauges.values())
        self._status.num_tasks_waiting = sum(waiting for _, waiting in self._gauges.values())

    def _finish_if_done(self) -> None:
        if self._exhausted and not self._to_send_again and not self._with_workers:
            self._finish_run()

    def _finish_run(self) -> None:
        if not self.end.done():
            self.end.set_result(None)
        self._has_news.set()
