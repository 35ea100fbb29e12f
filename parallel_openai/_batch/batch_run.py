"""One run through the Batch API: divide, submit, wait, collect, and resubmit rows without an answer."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from typing import Any

from parallel_openai._batch.batch_api import BatchAPI, Sleep
from parallel_openai._batch.batch_state import Part, planned, step, write
from parallel_openai._batch.collecting.online_fallback import OnlineFallback
from parallel_openai._batch.collecting.output_files import ROWS_PER_TURN, OutputFiles
from parallel_openai._batch.collecting.output_lines import NOT_PROCESSED, Outcome, refused
from parallel_openai._batch.lane_options import BatchLane
from parallel_openai._batch.part_failures import (
    MAX_LOST_CHECKS,
    PART_ERRORS,
    IncompleteError,
    LostError,
    PartFailures,
    UnavailableError,
)
from parallel_openai._batch.server_batch import ServerBatch
from parallel_openai._batch.status_text import StatusText, limit_in
from parallel_openai._batch.submitting.batch_requests import BatchRequests
from parallel_openai._batch.submitting.divide import Divider
from parallel_openai._batch.submitting.input_files import InputFiles, Row
from parallel_openai._batch.submitting.submit import Submitter
from parallel_openai._client.client import Client
from parallel_openai._journal.journal import Journal
from parallel_openai._journal.origins import here
from parallel_openai._log import log
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._records import APIRequest, Response, Result, Ruling
from parallel_openai._run.equal_refusals import EqualRefusals
from parallel_openai._run.runner import End
from parallel_openai._run.spending.budget import Budget
from parallel_openai._run.spending.caps import prices_at
from parallel_openai.errors import BatchError, PermissionDeniedError, RequestRefusedError, RunStoppedError

#: Seconds after which a batch is no longer waited for. Its completion window is a day.
OVERDUE = 3 * 86_400.0


class BatchRun:
    """Processes requests through the Batch API, resuming what earlier calls recorded in the journal."""

    def __init__(
        self,
        client: Client,
        journal: Journal,  # the open journal, which also holds the state of the batches
        options: BatchLane,
        *,
        on_result: Callable[[Result], Ruling | None],  # called once for each finished request
        status: StatusTracker,
        record: bool,  # whether journal lines contain a record, as those of a frame do
        identity: Callable[[str, Any], str],  # returns a row's name from its request's key and metadata
        # Returns whether the journal has an answer to a row of that name, so that no other is kept.
        known: Callable[[str], bool] = lambda name: False,
        claim_all: bool = False,  # whether this call also waits for everything that earlier calls submitted
        budget: Budget | None = None,  # the most that may be spent
        sleep: Sleep = asyncio.sleep,  # waits for this many seconds
    ) -> None:
        self._client, self._journal, self._options = client, journal, options
        self._status, self._claim_all = status, claim_all
        self._budget, self._sleep = budget, sleep
        self._requests = BatchRequests(
            identity=identity,
            known=known,
            journal=journal,
            record=record,
            origin=here(client.place),
            on_result=on_result,
            status=status,
            budget=budget,
            price=prices_at(client.base_url),
        )
        self._api = BatchAPI(client, sleep=sleep, read_once=True)
        self._input_files = InputFiles(journal.path)
        self._submitter = Submitter(self._api, journal, self._input_files, sleep=sleep)
        run = os.urandom(6).hex()
        self._divider = Divider(self._input_files, options, run, record=record)
        self._online_fallback = OnlineFallback(
            self._input_files, Divider(self._input_files, options, f"{run}-online", record=record)
        )
        self._output_files = OutputFiles(self._api, self._input_files, self._settle)
        self._failures = PartFailures(options.poll_seconds, client.max_wait, wait=options.wait, clock=client.clock)
        self._refusals: list[RunStoppedError] = []  # of parts that the server refused
        self._equal_refusals = EqualRefusals()
        self._refused_alike: RequestRefusedError | None = None
        # Whether the rows of an earlier part are unknown; requests not sent for that reason.
        self._has_unknown_rows, self._skipped = False, 0
        self._began, self._is_cancelled = time.time(), False
        self._batches: dict[str, ServerBatch] = {}  # by part name, as last seen
        self.live: list[Part] = []  # the parts whose answers are not all in the journal
        # Describes their state.
        self.status_text = StatusText(
            self.live, self._batches, self._failures, self._input_files, self._output_files.answered_count
        )
        self.is_over_budget = self._was_overdrawn = False  # whether the budget did not suffice for all requests
        self._source: Iterator[APIRequest | None] = iter(())

    async def run(self, requests: Iterable[APIRequest | None] = ()) -> End:
        """Process all requests; returns how the run ended.

        That is `budget` if the budget did not suffice, and `submitted` if batches are still running, because of
        `wait=False` or a failure.

        Raises:
            BatchError: the Batch API refuses a file or a batch.
            RunStoppedError: the server refuses every request.
        """
        self._source = iter(requests)
        try:
            return await self._process()
        except RunStoppedError:
            await self._collect_finished(1)  # they are billed in any case
            raise
        finally:
            self._divider.discard()
            self._online_fallback.discard()
            self._status.note = ""

    async def _process(self) -> End:
        await self._resume_earlier()
        end: End = "finished"
        while end == "finished":
            before = self._divider.rows
            self.is_over_budget = not await self._submit_requests() or self._was_overdrawn
            if not self._options.wait:
                await self._collect_finished(MAX_LOST_CHECKS)
                break
            await self._poll_until_ended()
            end = await self._send_unanswered()
            if not self.is_over_budget or self._divider.rows == before:
                break
        if self.is_over_budget and end == "finished":
            end = "budget"
        if self._refused_alike is not None and not self._known_answers:
            self._refusals.append(await self._client.with_advice(self._refused_alike))
        self.status_text.report(self._refusals, skipped=self._skipped, has_worked=self._api.has_worked)
        return "submitted" if self.live and not (self._options.wait and end == "budget") else end

    async def _send_unanswered(self) -> End:
        """Send online what no batch has answered, if that is wanted."""
        return await self._online_fallback.send(
            self._client,
            on_start=self._requests.release,
            on_result=self._requests.deliver_sent,
            status=self._status,
            budget=self._budget,
        )

    # From rows to batches.

    async def _resume_earlier(self) -> None:
        """Take over the parts of earlier calls."""
        for part in self._submitter.earlier():
            try:
                if not await self._submitter.recover(part, claim_all=self._claim_all):
                    continue
                self._requests.add_earlier(self._input_files.row_infos(part.name, part.requests).values())
            except RunStoppedError as error:
                self._has_unknown_rows = True
                self._failures.add(part, error, final=True)
            self.live.append(part)
            self._status.num_tasks_in_progress += part.requests
        self._requests.find_kept({part.name for part in self.live if part.was_read})
        if self._claim_all:
            self._requests.claim_earlier()

    async def _submit_requests(self) -> bool:
        """Submit the remaining requests; returns False if the budget does not suffice for all of them."""
        for number, request in enumerate(self._source, 1):
            if number % ROWS_PER_TURN == 0 or request is None:
                await asyncio.sleep(0)
            if request is None or self._requests.claim(request):
                continue
            if self._has_unknown_rows:
                self._skipped += 1
                continue
            row = self._requests.add(request)
            if row is None:
                self._source = chain([request], self._source)
                await self._submit_all(self._divider.close())
                return False
            full = self._add(row, 1)
            if full is not None:
                await self._submit_all([full])
        await self._submit_all(self._divider.close())
        return True

    def _add(self, row: Row, round: int) -> Part | None:
        why = self._divider.why_too_large(row)
        if why is None:
            return self._divider.add(row, round)
        self._requests.release(row)
        self._requests.deliver(Result(row.request, "failed", None, "request_too_large", why, (why,), row.attempts))
        return None

    async def _submit_all(self, parts: Iterable[Part]) -> None:
        """Record the parts in the journal, then submit them."""
        new = list(parts)
        self._register(new)
        for part in new:
            await self._try_submit(part)

    def _register(self, new: list[Part], *endings: bytes) -> None:
        write(self._journal, [*map(planned, new), *endings])
        self.live.extend(new)
        self._status.num_tasks_in_progress += sum(part.requests for part in new)

    async def _try_submit(self, part: Part) -> bool:
        """Submit a part unless it has to wait; returns whether its state changed."""
        if self._is_part_cancelled(part):
            self._drop(part)
            return True
        if time.monotonic() < part.not_before or self._must_queue(part):
            return False
        if self._budget is not None and self._budget.is_overdrawn:  # by the answers to earlier parts
            self.is_over_budget = self._was_overdrawn = True
            self._drop(part)
            return True
        try:
            self._batches[part.name] = batch = await self._submitter.submit(part)
        except (LostError, PermissionDeniedError) as error:
            self._drop(part, error)
            return True
        except UnavailableError as error:
            self._failures.add(part, error)
            return False
        self._failures.clear(part)
        if batch.id is not None and self._is_part_cancelled(part):  # cancelled meanwhile
            with suppress(LostError, UnavailableError):
                await self._api.cancel(batch.id)
        return True

    def _must_queue(self, part: Part) -> bool:
        """Whether other parts of the model wait before it, since the server's queue was full."""
        others = [each for each in self.live if each.model == part.model and not self._failures.has_failed(each)]
        earlier = others[: others.index(part)] if part in others else []
        return any(each.batch_id is None for each in earlier) or any(
            each.submission > 1 and self.status_text.state(each) == "validating" for each in others
        )

    def _is_part_cancelled(self, part: Part) -> bool:
        """Whether the part was cancelled by `cancel_batches`, in this or another process."""
        self._is_cancelled = self._is_cancelled or self._input_files.is_cancelled(self._began)
        return self._input_files.is_cancelled(part.planned_at) if part.earlier else self._is_cancelled

    # From batches to results.

    async def _poll_until_ended(self) -> None:
        """Poll until all batches have ended and their answers are in the journal."""
        changed_at = time.monotonic()
        while not all(map(self._failures.is_over, self.live)):
            if await self._check_all():
                changed_at = time.monotonic()
            elif self.live:
                waited = time.monotonic() - changed_at
                await self._sleep(min(self._options.poll_seconds, max(1.0, waited / 20)))

    async def _collect_finished(self, checks: int) -> None:
        for check in range(checks):
            await self._check_all(submitted=checks == 1)
            if check + 1 == checks or not any(map(self._failures.has_failed, self.live)):
                return
            await self._sleep(min(self._options.poll_seconds, 1.0))

    async def _check_all(self, *, submitted: bool = False) -> bool:
        """Check each part, or only the submitted ones; returns whether any state changed."""
        changed = False
        for part in list(self.live):
            if self._failures.is_due(part) and (part.batch_id is not None or not submitted):
                changed = await self._check(part) or changed
        self._status.note = self.status_text.note()
        return changed

    async def _check(self, part: Part) -> bool:
        """Check a part; returns whether its state changed. Its failure does not affect the other parts."""
        if part.batch_id is None:
            return await self._try_submit(part)
        try:
            batch = self._batches[part.name] = await self._api.get(part.batch_id)
            if batch.is_refused:
                await self._refused(part, batch)
            elif batch.has_ended:
                new = await self._collect(part, batch)
                await self._replace(part, new, "collected")
                self._retry_next(part.model)
            elif 0 < part.creating_at < time.time() - OVERDUE:
                days = (time.time() - part.creating_at) / 86_400
                raise IncompleteError(f"Batch {part.batch_id} is {batch.status}, {days:.0f} days after it was created.")
            else:
                self._failures.clear(part)
                return False
        except RunStoppedError as error:
            self._failures.add(part, error)
            return False
        return True

    async def _collect(self, part: Part, batch: ServerBatch) -> list[Part]:
        """Read a batch's answers; the steps around them tell a later call whose they are."""
        write(self._journal, [step(part, "collecting", was_read=True)])
        try:
            return await self._output_files.collect(part, batch, self._failures.checks(part) + 1)
        except PART_ERRORS:
            write(self._journal, [step(part, "incomplete")])
            raise

    async def _replace(self, part: Part, new: list[Part], event: str) -> None:
        new = [*new, *self._divider.close()]
        self._register(new, step(part, event))
        self._forget(part)
        for each in new:
            await self._try_submit(each)

    def _drop(self, part: Part, why: RunStoppedError | None = None) -> None:
        """Give up a part that the server does not have; its rows are not sent again in this call."""
        if why is not None:
            log.warning("%s", why)
            self._refusals.append(why)
        with suppress(LostError, OSError):  # its files are damaged or missing
            for row in self._input_files.rows(part.name, part.path):
                self._settle_reserve(part, row.request, NOT_PROCESSED)
        write(self._journal, [step(part, "dropped")])
        self._forget(part)

    def _forget(self, part: Part) -> None:
        """Remove a part whose end is in the journal."""
        self.live.remove(part)
        self._batches.pop(part.name, None)
        self._output_files.forget(part)
        self._failures.clear(part)
        self._status.num_tasks_in_progress -= part.requests
        self._input_files.remove(part.name)

    def _settle(self, part: Part, row: Row, outcome: Outcome) -> list[Part]:
        """Deliver a row's result or add the row to a new part; returns the part that this completed."""
        self._requests.restore_metadata(row.request)
        self._status.num_requests_sent += 1
        self._settle_reserve(part, row.request, outcome.response)
        if outcome.fate != "done" and self._is_part_cancelled(part):
            return []
        if outcome.fate == "cancelled":  # by someone else
            self.status_text.cancelled[row.request.key] = f"{outcome.error} The same call again submits it."
            return []
        again = replace(row, attempts=(*row.attempts, outcome.attempt))
        is_claimed = self._requests.waits_for(row.request)
        if is_claimed and outcome.attempt.bill is not None:
            self._requests.bill(row.request, again.attempts)
        if outcome.fate == "done":
            self._deliver(part, row, outcome)
            return []
        is_last = part.round >= self._options.rounds
        if is_claimed and is_last and self._options.then != "online":
            self._requests.deliver(outcome.result(row.request, row.attempts))
        elif is_claimed and self._has_reserve(row.request):
            if is_last:
                self._online_fallback.add(again)
                return []
            self._status.num_retries += 1
            full = self._add(again, part.round + 1)
            return [] if full is None else [full]
        return []

    def _settle_reserve(self, part: Part, request: APIRequest, response: Response) -> None:
        if not part.earlier:  # this call reserved nothing for an earlier one's rows
            self._requests.settle(request, response)

    def _has_reserve(self, request: APIRequest) -> bool:
        """Whether the budget allows a row to be sent again; otherwise it waits with those that were not yet sent."""
        if self._requests.reserve(request):
            return True
        self._requests.give_back(request)
        self._source, self.is_over_budget = chain(self._source, [request]), True
        return False

    def _deliver(self, part: Part, row: Row, outcome: Outcome) -> None:
        """Deliver a row's result, and record whether all rows are refused alike, which is reported at the end."""
        is_claimed = self._requests.waits_for(row.request)
        self._requests.deliver(outcome.result(row.request, row.attempts), part.name)
        if outcome.verdict is None or not is_claimed:
            return
        try:
            known = self._known_answers > 0
            self._equal_refusals.check(row.request, outcome.response, outcome.verdict, known=known)
        except RequestRefusedError as error:
            self._refused_alike = self._refused_alike or error

    @property
    def _known_answers(self) -> int:
        return self._status.num_tasks_succeeded + self._status.num_tasks_to_restore

    # Batches that the server refuses.

    async def _refused(self, part: Part, batch: ServerBatch) -> None:
        full = next((each for each in batch.errors if each.get("code") == "token_limit_exceeded"), None)
        if full is not None:
            await self._queue_is_full(part, str(full.get("message") or ""))
            return
        at_fault = batch.at_fault()
        if self._refused_alike or not at_fault.keys() & set(range(1, part.requests + 1)):
            rows = f"{part.requests:,} rows"
            self._drop(part, BatchError(f"The Batch API refused the batch {batch.id} of {rows}: {batch.why()}"))
            return
        await self._divide_again(part, {number: refused(batch, error) for number, error in at_fault.items()})

    async def _divide_again(self, part: Part, failed: Mapping[int, Outcome]) -> None:
        """Put a part's rows into new parts, but for those that failed, by their number from 1."""
        new: list[Part] = []
        for number, row in enumerate(self._input_files.rows(part.name, part.path), 1):
            if number % ROWS_PER_TURN == 0:
                await asyncio.sleep(0)
            self._requests.restore_metadata(row.request)
            self._settle_reserve(part, row.request, NOT_PROCESSED)
            if number in failed:
                self._deliver(part, row, failed[number])
            elif self._requests.waits_for(row.request) and self._has_reserve(row.request):
                filled = self._add(row, part.round)
                new += [] if filled is None else [filled]
        await self._replace(part, new, "dropped")

    async def _queue_is_full(self, part: Part, message: str) -> None:
        """Wait until other parts have left the server's queue; divide a part that is larger than the whole queue."""
        limit = limit_in(message)
        if limit is not None:
            self._divider.set_queue_limit(part.model, limit)
        alone = all(each is part or self.status_text.state(each) in (None, "validating") for each in self.live)
        if limit is not None and alone and part.submission > 3 and part.tokens <= limit:
            # Nothing else is queued and it still does not fit, so the server counts more tokens than we do.
            self._divider.set_queue_limit(part.model, max(1, part.tokens // 2))
            limit = part.tokens // 2
        self._submitter.refused(part)
        self._batches.pop(part.name, None)
        lacks_reserve = part.earlier and self._budget is not None  # its rows get one when they are divided
        if (limit is None or part.tokens <= limit) and not lacks_reserve:
            backoff = 2.0 ** min(part.submission - 1, 3)
            part.not_before = time.monotonic() + self._options.poll_seconds * backoff
            return
        await self._divide_again(part, {})

    def _retry_next(self, model: str) -> None:
        """Submit the next waiting part of a model, now that the queue has room."""
        for part in self.live:
            if part.batch_id is None and part.model == model:
                part.not_before = 0.0
                return
