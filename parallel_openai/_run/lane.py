"""Chooses what processes a run's requests: a client on this machine, or workers on a Ray cluster.

The Ray lane belongs to a layer above this one, so it is imported by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from parallel_openai._arguments import check_count
from parallel_openai._journal.origins import Origin
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._records import APIRequest, Result, Ruling
from parallel_openai._run.runner import End
from parallel_openai._run.spending.budget import Budget


@dataclass(frozen=True)
class RayLane:
    """Send through the workers of a Ray cluster (extra `ray`), within the account's one limit. Pass it as `lane=`.

    `lane="ray"` is short for `RayLane()`.

    Attributes:
        workers: the number of processes that send. None is one per processor of the cluster, up to 8.

    Raises:
        InvalidInputError: `workers` is below 1.

    >>> RayLane(workers=2).workers
    2
    >>> RayLane(workers=0)
    Traceback (most recent call last):
        ...
    parallel_openai.errors.InvalidInputError: workers must be a whole number above 0, not 0.
    """

    workers: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None:
            check_count(self.workers, "workers")


class Engine(Protocol):
    """Processes the requests of a run. A `Client` is one."""

    async def process(
        self,
        requests: Iterable[APIRequest | None],
        *,
        on_result: Callable[[Result], Ruling | None],
        status: StatusTracker,
        budget: Budget | None = None,
        deadline: float | None = None,
    ) -> End:
        """Process requests until each has a result. Returns how the run ended."""


def engine_of(lane: Any, client: Any, journal: Path, origin: Origin | None) -> Engine:
    """The engine for a lane: the client itself, or the workers of a Ray cluster.

    Args:
        journal: the run's journal, beside which workers keep their undelivered answers.
        origin: the origin of these answers.
    """
    if lane != "ray" and not isinstance(lane, RayLane):
        found: Engine = client
    else:
        count = lane.workers if isinstance(lane, RayLane) else None
        found = import_module("parallel_openai._ray.worker_pool").WorkerPool(client, count, journal, origin)
    return found
