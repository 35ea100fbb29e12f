"""One call on a frame, from its rows to its columns: puts the parts together."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from parallel_openai._batch.lane_options import check_lane, sure_tier
from parallel_openai._batch.under_way import UnderWay
from parallel_openai._client.client import Client
from parallel_openai._frames.checked_budget import make_budget
from parallel_openai._frames.columns.answer_columns import COLUMNS, Answers, Reader, without_garbage_collection
from parallel_openai._frames.columns.earlier_columns import checksums, without_earlier
from parallel_openai._frames.columns.explode import CHOICE, check_choices, explode
from parallel_openai._frames.columns.run_info import ATTRS, RunInfo, earlier_runs
from parallel_openai._frames.columns.table import check_frame, check_free, with_columns
from parallel_openai._frames.journal_answers import JournalAnswers
from parallel_openai._frames.journal_path import own_journal
from parallel_openai._frames.repair import Repair, check_tries, make_repair, row_of
from parallel_openai._frames.reporting.report import RunReport, remember
from parallel_openai._frames.request_builder import DistinctRequests, RequestBuilder
from parallel_openai._frames.run_options import Options
from parallel_openai._journal.entry import result_line
from parallel_openai._journal.journal import Journal
from parallel_openai._journal.known_results import KnownResults
from parallel_openai._journal.neighbours import Neighbour, neighbours_of, others_beside
from parallel_openai._journal.origins import Origin, here
from parallel_openai._journal.undelivered import take_in_undelivered
from parallel_openai._loop.background import Interrupted, arun, run
from parallel_openai._loop.interrupts import Interrupts, hand_over, recorded_interrupts
from parallel_openai._progress.progress import Progress
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._records import APIRequest, Result, Ruling, reject
from parallel_openai._requests.template import BadPromptError
from parallel_openai._run.lane import engine_of
from parallel_openai._run.runner import End
from parallel_openai._run.spending.budget import Budget
from parallel_openai._run.spending.caps import SpendingCaps
from parallel_openai.errors import JournalError, JournalWriteError, RunStoppedError

if TYPE_CHECKING:
    from parallel_openai._batch.batch_run import BatchRun

#: Seconds for which a run that ends early still looks up what the journal knows, and then for which it reads that.
LEAVE_WITHIN = 0.4


@dataclass
class FrameRun:
    """A frame, the requests that its rows make, and their answers."""

    df: pd.DataFrame
    builder: RequestBuilder
    reader: Reader
    client: Client
    options: Options
    status: StatusTracker = field(default_factory=StatusTracker)

    def __post_init__(self) -> None:
        check_frame(self.df)
        options, lane = self.options, self.options.lane
        self._lane = check_lane(lane, self.builder.params, options.deadline, options.repair, resubmit=options.resubmit)
        if lane == "flex":
            self.builder = replace(self.builder, tier="flex")
        reads = (self.builder.prompt, self.builder.system, *self.builder.metadata, self.reader.about.get("gold"))
        self.df = without_earlier(self.df, options.verb, options.prefix, reads)
        self.builder.check(self.df)
        added = [*self.reader.names, *COLUMNS]
        if options.explode:
            check_choices(self.builder)
            added.append(CHOICE)
        check_free(self.df, added, options.prefix)
        self.client.check_key()
        self._tries = check_tries(options.repair)
        self._bounds = SpendingCaps(options.budget_usd, options.budget_tokens, options.deadline)
        self._budget = make_budget(self._bounds, self.builder, self.df, self.client.price, tier=sure_tier(lane))
        self._batches: BatchRun | None = None
        self._under_way = UnderWay(None)
        self._presses, self._ended = Interrupts(), "finished"
        self._began = time.time()
        self.journal_path = self._journal_path()
        self._written_from = self._origin()
        self._engine = engine_of(lane, self.client, self.journal_path, self._written_from)
        self.answers = Answers(len(self.df), self.builder.samples, self.reader, self.client.price)
        self.status.num_tasks_total = len(self.df) * self.builder.samples
        self._distinct = DistinctRequests(self.builder, self.df, self.status, self._reject)
        self._slots = self._distinct.slots
        self._unreadable: set[int] = set()  # slots whose line in the journal turned out to be damaged

    def execute(self) -> pd.DataFrame:
        """Run, and wait for the end. An interrupt ends the run early; another leaves at once, without a frame.

        Raises:
            KeyboardInterrupt: it was interrupted outside a notebook; `.partial` is the frame.
        """
        with recorded_interrupts() as self._presses, self._to_its_end() as finish:
            try:
                run(self._work(), self._bar.tick, self._presses, nested=self.client.loop == "running")
            except Interrupted:
                self._ended = "interrupted"
            out = finish()
            return hand_over(out, self._presses) if self._presses else out

    async def aexecute(self) -> pd.DataFrame:
        """As `execute`, for a caller in an event loop.

        Raises:
            asyncio.CancelledError: the task was cancelled; what was finished is in the journal and in `last_run()`.
        """
        with self._to_its_end() as finish:
            try:
                await arun(self._work(), self._bar.tick, nested=self.client.loop == "running")
            except Interrupted as stop:
                self._ended = "interrupted"
                finish()
                raise asyncio.CancelledError(*stop.args) from None
            return finish()

    @contextmanager
    def _to_its_end(self) -> Iterator[Callable[[], pd.DataFrame]]:
        """Show the progress; yields the function that makes the frame at the end."""
        self._bar = self._progress()
        began = time.monotonic()
        try:
            yield lambda: self._finish(began, self._ended)
        except (RunStoppedError, JournalWriteError) as error:
            error.partial = self._finish(began, "stopped")
            # A notebook shows the whole traceback, and the part through the engine tells its reader nothing.
            raise error.with_traceback(None) from None
        finally:
            self._bar.close()

    async def _work(self) -> None:
        began = self.client.clock()
        with Journal(self.journal_path, sync=self.client.sync) as journal:
            take_in_undelivered(journal)
            known = await self._known()
            known.neighbours = [each async for each in self._neighbours(known, journal)]
            try:
                self._restoring = JournalAnswers(lambda slot, key: self._read(slot, key, known))
                async with self._restoring.in_pauses():
                    requests = journal.before_sending(self._requests(known))
                    self._ended = await self._send(requests, journal, known, self._bounds.until(began))
                    if self._ended != "finished":
                        await self._cancel_rest(requests)
            except RunStoppedError:
                if len(known):  # else there is nothing to find
                    await self._restoring.find_rest(requests, within=LEAVE_WITHIN)
                raise
            finally:
                self.status.num_damaged_lines = known.damaged_lines
                known.close()

    async def _send(
        self, requests: Iterator[APIRequest | None], journal: Journal, known: KnownResults, deadline: float | None
    ) -> End:
        if not self.options.resubmit:
            others = others_beside(journal.path) if self.options.save_to is None else ()
            own = journal.path if self._lane is None else None
            self._under_way = UnderWay(own, others, here(self.client.place))
        if self._lane is None:
            ended = await self._engine.process(
                requests,
                on_result=partial(self._take, journal=journal),
                status=self.status,
                budget=self._budget,
                deadline=deadline,
            )
            return "submitted" if ended == "finished" and self._under_way.met else ended
        from parallel_openai._batch.batch_run import BatchRun  # a tenth of the package's import

        self._batches = BatchRun(
            self.client,
            journal,
            self._lane,
            on_result=partial(self._take, journal=journal),
            status=self.status,
            record=True,
            known=known.is_answered_behind,
            budget=self._budget,
        )
        ended = await self._batches.run(requests)
        return "submitted" if ended == "finished" and self._under_way.met else ended

    async def _known(self) -> KnownResults:
        return await KnownResults.load(
            self.journal_path,
            failures=not self.options.retry_failed,
            simulated=self.client.is_local,
            place=here(self.client.place).place,
        )

    async def _neighbours(self, known: KnownResults, journal: Journal) -> AsyncIterator[KnownResults]:
        """Journals under other names that have answers which the run's own does not."""
        if self.options.save_to is not None:
            return
        origin = here(self.client.place)
        some = self.builder.some_requests(self.df, within=LEAVE_WITHIN)
        for path in neighbours_of(self.journal_path, known, some, origin, rows=len(self.df)):
            if path is None:
                await asyncio.sleep(0)
                continue
            with suppress(JournalError):  # what is wrong with it does not concern this run
                yield await Neighbour.read(path, origin, journal.append, simulated=self.client.is_local)

    def _origin(self) -> Origin | None:
        """The origin to record beside the answers."""
        return here(self.client.place)

    async def _cancel_rest(self, requests: Iterator[APIRequest | None]) -> None:
        """Send nothing more, and record why for the rows that are left."""
        await self._restoring.find_rest(requests, within=LEAVE_WITHIN)
        ended = "budget" if self._batches is not None and self._batches.is_over_budget else self._ended
        if ended != "submitted":
            self.answers.cancel_rest(ended, f"{self._bounds.why(ended)} The same call again goes on from here.")

    def _requests(self, known: KnownResults) -> Iterator[APIRequest | None]:
        """The requests to send; those that the journal or another row answers are set aside on the way.

        Those that failed before come last: if a budget or the time runs out, new rows are the better buy.
        """
        again, any_waits = array("Q"), self._under_way.any_waits
        for slot, request in self._distinct.all():
            if request is None:
                yield None
                continue
            if request.former_key is not None:
                self._distinct.use_former_key(slot, request, known.was_tried)
            status = known.status(request.key)
            if status == "finished":
                self._restoring.put(slot, request.key)
                self.status.num_tasks_to_restore = len(self._restoring)
            elif any_waits and self._under_way.meet(request.key, request.former_key):
                continue
            elif status == "failed":
                again.append(slot)
            elif self._budget is None or self._may_be_sent(slot, request, self._budget):
                yield request
        while self._restoring:
            self._restoring.some()
            yield None
        again.extend(self._restoring.in_vain)
        for slot, request in self._distinct.of_slots(sorted(again)):
            if request is None:
                yield None
                continue
            self._distinct.use_former_key(slot, request, known.was_tried)
            to_send = self._restore(slot, request, known)
            if to_send is not None and (self._budget is None or self._may_be_sent(slot, to_send, self._budget)):
                yield to_send

    def _may_be_sent(self, slot: int, request: APIRequest, budget: Budget) -> bool:
        why = budget.objection(request)
        if why is not None:
            self._reject(slot, BadPromptError("unbounded", why))
        return why is None

    def _reject(self, slot: int, error: BadPromptError) -> None:
        self.answers.reject(slot, error)
        self.status.count_failed(error.code)

    def _read(self, slot: int, key: str, known: KnownResults) -> bool:
        """Take an answer from the journal; returns False if the row needs a request all the same."""
        self.status.num_tasks_to_restore = len(self._restoring) - 1
        result = known.get(APIRequest.of_key(key, self.builder.endpoint.path, slot % self.builder.samples))
        if result is None:
            self._unreadable.add(slot)
            return False
        good = self._fill(slot, result)
        if not good and self.options.retry_failed:
            self.answers.clear(slot)
            return False
        self._count_restored(slot, good)
        return True

    def _restore(self, slot: int, request: APIRequest, known: KnownResults) -> APIRequest | None:
        """The request to send for a row without a usable answer in the journal; None if there is one after all."""
        result = None if slot in self._unreadable else known.get(request)
        if result is None:
            return request
        good = self._fill(slot, result)
        if not good:
            repair = self._repair(result)
            # A parser that raises would raise again: the answer is paid for, and waits for a better parser.
            if repair is not None or self.answers.error_code(slot) != "parse_error":
                self.answers.clear(slot)
                return repair or request
        self._count_restored(slot, good)
        return None

    def _fill(self, slot: int, result: Result) -> bool:
        return self.answers.fill(slot, result)

    def _count_restored(self, slot: int, good: bool) -> None:
        self.status.num_tasks_restored += 1
        self.status.num_tasks_succeeded += good
        self.status.num_tasks_failed += not good
        if good:
            self._judge(slot)

    def _judge(self, slot: int) -> None:
        right = self.answers.is_right(slot)
        if right is not None:
            self.status.num_tasks_judged += 1
            self.status.num_tasks_right += right

    def _take(self, result: Result, journal: Journal) -> Ruling | None:
        """Take the result of a request: first into the journal, then into its cells."""
        status = self.status
        cost = self.answers.cost(result)
        if cost == cost:
            status.cost_usd += cost
        context = result.request.context
        if isinstance(context, Repair):
            status.num_repairs += 1
            is_in_vain = result.status == "failed"
            result = context.in_vain(result) if is_in_vain else context.as_the_rows(result)
        if not result.restored:
            journal.append(result_line(result, record=True, origin=self._written_from))
        slot = self._slots[result.request.key]
        if isinstance(context, Repair) and is_in_vain:
            self.answers.fill(slot, result)
            return None
        good = self.answers.fill(slot, result, cost=cost)
        if good and self.reader.judge is not None:
            self._judge(slot)
        if result.status != "succeeded" or good:
            return None
        repair = self._repair(result)
        return Ruling(further=repair) if repair is not None else reject(self.answers.error_code(slot))

    def _repair(self, result: Result) -> APIRequest | None:
        """The request that may repair a bad answer; None if the tries are used up or it would not help."""
        if not isinstance(result.response, Mapping) or len(result.earlier) >= self._tries:
            return None
        endpoint = self.builder.endpoint
        return make_repair(result, self.reader.reading(result.response), endpoint.read(result.response).text, endpoint)

    def _row_of(self, request: APIRequest) -> APIRequest:
        """The request of the row, or of the first row, that a request asks for."""
        return row_of(request)

    def _finish(self, began: float, ended: str) -> pd.DataFrame:
        for request, attempts in self.status.billed_in_vain.items():  # of rows that the run left
            result = Result(request, "cancelled", attempts=tuple(attempts))
            self.answers.add_billed(self._slots[self._row_of(request).key], result)
        batches = [] if self._batches is None else [self._batches.status_text]
        for key, code, why in chain(self._under_way.unanswered(), *(each.unanswered() for each in batches)):
            if key in self._slots:
                self.answers.cancel(self._slots[key], code, why)
        rest = " ".join(filter(None, [self._under_way.rest(), *(each.rest() for each in batches)]))
        for slot, source in self._distinct.shared:
            self.answers.share(slot, source)
        with self._presses.raising_after_first(), without_garbage_collection():
            answers = self.answers.columns()
            columns = {self.options.prefix + name: values for name, values in answers.items()}
            out = with_columns(self.df, columns)
            if self.options.explode:
                out = explode(out, self.answers.values, self.reader, self.options.prefix)
        report = RunReport.of(
            self.status,
            index=self.df.index,
            answers=answers,
            seconds=time.monotonic() - began,
            ended=ended,
            journal=str(self.journal_path),
            simulated=self.answers.simulated,
            frame=out if self._presses or ended != "finished" else None,
            priced_as=self.answers.priced_as,
        )
        own = {
            "answer": self.reader.name,
            "prefix": self.options.prefix,
            "began": self._began,
            "made": checksums(out, self.options, answers),
            "earlier": earlier_runs(self.df, self.options.prefix + self.reader.name),
        }
        out.attrs[ATTRS] = RunInfo.of({**self.builder.summary(), **self.reader.about, **report.summary(), **own}).dump()
        remember(report)
        self._bar.close(f"{report}. {rest}" if rest else str(report))
        return out

    # What a block of a dataset does in another way.

    def _progress(self) -> Progress:
        return Progress(self.status, self.client, show=self.options.progress)

    def _journal_path(self) -> Path:
        return own_journal(self.builder, self.client.place, self.options.save_to)
