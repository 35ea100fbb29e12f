"""The requests of a run that are still to be sent."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator

from parallel_openai._limits.admission import Admission, model_of
from parallel_openai._limits.model_limiters import InUse
from parallel_openai._limits.sizes import NO_SIZE
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._records import APIRequest, Result
from parallel_openai._run.incoming import Incoming
from parallel_openai._run.job import Job
from parallel_openai._run.model_backlog import Backlog

#: The names of a limit's periods, by their seconds.
PERIODS = {60.0: "minute", 3600.0: "hour", 86400.0: "day"}


class JobQueue:
    """Fresh requests from a source, and retries that wait for their time.

    Args:
        room: the most requests to hold back until their model has capacity.
        hand_over: called with the result of each request that is larger than its model's limit.
    """

    def __init__(
        self,
        limits: InUse,
        status: StatusTracker,
        clock: Callable[[], float],
        room: int,
        hand_over: Callable[[Result], None],
    ) -> None:
        self.pause = False  # whether the source wants to give way to other tasks
        self.backlog = Backlog(room)
        self._limits, self._status, self._clock, self._hand_over = limits, status, clock, hand_over
        self._source: Iterator[APIRequest | None] = iter(())
        self._retries: list[tuple[float, int, Job]] = []
        self._perhaps_full: set[Admission] = set()  # of the retries that wait as an overloaded server said
        self._pushed = 0
        self._retry_was_last = False

    def begin(self, requests: Iterable[APIRequest | None]) -> None:
        self._source = iter(requests)

    def take(self) -> Job | None:
        """A request that can be sent: one that waited for its model, else due retries and fresh ones alternately."""
        if self.backlog.count and ((job := self.backlog.pop()) is not None or self.backlog.is_full):
            return job
        if self._perhaps_full:
            self._release()
        if self._retries and not self._retry_was_last and self._retries[0][0] <= self._clock():
            self._retry_was_last = True
            self._status.num_tasks_waiting -= 1
            return heapq.heappop(self._retries)[2]
        self._retry_was_last = False
        if self.pause:
            return None
        for request in self._source:
            if request is None:
                self.pause = True
                return None
            model = model_of(request)
            limiter = self._limits.of(model)
            if limiter.largest is None or not limiter.never_fits(request.size or NO_SIZE):
                self._status.num_tasks_started += 1
                return Job(request, model, limiter, self._clock())
            self._reject(request, limiter)
        return None

    def put(self, request: APIRequest) -> None:
        """Add a request to be sent at once, in the place of one that was started."""
        model = model_of(request)
        limiter = self._limits.of(model)
        if limiter.largest is None or not limiter.never_fits(request.size or NO_SIZE):
            self.retry(Job(request, model, limiter, 0.0), 0.0)
        else:
            self._reject(request, limiter)

    def retry(self, job: Job, delay: float) -> None:
        self._pushed += 1
        self._status.num_tasks_waiting += 1
        job.ready_at = self._clock() + delay
        heapq.heappush(self._retries, (job.ready_at, self._pushed, job))
        if job.waits_for_full:
            self._perhaps_full.add(job.limiter)

    def seconds_until_retry(self) -> float | None:
        """Seconds until the next retry is due; None if none can be taken up."""
        return self._retries[0][0] - self._clock() if self._retries and not self.backlog.is_full else None

    @property
    def may_get_more(self) -> bool:
        return isinstance(self._source, Incoming)

    def _release(self) -> None:
        """End the waits that a server told because it was full, once that is certain: each answer makes room."""
        full, now = {limiter for limiter in self._perhaps_full if limiter.overrules_waits}, self._clock()
        if not full:
            return
        self._perhaps_full -= full
        for _, _, job in self._retries:
            if job.waits_for_full and job.limiter in full:
                job.ready_at = min(now, job.ready_at)
        self._retries = [(job.ready_at, number, job) for _, number, job in self._retries]
        heapq.heapify(self._retries)

    def _reject(self, request: APIRequest, limiter: Admission) -> None:
        limit, size = limiter.largest, request.size or NO_SIZE
        per = PERIODS.get(limiter.tokens.period, "minute")
        sentence = (
            f"The prompt has {size.prompt_tokens:,} tokens and the account's limit is {limit:,.0f} tokens per {per}, "
            "so it can never be sent. Shorten it or raise the limit."
        )
        self._status.num_tasks_started += 1
        self._hand_over(Result(request, "failed", None, "request_too_large", sentence, (sentence,)))
