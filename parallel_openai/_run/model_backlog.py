"""Requests of a run with several models that wait until it is their model's turn, while those of others go on."""

from __future__ import annotations

from collections import deque

from parallel_openai._limits.admission import Admission
from parallel_openai._run.job import Job


class Backlog:
    """What was taken up while another request of the same model waits for capacity.

    Args:
        room: so many requests at the most, since they lie in memory.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self.count = 0  # how many there are
        self._jobs: dict[Admission, deque[Job]] = {}  # by model: those behind the one that waits
        self._next: deque[Job] = deque()  # nothing is known to be in their way

    @property
    def is_full(self) -> bool:
        return self.count >= self._room

    @property
    def any_waits(self) -> bool:
        """Whether a request stands before its model's limit."""
        return bool(self._jobs)

    def begin_wait(self, job: Job) -> None:
        """This one is the first of its model that waits for capacity."""
        self._jobs[job.limiter] = deque()

    def end_wait(self, job: Job) -> None:
        """It waits no more, so that it is the turn of those behind it."""
        self._next.extend(self._jobs.pop(job.limiter))

    def takes(self, job: Job) -> bool:
        """Whether the request is to stand here, behind another one of its model."""
        behind = self._jobs.get(job.limiter)
        if behind is None:
            return False
        behind.append(job)
        self.count += 1
        return True

    def pop(self) -> Job | None:
        """The next one that may go on."""
        if not self._next:
            return None
        self.count -= 1
        return self._next.popleft()
