"""Holds back requests whose model has no capacity, so that requests to a run's other models can go on."""

from __future__ import annotations

from collections import deque

from parallel_openai._limits.admission import Admission
from parallel_openai._run.job import Job


class Backlog:
    """Requests taken from the source while another one of the same model waits for capacity.

    Args:
        room: the most requests to hold, since they are kept in memory.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self.count = 0
        self._jobs: dict[Admission, deque[Job]] = {}  # by model: the jobs behind the one that waits
        self._next: deque[Job] = deque()  # jobs that need not wait behind another

    @property
    def is_full(self) -> bool:
        return self.count >= self._room

    @property
    def any_waits(self) -> bool:
        """Whether any request waits for its model's capacity."""
        return bool(self._jobs)

    def begin_wait(self, job: Job) -> None:
        """Note that a request begins to wait for capacity, the first one of its model."""
        self._jobs[job.limiter] = deque()

    def end_wait(self, job: Job) -> None:
        """Note that it no longer waits, and release the requests behind it."""
        self._next.extend(self._jobs.pop(job.limiter))

    def takes(self, job: Job) -> bool:
        """Hold the request if another one of its model is waiting. Returns whether it was held."""
        behind = self._jobs.get(job.limiter)
        if behind is None:
            return False
        behind.append(job)
        self.count += 1
        return True

    def pop(self) -> Job | None:
        """The next request that may go on, or None."""
        if not self._next:
            return None
        self.count -= 1
        return self._next.popleft()
