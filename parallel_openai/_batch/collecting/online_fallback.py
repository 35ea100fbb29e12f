"""Rows that no batch has answered, sent online instead (`then="online"`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from parallel_openai._batch.batch_state import Part
from parallel_openai._batch.submitting.batch_requests import BatchRequests
from parallel_openai._batch.submitting.input_files import InputFiles, Row
from parallel_openai._client.client import Client
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._records import APIRequest, Result, Ruling
from parallel_openai._run.runner import End
from parallel_openai._run.spending.budget import Budget


async def send_online(
    parts: Sequence[Part],
    input_files: InputFiles,
    client: Client,
    requests: BatchRequests,
    status: StatusTracker,
    budget: Budget | None,
) -> End:
    """Process the rows of parts that are not submitted. A result's attempts include those through batches."""
    in_flight: dict[int, Row] = {}

    def read() -> Iterator[APIRequest]:
        for part in parts:
            for row in input_files.rows(part.name, part.path):
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
            input_files.remove(part.name)
