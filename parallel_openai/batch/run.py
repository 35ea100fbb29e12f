"""One run through the Batch API: divide, submit, wait, collect, and send again what found no answer."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import IO, Any

from parallel_openai.batch.api import BatchAPI, Sleep
from parallel_openai.batch.asked import Asked
from parallel_openai.batch.collecting import Outcome, missing, read_outcome, without_answer
from parallel_openai.batch.leftovers import Leftovers
from parallel_openai.batch.options import BatchLane
from parallel_openai.batch.planner import Planner
from parallel_openai.batch.spool import Place, Row, Spool, read_row
from parallel_openai.batch.standing import limit_in, note_of, rest_of
from parallel_openai.batch.state import Part, planned, step, write
from parallel_openai.batch.submitting import Submitter
from parallel_openai.client import Client
from parallel_openai.engine.budget import Budget
from parallel_openai.engine.journal import Journal
from parallel_openai.engine.processor import End
from parallel_openai.engine.status import StatusTracker
from parallel_openai.errors import BatchError
from parallel_openai.jsonl import loads, loads_from_anywhere
from parallel_openai.records import APIRequest, Result

#: Rows that are read or written before other work of the loop gets its turn.
AT_ONCE = 100
_ENDED = frozenset({"completed", "expired", "cancelled"})


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
    """

    def __init__(
        self,
        client: Client,
        journal: Journal,
        options: BatchLane,
        *,
        on_result: Callable[[Result], APIRequest | None],
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
        self._asked = Asked(
            identity=identity,
            known=known,
            journal=journal,
            record=record,
            on_result=on_result,
            status=status,
            budget=budget,
        )
        self._api = BatchAPI(client, sleep=sleep)
        self._spool = Spool(journal.path)
        self._submitter = Submitter(self._api, journal, self._spool, sleep=sleep)
        run = os.urandom(6).hex()
        self._planner = Planner(self._spool, options, run, record=record)
        self._leftovers = Leftovers(self._spool, Planner(self._spool, options, f"{run}-online", record=record))
        self._batches: dict[str, Mapping[str, Any]] = {}  # as they were seen last
        self.live: list[Part] = []

    async def run(self, requests: Iterable[APIRequest | None] = ()) -> End:
        """Bring every request to its result; gives how it ended.

        `budget` where that did not suffice, `submitted` where the options say not to wait.

        Raises:
            BatchError: the Batch API refuses a file or a batch.
            RunStoppedError: the server refuses every request.
        """
        source = _Source(requests)
        try:
            await self._take_over()
            while True:
                before = self._planner.rows
                exhausted = await self._plan(source)
                if not self._options.wait:
                    for part in list(self.live):
                        await self._look_at(part)
                    if self.live:
                        return "submitted"
                    return "finished" if exhausted else "budget"
                await self._work_off()
                if exhausted:
                    break
                if self._planner.rows == before:
                    return "budget"
            return await self._send_leftovers()
        finally:
            self._planner.discard()
            self._leftovers.discard()
            self._status.note = ""

    # From the rows to batches at the server.

    async def _take_over(self) -> None:
        """Go on from the parts of earlier calls."""
        for part in await self._submitter.earlier(keep=self._all_asked):
            self.live.append(part)
            self._status.num_tasks_in_progress += part.requests
            self._asked.add_earlier(self._spool.places(part.name).values())
        if self._all_asked:
            self._asked.ask_for_earlier()

    async def _plan(self, source: _Source) -> bool:
        """Submit what the source gives; False where the budget does not suffice for all of it."""
        for number, request in enumerate(source, 1):
            if number % AT_ONCE == 0 or request is None:
                await asyncio.sleep(0)
            if request is None or self._asked.claim(request):
                continue
            row = self._asked.take_up(request)
            if row is None:
                source.put_back(request)
                await self._submit_all(self._planner.close())
                return False
            full = self._add(row, 1)
            if full is not None:
                await self._submit_all([full])
        await self._submit_all(self._planner.close())
        return True

    def _add(self, row: Row, round: int) -> Part | None:
        objection = self._planner.objection(row)
        if objection is None:
            return self._planner.add(row, round)
        self._asked.deliver(
            Result(row.request, "failed", None, "request_too_large", objection, (objection,), row.attempts)
        )
        return None

    async def _submit_all(self, parts: Iterable[Part]) -> None:
        """Note the parts, so that they can be found again, and submit them."""
        new = list(parts)
        self._enlist(new)
        for part in new:
            if not self._must_queue(part):
                await self._submit(part)

    def _enlist(self, new: list[Part], *endings: bytes) -> None:
        write(self._journal, [*map(planned, new), *endings])
        self.live.extend(new)
        self._status.num_tasks_in_progress += sum(part.requests for part in new)

    def _must_queue(self, part: Part) -> bool:
        """Whether others of the model stand in line before it, at a queue that was full."""
        before = self.live[: self.live.index(part)]
        waiting = any(each.batch_id is None and each.model == part.model for each in before)
        trying = any(
            each.submission > 1 and each.model == part.model and self._state(each) == "validating" for each in self.live
        )
        return waiting or trying

    async def _submit(self, part: Part) -> None:
        self._batches[part.name] = await self._submitter.submit(part)

    # From the batches to results.

    async def _work_off(self) -> None:
        """Look at the batches until all of them have ended and what they gave is in the journal."""
        moved_at = time.monotonic()
        while self.live:
            moved = False
            for part in list(self.live):
                moved = await self._look_at(part) or moved
            self._show()
            if moved:
                moved_at = time.monotonic()
            elif self.live:
                waited = time.monotonic() - moved_at
                await self._sleep(min(self._options.poll_seconds, max(1.0, waited / 20)))

    async def _look_at(self, part: Part) -> bool:
        """Whether something has changed with a part."""
        if part.batch_id is None:
            if time.monotonic() < part.not_before or self._must_queue(part):
                return False
            await self._submit(part)
            return True
        batch = self._batches[part.name] = await self._api.get(part.batch_id)
        if batch.get("status") == "failed":
            await self._refused(part, batch)
            return True
        if batch.get("status") in _ENDED:
            await self._collect(part, batch)
            self._let_the_next_try(part.model)
            return True
        return False

    async def _collect(self, part: Part, batch: Mapping[str, Any]) -> None:
        """Bring a batch's answers into the journal, and what it did not answer into new parts, which are then noted
        together with the end of this one."""
        places = self._spool.places(part.name)
        new: list[Part] = []
        with _open(self._spool, part.name) as asked:
            for kind in ("output", "error"):
                file_id = batch.get(f"{kind}_file_id")
                if file_id:
                    await self._api.download(file_id, self._spool.place(part.name, kind))
                    with _open(self._spool, part.name, kind) as lines:
                        await self._read(part, batch, lines, asked, places, new)
            for number, (custom_id, place) in enumerate(places.items()):
                if number % AT_ONCE == 0:
                    await asyncio.sleep(0)
                new += self._settle(part, read_row(asked, custom_id, place, part.path), missing(batch))
        await self._replace(part, new, "collected")

    async def _read(
        self,
        part: Part,
        batch: Mapping[str, Any],
        lines: IO[bytes],
        asked: IO[bytes],
        places: dict[str, Place],
        new: list[Part],
    ) -> None:
        for number, raw in enumerate(lines):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
            line = loads(loads_from_anywhere(raw)[0])
            place = places.pop(line.get("custom_id"), None)
            if place is not None:  # else it was told of twice, and the first time counts
                row = read_row(asked, line["custom_id"], place, part.path)
                new += self._settle(part, row, read_outcome(line, batch))

    async def _replace(self, part: Part, new: list[Part], event: str) -> None:
        new = [*new, *self._planner.close()]
        self._enlist(new, step(part, event))
        self._forget(part)
        for each in new:
            if not self._must_queue(each):
                await self._submit(each)

    def _forget(self, part: Part) -> None:
        """Its end is in the journal."""
        self.live.remove(part)
        self._batches.pop(part.name, None)
        self._status.num_tasks_in_progress -= part.requests
        self._spool.remove(part.name)

    def _settle(self, part: Part, row: Row, outcome: Outcome) -> list[Part]:
        """Hand a row's result over, or send it again; gives the part that became full by it."""
        self._status.num_requests_sent += 1
        if outcome.fate == "left":
            return []
        if outcome.fate == "done" or not self._asked.waits_for(row.request):
            if outcome.fate == "done":
                self._asked.deliver(outcome.result(row.request, row.attempts))
            return []
        again = replace(row, attempts=(*row.attempts, outcome.attempt))
        if part.round < self._options.rounds:
            self._status.num_retries += 1
            full = self._add(again, part.round + 1)
            return [] if full is None else [full]
        if self._options.then == "online":
            self._leftovers.add(again)
        else:
            self._asked.deliver(outcome.result(row.request, row.attempts))
        return []

    # What the Batch API does not take.

    async def _refused(self, part: Part, batch: Mapping[str, Any]) -> None:
        errors = [each for each in (batch.get("errors") or {}).get("data") or [] if isinstance(each, dict)]
        full = next((each for each in errors if each.get("code") == "token_limit_exceeded"), None)
        if full is not None:
            await self._queue_is_full(part, str(full.get("message") or ""))
            return
        at_fault = {each["line"]: each for each in errors if isinstance(each.get("line"), int)}
        if not at_fault.keys() & set(range(1, part.requests + 1)):
            why = (
                "; ".join(f"{each.get('message')} ({each.get('code')})" for each in errors[:3]) or "it does not say why"
            )
            write(self._journal, [step(part, "dropped")])
            self._forget(part)
            raise BatchError(f"The Batch API refused the batch {batch['id']} of {part.requests:,} rows: {why}")
        new: list[Part] = []
        for number, row in enumerate(self._spool.rows(part.name, part.path), 1):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
            if number in at_fault:
                why, code = str(at_fault[number].get("message")), str(at_fault[number].get("code") or "batch_error")
                self._asked.deliver(without_answer(batch, code, why).result(row.request, row.attempts))
            elif self._asked.waits_for(row.request) and (filled := self._add(row, part.round)) is not None:
                new.append(filled)
        await self._replace(part, new, "dropped")

    async def _queue_is_full(self, part: Part, message: str) -> None:
        """Wait until others have left the queue; a part that is larger than the whole queue is divided."""
        limit = limit_in(message)
        if limit is not None:
            self._planner.learn_queue(part.model, limit)
        alone = all(each is part or self._state(each) in (None, "validating") for each in self.live)
        if limit is not None and alone and part.submission > 3 and part.tokens <= limit:
            # The server counts more than we do: all else is through, and it still does not fit.
            self._planner.learn_queue(part.model, max(1, part.tokens // 2))
            limit = part.tokens // 2
        part.batch_id, part.creating_at = None, 0.0
        self._batches.pop(part.name, None)
        write(self._journal, [step(part, "refused", batch_id=None, creating_at=0.0)])
        if limit is None or part.tokens <= limit:
            longer = 2.0 ** min(part.submission - 1, 3)
            part.not_before = time.monotonic() + self._options.poll_seconds * longer
            return
        new: list[Part] = []
        for number, row in enumerate(self._spool.rows(part.name, part.path), 1):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
            if self._asked.waits_for(row.request) and (filled := self._add(row, part.round)) is not None:
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
            on_start=self._asked.release,
            on_result=self._asked.deliver_sent,
            status=self._status,
            budget=self._budget,
        )

    # What can be said of it.

    def rest(self) -> str | None:
        """What goes on at the server, as sentences; None where nothing does."""
        return rest_of(self.live, self._journal.path)

    def _show(self) -> None:
        self._status.note = note_of([(self._batches.get(part.name) or {}) for part in self.live])

    def _state(self, part: Part) -> str | None:
        state = (self._batches.get(part.name) or {}).get("status")
        return str(state) if state else None


class _Source:
    """The requests; one of them can be put back."""

    def __init__(self, requests: Iterable[APIRequest | None]) -> None:
        self._requests = iter(requests)
        self._back: list[APIRequest] = []

    def put_back(self, request: APIRequest) -> None:
        self._back.append(request)

    def __iter__(self) -> _Source:
        return self

    def __next__(self) -> APIRequest | None:
        return self._back.pop() if self._back else next(self._requests)


def _open(spool: Spool, name: str, kind: str = "jsonl") -> IO[bytes]:
    return open(spool.place(name, kind), "rb")
