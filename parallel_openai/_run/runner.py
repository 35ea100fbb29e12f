"""The runner takes every request to its result: it waits for capacity, sends, judges, and hands over or sends again.

It knows nothing of HTTP, pandas or tqdm, and is handed what it needs.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal

from parallel_openai._limits.admission import Admissions
from parallel_openai._limits.model_limiters import InUse
from parallel_openai._limits.sizes import Sizes
from parallel_openai._loop.background import DRAIN_SECONDS
from parallel_openai._loop.interrupts import sending_stopped
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._records import DONE, APIRequest, Attempt, Response, Result, Ruling, Usage, Verdict
from parallel_openai._requests.endpoints import bill_of, usage_of
from parallel_openai._run.equal_refusals import EqualRefusals
from parallel_openai._run.failed_sends import FailedSends
from parallel_openai._run.incoming import Incoming
from parallel_openai._run.job import Job
from parallel_openai._run.job_queue import PERIODS, JobQueue
from parallel_openai._run.outages import Outages
from parallel_openai._run.response_verdict import RetryPolicy, judge
from parallel_openai._run.spending.budget import Budget, PriceOf, cost_of
from parallel_openai.errors import RateLimitedError, RunStoppedError

#: How a run ended: every request has a result, the budget or the time is used up, or all is in the Batch API.
End = Literal["finished", "budget", "deadline", "submitted"]
#: The shortest wait, in seconds. Otherwise a wait that is short by a rounding error would be repeated again and again.
SHORTEST_WAIT = 0.001


class Runner:
    """Processes requests concurrently, each to a result.

    One worker at a time dispatches: it takes the next request and waits for capacity. When it goes on to send, another
    takes over, a new one if all are busy. So there are never more workers than the limits can use, requests are sent in
    order, and there is no task per request. If there is nothing to wait for, the usual case, a worker dispatches
    without switching tasks. In a run with several models, one worker per model waits for capacity while others
    dispatch, and the order holds within each model.
    """

    def __init__(
        self,
        *,
        # Sends one request, with its lease from the limiter, and returns the answer.
        send: Callable[[APIRequest, Any], Awaitable[Response]],
        limiter: Admissions,
        # Called once for each finished request, in the order in which they finish. Its ruling says how the result
        # counts and what to send instead. An exception that it raises stops the run.
        on_result: Callable[[Result], Ruling | None],
        retry: RetryPolicy | None = None,
        status: StatusTracker | None = None,
        max_concurrent_requests: int = 500,
        budget: Budget | None = None,
        # The price of answers that fail and are billed all the same; None if unknown.
        price: PriceOf | None = None,
        deadline: float | None = None,  # when to stop, on the clock
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._limits = InUse(limiter)
        self._on_result = on_result
        self._status = status or StatusTracker()
        self._max_workers = max_concurrent_requests
        self._budget = budget
        self._price = price
        self._deadline = deadline
        self._ending: End = "finished"
        self._clock = clock
        retry = retry or RetryPolicy()
        self._max_wait = retry.max_wait
        self._failures = FailedSends(retry, self._status, clock)
        self._sizes = Sizes()
        self._first: Job | None = None  # taken from the source, and to be sent next
        self._queue = JobQueue(self._limits, self._status, clock, max_concurrent_requests, self._hand_over)
        self._busy = 0
        self._dispatching = 0
        self._reached = False
        self._outages = Outages(retry, clock())
        self._equal_refusals = EqualRefusals()
        self._in_line: set[asyncio.Task[Any]] = set()  # the workers that dispatch or wait to do so
        self._workers: set[asyncio.Task[None]] = set()
        self._stopped = self._draining = False

    async def run(self, requests: Iterable[APIRequest | None]) -> End:
        """Process requests until each has a result, and return how the run ended.

        If it ends early, by budget, deadline or an error, unfinished requests get no result.

        Args:
            requests: a None among them gives way to other tasks. An `Incoming` is always waited for.

        Raises:
            RunStoppedError: the server refuses every request.
        """
        self._queue.begin(requests)
        self._dispatch_lock = asyncio.Lock()
        self._news = asyncio.Event()
        if isinstance(requests, Incoming):
            requests.on_news(self._news.set)
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._status.timeline.begin(self._limits, self._clock())
        previous = sending_stopped.set(lambda: self._stopped)
        self._start_worker()
        sending_stopped.reset(previous)  # the workers have inherited it
        try:
            await self._wait_for_end()
            await self._drain()
        except (Exception, asyncio.CancelledError, KeyboardInterrupt, SystemExit) as stop:
            if not self._draining:  # else it is the caller's second interrupt
                await self._drain(by_caller=isinstance(stop, asyncio.CancelledError))
            raise
        finally:
            self._end.cancel()  # nobody retrieves its result now
            await self._dismiss()
            self._status.timeline.end(self._clock(), max_concurrent_requests=self._max_workers)
        return self._ending

    async def _wait_for_end(self) -> None:
        await asyncio.wait([self._end], timeout=self._seconds_left())
        if self._end.done():
            self._end.result()
        else:
            self._ending = "deadline"

    def _seconds_left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - self._clock())

    def _finish_early(self, ending: End) -> None:
        self._ending = ending
        if not self._end.done():
            self._end.set_result(None)

    def _start_worker(self) -> None:
        self._dispatching += 1
        worker = asyncio.get_running_loop().create_task(self._work())
        self._workers.add(worker)
        worker.add_done_callback(self._retire)

    def _retire(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        error = None if worker.cancelled() else worker.exception()  # always retrieved, or asyncio complains
        if worker.cancelled() or self._end.done():
            return
        if error is not None:
            self._end.set_exception(error)
        elif not self._workers:
            self._end.set_result(None)

    async def _drain(self, *, by_caller: bool = False) -> None:
        """Stop sending, and wait for the requests in flight. A second interrupt ends that at once."""
        self._stopped = self._draining = True
        for worker in self._in_line:
            worker.cancel()
        sending = self._workers - self._in_line
        if sending:
            self._status.stopping = "press again to leave at once" if by_caller else "interrupt to leave at once"
            await asyncio.wait(sending, timeout=DRAIN_SECONDS)

    async def _dismiss(self) -> None:
        self._stopped, self._status.stopping = True, ""
        self._status.num_requests_left += self._busy
        workers = set(self._workers)
        while workers:
            # Repeated, since before Python 3.12 wait_for loses a cancellation that coincides with its result.
            for worker in workers:
                worker.cancel()
            _, workers = await asyncio.wait(workers, timeout=0.1)

    async def _work(self) -> None:
        while not self._stopped:
            ready = None if self._dispatch_lock.locked() else self._at_once()
            if ready is None:
                ready = await self._when_ready()
                if ready is None:
                    return
            self._end_dispatch()
            self._busy += 1
            try:
                await self._attempt(*ready)
            finally:
                self._busy -= 1
                self._dispatching += 1
                self._news.set()
            # Let callbacks of this turn, such as writing results, run before the next send: then a kill never finds
            # more requests in flight or unwritten than there are workers.
            await asyncio.sleep(0)

    def _at_once(self) -> tuple[Job, Any] | None:
        """The next request and its lease, if neither has to be waited for."""
        if self._budget is not None or self._deadline is not None or self._outages.is_away:
            return None
        job = self._first = self._first or self._queue.take()
        if job is None:
            return None
        job.size = self._sizes.of(job.request, exactly=job.limiter.counts_tokens)
        lease = job.limiter.at_once(job.size)
        if lease is None:
            return None
        self._first = None
        return job, lease

    async def _when_ready(self) -> tuple[Job, Any] | None:
        """As `_at_once`, after waiting as needed; None if nothing is left to send."""
        worker = asyncio.current_task()
        assert worker is not None
        self._in_line.add(worker)
        try:
            async with self._dispatch_lock:
                job = await self._next()
                await self._until_probe(job)
                if job is None or not await self._afford(job):
                    self._dispatching -= 1
                    return None
                job.size = self._sizes.of(job.request, exactly=job.limiter.counts_tokens)
                await self._check_wait(job)
                is_alone = not self._limits.several
                lease = await job.limiter.acquire(job.size) if is_alone else job.limiter.at_once(job.size)
            if lease is None:
                lease = await self._wait_beside(job)
        finally:
            self._in_line.discard(worker)
        if not self._stopped and self._seconds_left() != 0.0:
            return job, lease
        job.limiter.unanswered(lease)
        if not self._stopped:  # the loop was too busy for the timer to fire in time
            self._finish_early("deadline")
        return None

    async def _wait_beside(self, job: Job) -> Any:
        """Wait for a lease while another worker dispatches requests to other models."""
        self._queue.backlog.begin_wait(job)
        self._end_dispatch()
        try:
            return await job.limiter.acquire(job.size)
        finally:
            self._queue.backlog.end_wait(job)
            self._dispatching += 1
            self._news.set()

    def _end_dispatch(self) -> None:
        self._dispatching -= 1
        if not self._dispatching and len(self._workers) < self._max_workers:
            self._start_worker()

    async def _until_probe(self, job: Job | None) -> None:
        """While the server is away, wait until the next request may probe whether it is back."""
        while job is not None and self._outages.is_away and (delay := self._outages.next_probe(self._clock())) != 0.0:
            await self._wait_for_news(delay)

    async def _check_wait(self, job: Job) -> None:
        """Give up if a limit of an hour or a day is used up for too long.

        Raises:
            RateLimitedError: the wait is longer than max_wait, and no request in flight could still show otherwise.
        """
        limiter = job.limiter
        while True:
            period = max(limiter.requests.period, limiter.tokens.period)
            delay, _ = limiter.delay(job.size) if period > 60.0 else (0.0, "")
            if not self._max_wait < delay < math.inf:
                return
            if not self._busy:
                break
            await self._wait_for_news(None)
        self._stopped = True
        raise RateLimitedError(
            f"The account's limit per {PERIODS.get(period, 'day')} is used up: the next request may be sent in "
            f"{delay:,.0f} s, and nothing waits longer than max_wait, {self._max_wait:,.0f} s. Run the same again "
            "then, what was finished is kept; or wait with Client(max_wait=...)."
        )

    async def _next(self) -> Job | None:
        """The next request to send, as soon as there is one; None if all are done."""
        while True:
            job, self._first = self._first or self._queue.take(), None
            if job is not None:
                if self._queue.backlog.takes(job):
                    continue
                return job
            if self._queue.pause:
                self._queue.pause = False
                await asyncio.sleep(0)
                continue
            delay = self._queue.seconds_until_retry()
            if delay is None and not self._busy and not self._queue.may_get_more:
                return None
            if delay is None or delay > 0:
                await self._wait_for_news(delay)

    async def _afford(self, job: Job) -> bool:
        """Reserve what the send may cost. If that does not fit, wait for what the requests in flight leave over."""
        if self._budget is None:
            return True
        while (reserve := self._budget.reserve(job.request)) is None:
            if not self._busy and not self._queue.backlog.any_waits:
                self._finish_early("budget")
                return False
            await self._wait_for_news(None)
        job.reserve = reserve
        return True

    async def _wait_for_news(self, delay: float | None) -> None:
        self._news.clear()
        try:
            await asyncio.wait_for(self._news.wait(), None if delay is None else max(delay, SHORTEST_WAIT))
        except asyncio.TimeoutError:
            pass

    async def _attempt(self, job: Job, lease: Any) -> None:
        status = self._status
        status.num_tasks_in_progress += 1
        status.num_requests_sent += 1
        if job.attempts:
            status.num_retries += 1
        at, sent_at = time.time(), self._clock()
        self._outages.in_flight[job] = sent_at
        status.timeline.sent(sent_at)
        try:
            response = await self._send(job.request, lease)
        except BaseException:
            job.limiter.unanswered(lease)
            raise
        finally:
            status.num_tasks_in_progress -= 1
            del self._outages.in_flight[job]
        if self._budget is not None and job.reserve is not None:
            self._budget.settle(job.reserve, response)
        now = self._clock()
        verdict = judge(response, reached=self._reached, path=job.request.path)
        verdict = self._outages.judge(verdict, job, sent_at, now)
        usage = usage_of(response.data)
        bill = None if verdict is DONE or usage is None else bill_of(response.data)
        code, waited = verdict.code, sent_at - job.ready_at
        job.attempts.append(Attempt(at, response.seconds, waited, response.status, code, response.request_id, bill))
        if bill is not None:
            status.billed_in_vain[job.request] = job.attempts
        if response.status:
            self._reached = True
        if verdict is DONE:
            status.timeline.answered(sent_at, now, job.request, job.model, job.size, response.seconds, usage)
            self._succeed(job, lease, response, usage)
        else:
            status.timeline.failed(now, response.status, verdict)
            self._count_billed(job, response, usage)
            self._handle_failure(job, lease, response, verdict)

    def _succeed(self, job: Job, lease: Any, response: Response, usage: Usage | None) -> None:
        job.limiter.answered(lease, response.headers, usage)
        self._equal_refusals.models.add(job.model)
        self._failures.answered += 1
        if usage is not None:
            self._status.prompt_tokens += usage.prompt_tokens
            self._status.completion_tokens += usage.completion_tokens
        data, raw, errors, attempts = response.data, response.body, tuple(job.errors), tuple(job.attempts)
        self._hand_over(Result(job.request, "succeeded", data, None, None, errors, attempts, raw, usage=usage))

    def _count_billed(self, job: Job, response: Response, usage: Usage | None) -> None:
        """Count what was billed for a failed answer, such as one that broke off."""
        if usage is None:
            return
        self._status.prompt_tokens += usage.prompt_tokens
        self._status.completion_tokens += usage.completion_tokens
        if self._price is not None:
            cost, _ = cost_of(self._price, response.data, usage, job.request)
            self._status.cost_usd += 0.0 if math.isnan(cost) else cost

    def _handle_failure(self, job: Job, lease: Any, response: Response, verdict: Verdict) -> None:
        status = self._status
        if self._stopped:  # from now on only answers count; the row is left to the next run
            job.limiter.unanswered(lease)
            return
        try:
            decision = self._failures.decide(job, lease, response, verdict)
            if not isinstance(decision, Verdict):
                self._queue.retry(job, decision)
                return
            errors, attempts = tuple(job.errors), tuple(job.attempts)
            code, sentence = decision.code or "error", decision.message or ""
            self._hand_over(Result(job.request, "failed", None, code, sentence, errors, attempts))
            answered = self._failures.answered + status.num_tasks_succeeded + status.num_tasks_to_restore
            self._equal_refusals.check(job.request, response, decision, answered=answered, model=job.model)
        except RunStoppedError:
            self._stopped = True
            raise

    def _hand_over(self, result: Result) -> None:
        self._status.billed_in_vain.pop(result.request, None)
        further = self._status.count(result, self._on_result(result))
        if further is not None:
            self._queue.put(further)
