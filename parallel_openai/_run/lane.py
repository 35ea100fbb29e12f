"""What brings a run's requests to their results: a client on this machine, or workers on a cluster.

A cluster's part stands above the faces that it serves, so it is looked up by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, Protocol

from parallel_openai._progress.status import StatusTracker
from parallel_openai._records import APIRequest, Result, Ruling
from parallel_openai._run.runner import End
from parallel_openai._run.spending.budget import Budget


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


def workers(client: Any, count: bool | int) -> Engine:
    """Workers of a Ray cluster that send for the account of a client."""
    found: Engine = import_module("parallel_openai._ray.workers").Workers(client, count)
    return found
