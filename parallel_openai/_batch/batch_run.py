"""One run through the Batch API: divide, submit, wait, collect, and send again what found no answer."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from parallel_openai._batch.batch_api import BatchAPI, Sleep
from parallel_openai._batch.batch_state import Part, planned, step, write
from parallel_openai._batch.collecting.leftovers import Leftovers
from parallel_openai._batch.collecting.output_files import AT_ONCE, OutputFiles
from parallel_openai._batch.collecting.output_lines import Outcome, refused
from parallel_openai._batch.lane_options import BatchLane
from parallel_openai._batch.part_failures import LOST_LOOKS, LostError, NotNowError, NotWholeError, PartFailures
from parallel_openai._batch.server_batch import ServerBatch
from parallel_openai._batch.standing_text import StandingText, limit_in
from parallel_openai._batch.submitting.batch_requests import BatchRequests, Source
from parallel_openai._batch.submitting.divide import Divider
from parallel_openai._batch.submitting.input_files import InputFiles, Row
from parallel_openai._batch.submitting.submit import Submitter
from parallel_openai._client.client import Client
from parallel_openai._journal.journal import Journal
from parallel_openai._log import log
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._records import APIRequest, Result, Ruling
from parallel_openai._run.equal_refusals import EqualRefusals
from parallel_openai._run.runner import End
from parallel_openai._run.spending.budget import Budget
from parallel_openai.errors import BatchError, PermissionDeniedError, RequestRefusedError, RunStoppedError

#: Seconds after which a batch is not waited for any more. Its window is a day.
OVERDUE = 3 * 86_400.0


class BatchRun:
    """Brings requests to their results through the Batch API. It goes on from what the journal tells of earlier calls.

    Args:
        client: the account.
        journal: the open journal, which keeps the state too.
        options: see `BatchLane`.
        on_result: called once for each request that came to its end.
        status: where things are counted.
        record: whether lines are written with a record, as a frame's are.
        identity: the name by which a row is known, from its request's key and its metadata.
        known: how many good answers the journal has under such a name.
        all_asked: whether what earlier calls submitted is asked for by this one too.
        budget: what may be spent.
        sleep: waits so many seconds.

    Attributes:
        live: the parts whose answers are not all here.
        standing: tells how they stand.
        is_short: the budget did not suffice for all that was asked.
    """

    def __init__(
        self,
        client: Client,
        journal: Journal,
        options: BatchLane,
        *,
        on_result: Callable[[Result], Ruling | None],
        status: StatusTracker,
        record: bool,
        identity: Callable[[str, Any], str],
        known: Callable[[str], int],
        all_asked: bool = False,
        budget: Budget | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._client, self._journal, self._options = client, journal, options
        self._status, self._all_asked = status, all_asked
        self._budget, self._sleep = budget, sleep
        self._requests = BatchRequests(
            identity=identity,
            known=known,
            journal=journal,
            record=record,
            on_result=on_result,
            status=status,
            budget=budget,
        )
        self._api = BatchAPI(client, sleep=sleep, looks_once=True)
        self._input_files = InputFiles(journal.path)
        self._submitter = Submitter(self._api, journal, self._input_files, sleep=sleep)
        run = os.urandom(6).hex()
        self._divider = Divider(self._input_files, options, run, record=record)
        self._leftovers = Leftovers(
            self._input_files, Divider(self._input_files, options, f"{run}-online", record=record)
        )
        self._output_files = OutputFiles(self._api, self._input_files, self._settle)
        self._failures = PartFailures(options.poll_seconds, client.max_wait, patient=options.wait, clock=client.clock)
        self._refusals: list[RunStoppedError] = []  # of parts that the server would not have
        self._equal_refusals = EqualRefusals()
        self._refused_alike: RequestRefusedError | None = None
        self._is_blind, self._skipped = False, 0  # what is in an earlier part is not known; requests not sent for that
        self._began, self._is_cancelled = time.time(), False
        self._batches: dict[str, ServerBatch] = {}  # as they were seen last
        self.live: list[Part] = []
        self.standing = StandingText(
            self.live, self._batches, self._failures, self._input_files, self._output_files.taken
        )
        self.is_short = False

    async def run(self, requests: Iterable[APIRequest | None] = ()) -> End:
        """Bring every request to its result; gives how it ended.

        `budget` where that did not suffice, `submitted` where batches go on: the options say not to wait, or something
        is wrong with them.

        Raises:
            BatchError: the Batch API refuses a file or a batch.
            RunStoppedError: the server refuses every request.
        """
        try:
            return await self._bring(Source(requests))
        except RunStoppedError:
            await self._take_what_is_there(1)  # which is paid for
            raise
        finally:
            self._divider.discard()
            self._leftovers.discard()
            self._status.note = ""

    async def _bring(self, source: Source) -> End:
        await self._take_over()
        while True:
            before = self._divider.rows
            self.is_short = not await self._plan(source)
            if not self._options.wait:
                await self._take_what_is_there(LOST_LOOKS)
                break
            await self._work_off()
            if not self.is_short or self._divider.rows == before:
                break
        end: End = "budget" if self.is_short else "finished"
        if end == "finished" and self._options.wait:
            end = await self._send_leftovers()
        if self._refused_alike is not None and not self._known_answers:
            self._refusals.append(await self._client.with_advice(self._refused_alike))
        self.standing.tell(self._refusals, skipped=self._skipped, has_worked=self._api.has_worked)
        return "submitted" if self.live and not (self._options.wait and end == "budget") else end

    # From the rows to batches at the server.

    async def _take_over(self) -> None:
        """Go on from the parts of earlier calls."""
        for part in self._submitter.earlier():
            try:
                if not await self._submitter.recover(part, keep=self._all_asked, needs_metadata=self._all_asked):
                    continue
                self._requests.add_earlier(self._input_files.places(part.name, part.requests).values())
            except RunStoppedError as error:
                self._is_blind = True
                self._failures.add(part, error, final=True)
            self.live.append(part)
            self._status.num_tasks_in_progress += part.requests
        if self._all_asked:
            self._requests.ask_for_earlier()

    async def _plan(self, source: Source) -> bool:
        """Submit what the source gives; False where the budget does not suffice for all of it."""
        for number, request in enumerate(source, 1):
            if number % AT_ONCE == 0 or request is None:
                await asyncio.sleep(0)
            if request is None or self._requests.claim(request):
                continue
            if self._is_blind:
                self._skipped += 1
                continue
            row = self._requests.take_up(request)
            if row is None:
                source.put_back(request)
                await self._submit_all(self._divider.close())
                return False
            full = self._add(row, 1)
            if full is not None:
                await self._submit_all([full])
        await self._submit_all(self._divider.close())
        return True

    def _add(self, row: Row, round: int) -> Part | None:
        objection = self._divider.objection(row)
        if objection is None:
            return self._divider.add(row, round)
        self._requests.deliver(
            Result(row.request, "failed", None, "request_too_large", objection, (objection,), row.attempts)
        )
        return None

    async def _submit_all(self, parts: Iterable[Part]) -> None:
        """Note the parts, so that they can be found again, and submit them."""
        new = list(parts)
        self._enlist(new)
        for part in new:
            await self._look_at_queue(part)

    def _enlist(self, new: list[Part], *endings: bytes) -> None:
        write(self._journal, [*map(planned, new), *endings])
        self.live.extend(new)
        self._status.num_tasks_in_progress += sum(part.requests for part in new)

    async def _look_at_queue(self, part: Part) -> bool:
        """Submit a part unless it has to wait; whether something has changed with it."""
        if self._gives_up(part):
            self._drop(part)
            return True
        if time.monotonic() < part.not_before or self._must_queue(part):
            return False
        try:
            self._batches[part.name] = batch = await self._submitter.submit(part)
        except (LostError, PermissionDeniedError) as error:
            self._drop(part, error)
            return True
        except NotNowError as error:
            self._failures.add(part, error)
            return False
        self._failures.clear(part)
        if batch.id is not None and self._gives_up(part):  # it was cancelled meanwhile
            with suppress(LostError, NotNowError):
                await self._api.cancel(batch.id)
        return True

    def _must_queue(self, part: Part) -> bool:
        """Whether others of the model stand in line before it, at a queue that was full."""
        others = [each for each in self.live if each.model == part.model and not self._failures.is_in_trouble(each)]
        before = others[: others.index(part)] if part in others else []
        waiting = any(each.batch_id is None for each in before)
        trying = any(each.submission > 1 and self.standing.state(each) == "validating" for each in others)
        return waiting or trying

    def _gives_up(self, part: Part) -> bool:
        """Whether somebody has cancelled all that was under way at that time."""
        self._is_cancelled = self._is_cancelled or self._input_files.is_cancelled(self._began)
        return self._input_files.is_cancelled(part.planned_at) if part.earlier else self._is_cancelled

    # From the batches to results.

    async def _work_off(self) -> None:
        """Look at the batches until all of them have ended and what they gave is in the journal."""
        moved_at = time.monotonic()
        while not all(map(self._failures.is_over, self.live)):
            if await self._look_at_all():
                moved_at = time.monotonic()
            elif self.live:
                waited = time.monotonic() - moved_at
                await self._sleep(min(self._options.poll_seconds, max(1.0, waited / 20)))

    async def _take_what_is_there(self, looks: int) -> None:
        for look in range(looks):
            await self._look_at_all(submitted=looks == 1)
            if look + 1 == looks or not any(map(self._failures.is_in_trouble, self.live)):
                return
            await self._sleep(min(self._options.poll_seconds, 1.0))

    async def _look_at_all(self, *, submitted: bool = False) -> bool:
        """Look at each part, or only at those that are submitted; whether something has changed."""
        moved = False
        for part in list(self.live):
            if self._failures.is_due(part) and (part.batch_id is not None or not submitted):
                moved = await self._look_at(part) or moved
        self._status.note = self.standing.note()
        return moved

    async def _look_at(self, part: Part) -> bool:
        """Whether something has changed with a part. What goes wrong with it is no other's trouble."""
        if part.batch_id is None:
            return await self._look_at_queue(part)
        try:
            batch = self._batches[part.name] = await self._api.get(part.batch_id)
            if batch.is_refused:
                await self._refused(part, batch)
            elif batch.has_ended:
                new = await self._output_files.collect(part, batch, self._failures.looks(part) + 1)
                await self._replace(part, new, "collected")
                self._let_the_next_try(part.model)
            elif 0 < part.creating_at < time.time() - OVERDUE:
                days = (time.time() - part.creating_at) / 86_400
                raise NotWholeError(f"Batch {part.batch_id} is {batch.status}, {days:.0f} days after it was made.")
            else:
                self._failures.clear(part)
                return False
        except RunStoppedError as error:
            self._failures.add(part, error)
            return False
        return True

    async def _replace(self, part: Part, new: list[Part], event: str) -> None:
        new = [*new, *self._divider.close()]
        self._enlist(new, step(part, event))
        self._forget(part)
        for each in new:
            await self._look_at_queue(each)

    def _drop(self, part: Part, why: RunStoppedError | None = None) -> None:
        """Leave a part that the server does not have; its rows are not asked in this call any more."""
        if why is not None:
            log.warning("%s", why)
            self._refusals.append(why)
        with suppress(LostError, OSError):  # whose files are damaged or gone
            for row in self._input_files.rows(part.name, part.path):
                self._requests.release(row)
        write(self._journal, [step(part, "dropped")])
        self._forget(part)

    def _forget(self, part: Part) -> None:
        """Its end is in the journal."""
        self.live.remove(part)
        self._batches.pop(part.name, None)
        self._output_files.forget(part)
        self._failures.clear(part)
        self._status.num_tasks_in_progress -= part.requests
        self._input_files.remove(part.name)

    def _settle(self, part: Part, row: Row, outcome: Outcome) -> list[Part]:
        """Hand a row's result over, or send it again; gives the part that became full by it."""
        self._requests.name_again(row.request)
        self._status.num_requests_sent += 1
        if outcome.fate == "left" or (outcome.fate == "again" and self._gives_up(part)):
            return []
        if outcome.fate == "done" or not self._requests.waits_for(row.request):
            if outcome.fate == "done":
                self._deliver(row, outcome)
            return []
        again = replace(row, attempts=(*row.attempts, outcome.attempt))
        if part.round < self._options.rounds:
            self._status.num_retries += 1
            full = self._add(again, part.round + 1)
            return [] if full is None else [full]
        if self._options.then == "online":
            self._leftovers.add(again)
        else:
            self._requests.deliver(outcome.result(row.request, row.attempts))
        return []

    def _deliver(self, row: Row, outcome: Outcome) -> None:
        """Hand a row's result over; and notice that all are refused alike, which is told once all have their end."""
        is_mine = self._requests.waits_for(row.request)
        self._requests.deliver(outcome.result(row.request, row.attempts))
        if outcome.refusal is None or not is_mine:
            return
        try:
            self._equal_refusals.check(row.request, *outcome.refusal, known=self._known_answers > 0)
        except RequestRefusedError as error:
            self._refused_alike = self._refused_alike or error

    @property
    def _known_answers(self) -> int:
        return self._status.num_tasks_succeeded + self._status.num_tasks_to_restore

    # What the Batch API does not take.

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
        new: list[Part] = []
        async for number, row in self._rows(part):
            if number in at_fault:
                self._deliver(row, refused(batch, at_fault[number]))
            elif self._requests.waits_for(row.request) and (filled := self._add(row, part.round)) is not None:
                new.append(filled)
        await self._replace(part, new, "dropped")

    async def _rows(self, part: Part) -> AsyncIterator[tuple[int, Row]]:
        """The rows of a part with their numbers, which others get their turn between."""
        for number, row in enumerate(self._input_files.rows(part.name, part.path), 1):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
            self._requests.name_again(row.request)
            yield number, row

    async def _queue_is_full(self, part: Part, message: str) -> None:
        """Wait until others have left the queue; a part that is larger than the whole queue is divided."""
        limit = limit_in(message)
        if limit is not None:
            self._divider.learn_queue(part.model, limit)
        alone = all(each is part or self.standing.state(each) in (None, "validating") for each in self.live)
        if limit is not None and alone and part.submission > 3 and part.tokens <= limit:
            # The server counts more than we do: all else is through, and it still does not fit.
            self._divider.learn_queue(part.model, max(1, part.tokens // 2))
            limit = part.tokens // 2
        self._submitter.refused(part)
        self._batches.pop(part.name, None)
        if limit is None or part.tokens <= limit:
            longer = 2.0 ** min(part.submission - 1, 3)
            part.not_before = time.monotonic() + self._options.poll_seconds * longer
            return
        new: list[Part] = []
        async for _, row in self._rows(part):
            if self._requests.waits_for(row.request) and (filled := self._add(row, part.round)) is not None:
                new.append(filled)
        await self._replace(part, new, "dropped")

    def _let_the_next_try(self, model: str) -> None:
        """There is room in the queue."""
        for part in self.live:
            if part.batch_id is None and part.model == model:
                part.not_before = 0.0
                return

    # What is left over for the usual way.

    async def _send_leftovers(self) -> End:
        return await self._leftovers.send(
            self._client,
            on_start=self._requests.release,
            on_result=self._requests.deliver_sent,
            status=self._status,
            budget=self._budget,
        )
