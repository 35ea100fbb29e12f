"""What brings a run's requests to their results: a client on this machine, or workers on a cluster.

A cluster's part stands above the faces that it serves, so it is looked up by its name.
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
    """How a run is sent by the workers of a Ray cluster (extra `ray`), all within the account's one limit. Pass it as
    `lane=`, like `"ray"`.

    Attributes:
        workers: processes that send; None: as many as fit.

    Raises:
        InvalidInputError: there are to be less than one.

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
    """What a run is handed to; a `Client` is one."""

    async def process(
        self,
        requests: Iterable[APIRequest | None],
        *,
        on_result: Callable[[Result], Ruling | None],
        status: StatusTracker,
        budget: Budget | None = None,
        deadline: float | None = None,
    ) -> End:
        """Bring requests to their results. Gives how the run ended."""
        ...


def engine_of(lane: Any, client: Any, journal: Path, origin: Origin | None) -> Engine:
    """Who sends: the client, or workers of a Ray cluster for its account, which keep what they have not delivered yet
    beside the journal, as answers of that origin."""
    if lane != "ray" and not isinstance(lane, RayLane):
        found: Engine = client
    else:
        count = lane.workers if isinstance(lane, RayLane) else None
        found = import_module("parallel_openai._ray.worker_pool").WorkerPool(client, count, journal, origin)
    return found
