"""Settles each row by its outcome in a batch: its result is delivered, or it goes into a new part."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

from parallel_openai._batch.batch_state import Part
from parallel_openai._batch.collecting.output_files import ROWS_PER_TURN
from parallel_openai._batch.collecting.output_lines import NOT_PROCESSED, Outcome
from parallel_openai._batch.lane_options import BatchLane
from parallel_openai._batch.submitting.batch_requests import BatchRequests
from parallel_openai._batch.submitting.divide import Divider
from parallel_openai._batch.submitting.input_files import InputFiles, Row
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._records import APIRequest, Response, Result
from parallel_openai._run.equal_refusals import EqualRefusals
from parallel_openai.errors import RequestRefusedError


class RowSettler:
    """Takes the rows of a run, and later the outcome of each."""

    def __init__(
        self,
        options: BatchLane,
        requests: BatchRequests,
        divider: Divider,  # takes the rows that are submitted
        online: Divider,  # takes those that are sent online after the last round
        input_files: InputFiles,
        status: StatusTracker,
        *,
        is_cancelled: Callable[[Part], bool],  # whether `cancel_batches` cancelled the part
        postpone: Callable[[APIRequest], None],  # takes a request that the budget does not allow now
    ) -> None:
        self._options, self._requests, self._divider = options, requests, divider
        self._online, self._input_files, self._status = online, input_files, status
        self._is_cancelled, self._postpone = is_cancelled, postpone
        self._equal_refusals = EqualRefusals()
        self.refused_alike: RequestRefusedError | None = None  # if the server refuses all rows alike
        self.cancelled: dict[str, str] = {}  # by request key, the message about each that someone else cancelled

    def add(self, row: Row, round: int) -> None:
        """Add a row to a part, or deliver that it is too large."""
        why = self._divider.why_too_large(row)
        if why is None:
            self._divider.add(row, round)
            return
        self._requests.release(row.request)
        self._requests.deliver(Result(row.request, "failed", None, "request_too_large", why, (why,), row.attempts))

    def settle(self, part: Part, row: Row, outcome: Outcome) -> None:
        """Deliver a row's result, or add the row to a new part."""
        self._requests.restore_metadata(row.request)
        self._status.num_requests_sent += 1
        self._settle_reserve(part, row.request, outcome.response)
        if outcome.fate != "done" and self._is_cancelled(part):
            return
        if outcome.fate == "cancelled":  # by someone else
            self.cancelled[row.request.key] = f"{outcome.error} The same call again submits it."
            return
        again = replace(row, attempts=(*row.attempts, outcome.attempt))
        is_claimed = self._requests.waits_for(row.request)
        if is_claimed and outcome.attempt.bill is not None:
            self._requests.bill(row.request, again.attempts)
        if outcome.fate == "done":
            self._deliver(part, row, outcome)
            return
        is_last = part.round >= self._options.rounds
        if is_claimed and is_last and self._options.then != "online":
            self._requests.deliver(outcome.result(row.request, row.attempts))
        elif is_claimed and self._has_reserve(row.request):
            if is_last:
                self._online.add(again, 1)
            else:
                self._status.num_retries += 1
                self.add(again, part.round + 1)

    async def divide_again(self, part: Part, failed: Mapping[int, Outcome]) -> None:
        """Put a part's rows, except those that failed (by number from 1), into new parts."""
        for number, row in enumerate(self._input_files.rows(part.name, part.path), 1):
            if number % ROWS_PER_TURN == 0:
                await asyncio.sleep(0)
            self._requests.restore_metadata(row.request)
            self._settle_reserve(part, row.request, NOT_PROCESSED)
            if number in failed:
                self._deliver(part, row, failed[number])
            elif self._requests.waits_for(row.request) and self._has_reserve(row.request):
                self.add(row, part.round)

    def release(self, part: Part) -> None:
        """Release the reserves of a part that the server does not have."""
        for row in self._input_files.rows(part.name, part.path):
            self._settle_reserve(part, row.request, NOT_PROCESSED)

    @property
    def known_answers(self) -> int:
        return self._status.num_tasks_succeeded + self._status.num_tasks_to_restore

    def _settle_reserve(self, part: Part, request: APIRequest, response: Response) -> None:
        if not part.earlier:  # this call reserved nothing for an earlier one's rows
            self._requests.settle(request, response)

    def _has_reserve(self, request: APIRequest) -> bool:
        """Whether the budget allows a row to be sent again; otherwise it waits with those that were not yet sent."""
        if self._requests.reserve(request):
            return True
        self._requests.give_back(request)
        self._postpone(request)
        return False

    def _deliver(self, part: Part, row: Row, outcome: Outcome) -> None:
        """Deliver a row's result, and record whether all rows are refused alike, which is reported at the end."""
        is_claimed = self._requests.waits_for(row.request)
        self._requests.deliver(outcome.result(row.request, row.attempts), part.name)
        if outcome.verdict is None or not is_claimed:
            return
        try:
            self._equal_refusals.check(row.request, outcome.response, outcome.verdict, answered=self.known_answers)
        except RequestRefusedError as error:
            self.refused_alike = self.refused_alike or error
