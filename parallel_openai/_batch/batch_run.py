"""One run through the Batch API: divide, submit, wait, collect, and resubmit rows without an answer."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain

from parallel_openai._batch.batch_api import BatchAPI, Sleep
from parallel_openai._batch.batch_state import Part, planned, step, write
from parallel_openai._batch.collecting.output_files import ROWS_PER_TURN, OutputFiles
from parallel_openai._batch.collecting.output_lines import refused
from parallel_openai._batch.collecting.settle_rows import RowSettler
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
from parallel_openai._batch.status_text import StatusText
from parallel_openai._batch.submitting.batch_requests import BatchRequests
from parallel_openai._batch.submitting.divide import Divider
from parallel_openai._batch.submitting.input_files import InputFiles, Row
from parallel_openai._batch.submitting.server_queue import ServerQueue
from parallel_openai._batch.submitting.submit import Submitter
from parallel_openai._client.client import Client
from parallel_openai._journal.journal import Journal
from parallel_openai._journal.origins import here
from parallel_openai._log import log
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._records import APIRequest, Result, Ruling
from parallel_openai._run.runner import End
from parallel_openai._run.spending.budget import Budget
from parallel_openai.errors import BatchError, PermissionDeniedError, RunStoppedError

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
        # Returns whether the journal has an answer to a row of that name behind an offset, so that no other is kept.
        # One before the plan of the row's part was of no use.
        known: Callable[[str, int], bool] = lambda name, offset: False,
        claim_all: bool = False,  # whether this call also waits for everything that earlier calls submitted
        budget: Budget | None = None,  # the most that may be spent
        sleep: Sleep = asyncio.sleep,  # waits for this many seconds
    ) -> None:
        self._client, self._journal, self._options = client, journal, options
        self._status, self._claim_all = status, claim_all
        self._budget, self._sleep = budget, sleep
        origin = here(client.place)
        self._requests = BatchRequests(
            known=known,
            journal=journal,
            record=record,
            origin=origin,
            on_result=on_result,
            status=status,
            budget=budget,
            price=client.price,
        )
        self._api = BatchAPI(client, sleep=sleep, read_once=True)
        self._input_files = InputFiles(journal.path)
        self._submitter = Submitter(self._api, journal, self._input_files)
        run = os.urandom(6).hex()
        self._divider = Divider(self._input_files, options, run, origin, record=record)
        self._online = Divider(
            self._input_files, options, f"{run}-online", origin, record=record
        )  # rows to send online
        self._failures = PartFailures(options.poll_seconds, client.max_wait, wait=options.wait, clock=client.clock)
        self._settler = RowSettler(
            options,
            self._requests,
            self._divider,
            self._online,
            self._input_files,
            status,
            is_cancelled=self._submitter.is_cancelled,
            postpone=self._postpone,
        )
        self._output_files = OutputFiles(self._api, self._input_files, self._settler.settle)
        self._refusals: list[RunStoppedError] = []  # of parts that the server refused
        # Whether the rows of an earlier part are unknown; requests not sent for that reason.
        self._has_unknown_rows, self._skipped = False, 0
        self.live: list[Part] = []  # the parts whose answers are not all in the journal
        self.status_text = StatusText(self.live, self._input_files, self._settler.cancelled)
        self._queue = ServerQueue(self.live, self._divider, options.poll_seconds)
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
            self._online.discard()
            self._status.note = ""

    async def _process(self) -> End:
        await self._resume_earlier()
        end: End = "finished"
        while end == "finished":
            before = self._divider.rows
            self.is_over_budget = not await self._submit_requests() or self._was_overdrawn
            if self._options.wait:
                await self._poll_until_ended()
            else:
                await self._collect_finished(MAX_LOST_CHECKS)
            if rest := self._online.take_all():
                end = await self._send_online(rest)
            if not self._options.wait or not self.is_over_budget or self._divider.rows == before:
                break
        if self.is_over_budget and end == "finished":
            end = "budget"
        if self._settler.refused_alike is not None and not self._settler.known_answers:
            self._refusals.append(await self._client.with_advice(self._settler.refused_alike))
        self.status_text.report(self._refusals, skipped=self._skipped, has_worked=self._api.has_worked)
        return "submitted" if self.live and not (self._options.wait and end == "budget") else end

    # From rows to batches.

    async def _resume_earlier(self) -> None:
        """Take over the parts of earlier calls."""
        for part in self._submitter.earlier():
            try:
                if not await self._submitter.recover(part, claim_all=self._claim_all):
                    continue
                self._requests.add_earlier(self._input_files.row_infos(part.name, part.requests).values(), part.offset)
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
                await self._submit_all(self._divider.take_all())
                return False
            self._settler.add(row, 1)
            if full := self._divider.take_full():
                await self._submit_all(full)
        await self._submit_all(self._divider.take_all())
        return True

    def _postpone(self, request: APIRequest) -> None:
        self._source, self.is_over_budget = chain(self._source, [request]), True

    async def _submit_all(self, new: list[Part]) -> None:
        """Record the parts in the journal, then submit them."""
        self._register(new)
        for part in new:
            await self._try_submit(part)

    def _register(self, new: list[Part], *endings: bytes) -> None:
        write(self._journal, [*map(planned, new), *endings])
        self.live.extend(new)
        self._status.num_tasks_in_progress += sum(part.requests for part in new)

    async def _try_submit(self, part: Part) -> bool:
        """Submit a part unless it has to wait; returns whether its state changed."""
        if self._submitter.is_cancelled(part):
            self._drop(part)
            return True
        if time.monotonic() < part.not_before or self._queue.must_wait(part):
            return False
        if self._budget is not None and self._budget.is_overdrawn:  # by the answers to earlier parts
            self.is_over_budget = self._was_overdrawn = True
            self._drop(part)
            return True
        try:
            part.batch = batch = await self._submitter.submit(part)
        except (LostError, PermissionDeniedError) as error:
            self._drop(part, error)
            return True
        except UnavailableError as error:
            self._failures.add(part, error)
            return False
        part.failure = None
        if batch.id is not None and self._submitter.is_cancelled(part):  # cancelled meanwhile
            with suppress(LostError, UnavailableError):
                await self._api.cancel(batch.id)
        return True

    async def _send_online(self, parts: list[Part]) -> End:
        """Send the rows of these parts, which no batch has answered. A result's attempts include those in batches."""
        in_flight: dict[int, Row] = {}

        def read() -> Iterator[APIRequest]:
            for part in parts:
                for row in self._input_files.rows(part.name, part.path):
                    self._requests.release(row.request)
                    in_flight[id(row.request)] = row
                    yield row.request

        def take(result: Result) -> Ruling | None:
            row = in_flight.pop(id(result.request))
            return self._requests.deliver_sent(row, result._replace(attempts=(*row.attempts, *result.attempts)))

        try:
            return await self._client.process(read(), on_result=take, status=self._status, budget=self._budget)
        finally:
            for part in parts:
                self._input_files.remove(part.name)

    # From batches to results.

    async def _poll_until_ended(self) -> None:
        """Poll until all batches have ended and their answers are in the journal."""
        changed_at = time.monotonic()
        while not all(part.is_over for part in self.live):
            if await self._check_all():
                changed_at = time.monotonic()
            elif self.live:
                waited = time.monotonic() - changed_at
                await self._sleep(min(self._options.poll_seconds, max(1.0, waited / 20)))

    async def _collect_finished(self, checks: int) -> None:
        for check in range(checks):
            await self._check_all(submitted=checks == 1)
            if check + 1 == checks or all(part.failure is None for part in self.live):
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
            part.batch = batch = await self._api.get(part.batch_id)
            if batch.is_refused:
                await self._refused(part, batch)
            elif batch.has_ended:
                await self._collect(part, batch)
                await self._replace(part, "collected")
                self._queue.has_room(part.model)
            elif 0 < part.creating_at < time.time() - OVERDUE:
                days = (time.time() - part.creating_at) / 86_400
                raise IncompleteError(f"Batch {part.batch_id} is {batch.status}, {days:.0f} days after it was created.")
            else:
                part.failure = None
                return False
        except RunStoppedError as error:
            self._failures.add(part, error)
            return False
        return True

    async def _collect(self, part: Part, batch: ServerBatch) -> None:
        """Read a batch's answers; the steps around them tell a later call whose they are."""
        write(self._journal, [step(part, "collecting", was_read=True)])
        try:
            await self._output_files.collect(part, batch)
        except PART_ERRORS:
            write(self._journal, [step(part, "incomplete")])
            raise

    async def _replace(self, part: Part, event: str) -> None:
        """Go on with the parts that its rows were divided into, if any."""
        new = self._divider.take_all()
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
            self._settler.release(part)
        write(self._journal, [step(part, "dropped")])
        self._forget(part)

    def _forget(self, part: Part) -> None:
        """Remove a part whose end is in the journal."""
        self.live.remove(part)
        self._status.num_tasks_in_progress -= part.requests
        self._input_files.remove(part.name)

    # Batches that the server refuses.

    async def _refused(self, part: Part, batch: ServerBatch) -> None:
        full = next((each for each in batch.errors if each.get("code") == "token_limit_exceeded"), None)
        if full is not None:
            self._submitter.refused(part)
            waits = self._queue.refused(part, str(full.get("message") or ""))
            if not waits or (part.earlier and self._budget is not None):  # its rows get a reserve when they are divided
                await self._settler.divide_again(part, {})
                await self._replace(part, "dropped")
            return
        at_fault = batch.at_fault()
        if self._settler.refused_alike or not at_fault.keys() & set(range(1, part.requests + 1)):
            rows = f"{part.requests:,} rows"
            self._drop(part, BatchError(f"The Batch API refused the batch {batch.id} of {rows}: {batch.why()}"))
            return
        failed = {number: refused(batch, error) for number, error in at_fault.items()}
        await self._settler.divide_again(part, failed)
        await self._replace(part, "dropped")
