"""Rows that no batch has answered, sent online instead (`then="online"`)."""

from __future__ import annotations

from collections.abc import Iterator

from parallel_openai._batch.submitting.batch_requests import BatchRequests
from parallel_openai._batch.submitting.divide import Divider
from parallel_openai._batch.submitting.input_files import InputFiles, Row
from parallel_openai._client.client import Client
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._records import APIRequest, Result, Ruling
from parallel_openai._run.runner import End
from parallel_openai._run.spending.budget import Budget


class OnlineFallback:
    """Collects the rows on disk until the last batch has ended, then sends them."""

    def __init__(self, input_files: InputFiles, divider: Divider) -> None:
        self._input_files, self._divider = input_files, divider

    def add(self, row: Row) -> None:
        self._divider.add(row, 1)

    def discard(self) -> None:
        self._divider.discard()

    async def send(self, client: Client, requests: BatchRequests, status: StatusTracker, budget: Budget | None) -> End:
        """Process the rows. A result's attempts include those through batches."""
        parts = list(self._divider.close())
        if not parts:
            return "finished"
        in_flight: dict[int, Row] = {}

        def read() -> Iterator[APIRequest]:
            for part in parts:
                for row in self._input_files.rows(part.name, part.path):
                    requests.release(row.request)
                    in_flight[id(row.request)] = row
                    yield row.request

        def take(result: Result) -> Ruling | None:
            row = in_flight.pop(id(result.request))
            return requests.deliver_sent(row, result._replace(attempts=(*row.attempts, *result.attempts)))

        try:
            return await client.process(read(), on_result=take, status=status, budget=budget)
        finally:
            for part in parts:
                self._input_files.remove(part.name)
