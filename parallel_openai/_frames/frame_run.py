"""One call on a frame, from its rows to its columns: the place where the parts are put together."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from array import array
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from parallel_openai._batch.lane_options import check_lane, sure_tier
from parallel_openai._batch.under_way import UnderWay
from parallel_openai._client.client import Client
from parallel_openai._disk.file_ownership import check_own
from parallel_openai._frames.checked_budget import make_budget
from parallel_openai._frames.columns.answer_columns import COLUMNS, Answers, Reader
from parallel_openai._frames.columns.earlier_columns import sign, without_made
from parallel_openai._frames.columns.explode import CHOICE, check_choices, explode
from parallel_openai._frames.columns.run_info import ATTRS, RunInfo, earlier_runs
from parallel_openai._frames.columns.table import check_frame, check_free, with_columns
from parallel_openai._frames.journal_answers import JournalAnswers
from parallel_openai._frames.journal_path import JOURNAL_FOLDER, USED, journal_path, make_private
from parallel_openai._frames.repair import Repair, check_tries, make_repair
from parallel_openai._frames.reporting.report import RunReport, remember
from parallel_openai._frames.request_builder import RequestBuilder
from parallel_openai._frames.run_options import Options
from parallel_openai._journal.entry import result_line
from parallel_openai._journal.journal import Journal
from parallel_openai._journal.known_results import KnownResults
from parallel_openai._journal.neighbours import Neighbour, neighbours_of
from parallel_openai._journal.origins import Origin, here
from parallel_openai._journal.undelivered import take_in_undelivered
from parallel_openai._loop.background import Interrupted, arun, run
from parallel_openai._loop.interrupts import (
    Interrupts,
    block_new_runs,
    interrupt_with,
    is_interactive,
    recorded_interrupts,
)
from parallel_openai._progress.progress import Progress
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._records import APIRequest, Result, Ruling, reject, replace_by
from parallel_openai._requests.template import BadPromptError
from parallel_openai._run.lane import engine_of
from parallel_openai._run.runner import End
from parallel_openai._run.spending.budget import Budget
from parallel_openai._run.spending.caps import SpendingCaps
from parallel_openai.errors import JournalError, JournalWriteError, RunStoppedError

if TYPE_CHECKING:
    from parallel_openai._batch.batch_run import BatchRun

#: Rows that are looked up before other work of the loop gets its turn.
LOOK_UP_AT_ONCE = 200
#: Seconds that a run which ends early goes on to find out what it knows already, and then to read it.
LEAVE_WITHIN = 0.4


@dataclass
class FrameRun:
    """A frame, what is asked of its rows, and where the answers gather."""

    df: pd.DataFrame
    builder: RequestBuilder
    reader: Reader
    client: Client
    options: Options
    status: StatusTracker = field(default_factory=StatusTracker)

    def __post_init__(self) -> None:
        check_frame(self.df)
        options = self.options
        self._lane = check_lane(
            options.lane, self.builder.params, options.deadline, options.repair, resubmit=options.resubmit
        )
        if self.options.lane == "flex":
            self.builder = replace(self.builder, tier="flex")
        reads = (self.builder.prompt, self.builder.system, *self.builder.metadata, self.reader.about.get("gold"))
        self.df = without_made(self.df, self.options.verb, self.options.prefix, reads)
        self.builder.check(self.df)
        added = [*self.reader.names, *COLUMNS]
        if self.options.explode:
            check_choices(self.builder)
            added.append(CHOICE)
        check_free(self.df, added, self.options.prefix)
        self.client.check_key()
        self._tries = check_tries(self.options.repair)
        self._bounds = SpendingCaps(self.options.budget_usd, self.options.budget_tokens, self.options.deadline)
        self._budget = make_budget(
            self._bounds, self.builder, self.df, self.client.base_url, tier=sure_tier(self.options.lane)
        )
        self._batches: BatchRun | None = None
        self._under_way: UnderWay | None = None
        self._presses, self._ended = Interrupts(), "finished"
        self._began = time.time()
        self.journal_path = self._journal_path()
        self._written_from = self._origin()
        self._engine = engine_of(self.options.lane, self.client, self.journal_path, self._written_from)
        self.answers = Answers(len(self.df), self.builder.samples, self.reader, self.client.base_url)
        self.status.num_tasks_total = len(self.df) * self.builder.samples
        self._slots: dict[str, int] = {}  # the slot that asks for each key
        self._twins: list[tuple[int, int]] = []  # slots that share another's answer
        self._unreadable: set[int] = set()  # slots whose line in the journal turned out to be damaged

    def execute(self) -> pd.DataFrame:
        """Run, and wait for the end. A stop ends the run early; one more leaves at once, and takes no frame along that
        is not put together yet.

        Raises:
            KeyboardInterrupt: it was stopped, and nobody sits there to look at a frame; `.partial` holds it.
        """
        with recorded_interrupts() as self._presses, self._to_its_end() as finish:
            try:
                run(self._work(), self._bar.tick, self._presses, nested=self.client.loop == "running")
            except Interrupted:
                self._ended = "interrupted"
            out = finish()
            if self._presses and not is_interactive():
                raise interrupt_with(out)
            if self._presses:
                block_new_runs(self._presses)
            return out

    async def aexecute(self) -> pd.DataFrame:
        """The same for a caller with a loop of its own.

        Raises:
            asyncio.CancelledError: its task was cancelled; what was finished is in the journal, and in `last_run()`.
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
        """Show how the run goes on; gives what makes the frame at its end."""
        self._bar = self._progress()
        began = time.monotonic()
        try:
            yield lambda: self._finish(self._bar, began, self._ended)
        except (RunStoppedError, JournalWriteError) as error:
            error.partial = self._finish(self._bar, began, "stopped")
            # A notebook shows the whole way that an error came; the way through the engine tells its reader nothing.
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
                        await self._leave_rest(requests)
            except RunStoppedError:
                if len(known):  # else there is nothing to find
                    await self._find_known(requests)
                raise
            finally:
                self.status.num_damaged_lines = known.damaged_lines
                known.close()

    async def _send(
        self, requests: Iterator[APIRequest | None], journal: Journal, known: KnownResults, deadline: float | None
    ) -> End:
        if self._lane is None:
            if not self.options.resubmit:
                under_way = UnderWay(journal.path)
                self._under_way = under_way if under_way.any_waits else None
            ended = await self._engine.process(
                requests,
                on_result=partial(self._take, journal=journal),
                status=self.status,
                budget=self._budget,
                deadline=deadline,
            )
            return "submitted" if ended == "finished" and self._waiting() is not None else ended
        from parallel_openai._batch.batch_run import BatchRun  # a tenth of the package's import

        self._batches = BatchRun(
            self.client,
            journal,
            self._lane,
            on_result=partial(self._take, journal=journal),
            status=self.status,
            record=True,
            identity=lambda key, metadata: key,
            known=lambda key: int(key in known),
            budget=self._budget,
        )
        return await self._batches.run(requests)

    def _waiting(self) -> str | None:
        """What is said of rows that wait in a batch, which another call has submitted."""
        return str(self._under_way) if self._under_way is not None and self._under_way.met else None

    async def _known(self) -> KnownResults:
        return await KnownResults.load(
            self.journal_path,
            failures=not self.options.retry_failed,
            simulated=self.client.is_local,
            place=here(self.client.place).place,
        )

    async def _neighbours(self, known: KnownResults, journal: Journal) -> AsyncIterator[KnownResults]:
        """Journals under other names that answer what this run asks, and the own one does not know."""
        if self.options.save_to is not None:
            return
        origin = here(self.client.place)
        some = self.builder.some_requests(self.df, within=LEAVE_WITHIN)
        for path in neighbours_of(self.journal_path, known, some, origin):
            if path is None:
                await asyncio.sleep(0)
                continue
            with suppress(JournalError):  # it is not this run's business what is wrong with it
                yield await Neighbour.read(path, origin, journal.append, simulated=self.client.is_local)

    def _origin(self) -> Origin | None:
        """Where the answers come from, as it is written beside them."""
        return here(self.client.place)

    async def _leave_rest(self, requests: Iterator[APIRequest | None]) -> None:
        """Send nothing more, and say why of the rows that are left."""
        await self._find_known(requests)
        ended = "budget" if self._batches is not None and self._batches.is_over_budget else self._ended
        if ended != "submitted":
            self.answers.cancel_rest(ended, f"{self._bounds.why(ended)} The same call again goes on from here.")

    async def _find_known(self, requests: Iterator[APIRequest | None]) -> None:
        """What the journal or another row answers costs nothing, and is taken along as far as it is found soon: to
        render what is left of a large frame takes longer than anybody waits for."""
        give_up_at = time.monotonic() + LEAVE_WITHIN
        for number, _ in enumerate(requests):
            if number % LOOK_UP_AT_ONCE == 0:
                await asyncio.sleep(0)
            if time.monotonic() > give_up_at:
                break
        await self._restoring.rest(time.monotonic() + LEAVE_WITHIN)

    def _requests(self, known: KnownResults) -> Iterator[APIRequest | None]:
        """What must be sent; what can be answered from the journal or by another row is put aside on the way.

        What was asked in vain before comes last: where a budget or the time runs out, fresh rows are the better buy.
        """
        again = array("Q")
        for slot, request in self._first_ones(enumerate(self.builder.requests(self.df))):
            if request is None:
                yield None
                continue
            if request.former_key is not None:
                self._call_as_before(slot, request, known)
            status = known.status(request.key)
            if status == "finished":
                self._restoring.put(slot, request.key)
                self.status.num_tasks_to_restore = len(self._restoring)
            elif self._under_way is not None and self._under_way.meet(request.key, request.former_key):
                continue
            elif status == "failed":
                again.append(slot)
            elif self._budget is None or self._may_be_sent(slot, request, self._budget):
                yield request
        while self._restoring:
            self._restoring.some()
            yield None
        again.extend(self._restoring.in_vain)
        for slot, request in self._first_ones(self._made_anew(sorted(again))):
            if request is None:
                yield None
                continue
            self._call_as_before(slot, request, known)
            to_send = self._restore(slot, request, known)
            if to_send is not None and (self._budget is None or self._may_be_sent(slot, to_send, self._budget)):
                yield to_send

    def _first_ones(
        self, requests: Iterable[tuple[int, APIRequest | BadPromptError]]
    ) -> Iterator[tuple[int, APIRequest | None]]:
        """Of the slots' requests those that are sound and ask what none before them does; None now and then."""
        for number, (slot, request) in enumerate(requests, 1):
            if number % LOOK_UP_AT_ONCE == 0:
                yield slot, None
            if isinstance(request, BadPromptError):
                self._reject(slot, request)
                continue
            first = self._slots.setdefault(request.key, slot)
            if first == slot:
                yield slot, request
            else:
                self._twins.append((slot, first))
                self.status.num_tasks_shared += 1

    def _call_as_before(self, slot: int, request: APIRequest, known: KnownResults) -> None:
        """Know the request by its former key if it stands in the journal under that alone."""
        former = request.former_key
        if former is not None and known.was_tried(former) and not known.was_tried(request.key):
            request.key = former
            self._slots[former] = slot

    def _made_anew(self, slots: Sequence[int]) -> Iterator[tuple[int, APIRequest | BadPromptError]]:
        """The requests of these slots, which were not kept, since there may be as many as rows."""
        samples, wanted = self.builder.samples, set(slots)
        rows = list(dict.fromkeys(slot // samples for slot in slots))
        for number, request in enumerate(self.builder.requests(self.df.iloc[rows])):
            slot = rows[number // samples] * samples + number % samples
            if slot in wanted:
                yield slot, request

    def _may_be_sent(self, slot: int, request: APIRequest, budget: Budget) -> bool:
        why = budget.objection(request)
        if why is not None:
            self._reject(slot, BadPromptError("unbounded", why))
        return why is None

    def _reject(self, slot: int, error: BadPromptError) -> None:
        self.answers.reject(slot, error)
        self.status.count_failed(error.code)

    def _read(self, slot: int, key: str, known: KnownResults) -> bool:
        """Take an answer from the journal; gives whether that is all for this row."""
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
        """What must be sent for a row whose answer in the journal, if there is one, is no good."""
        result = None if slot in self._unreadable else known.get(request)
        if result is None:
            return request
        good = self._fill(slot, result)
        if not good:
            repair = self._repair(result)
            # A parser that raises will raise again: the answer is paid for, and waits for a better parser.
            if repair is not None or self.answers.error_code(slot) != "parse_error":
                self.answers.clear(slot)
                return repair or request
        self._count_restored(slot, good)
        return None

    def _fill(self, slot: int, result: Result) -> bool:
        return self.answers.fill(slot, result)

    def _count_restored(self, slot: int, good: bool) -> None:
        self.status.num_tasks_restored += 1
        if good:
            self.status.num_tasks_succeeded += 1
            self._judge(slot)
        else:
            self.status.num_tasks_failed += 1

    def _judge(self, slot: int) -> None:
        right = self.answers.is_right(slot)
        if right is not None:
            self.status.num_tasks_judged += 1
            self.status.num_tasks_right += right

    def _take(self, result: Result, journal: Journal) -> Ruling | None:
        """A request has come to its end: first onto the disk, then into its cells."""
        status = self.status
        cost = self.answers.cost(result)
        if cost == cost:
            status.cost_usd += cost
        mended = result.request.context
        if isinstance(mended, Repair):
            status.num_repairs += 1
            result = mended.as_the_rows(result)
        if not result.restored:
            journal.append(result_line(result, record=True, origin=self._written_from))
        slot = self._slots[result.request.key]
        if isinstance(mended, Repair) and result.status == "failed":
            self.answers.fill(slot, mended.in_vain(result))
            return None
        good = self.answers.fill(slot, result, cost=cost)
        if good and self.reader.judge is not None:
            self._judge(slot)
        if result.status != "succeeded" or good:
            return None
        repair = self._repair(result)
        return replace_by(repair) if repair is not None else reject(self.answers.error_code(slot))

    def _repair(self, result: Result) -> APIRequest | None:
        """The request that may mend a bad answer; None where the tries are used up or it would not help."""
        if not isinstance(result.response, Mapping) or len(result.earlier) >= self._tries:
            return None
        endpoint = self.builder.endpoint
        return make_repair(result, self.reader.reading(result.response), endpoint.read(result.response).text, endpoint)

    def _tell_billed_in_vain(self) -> None:
        """Put what was billed for rows that the run left into their cells."""
        for request, attempts in self.status.billed_in_vain.items():
            result = Result(request, "cancelled", attempts=tuple(attempts))
            self.answers.add_billed(self._slots[self._row_of(request).key], result)

    def _row_of(self, request: APIRequest) -> APIRequest:
        """The request of the row, or of the first one, that another request asks for."""
        return request.context.original if isinstance(request.context, Repair) else request

    def _finish(self, progress: Progress, began: float, ended: str) -> pd.DataFrame:
        self._tell_billed_in_vain()
        rest = self._batches.status_text.rest() if self._batches is not None else self._waiting()
        standing = self._under_way if self._batches is None else self._batches.status_text
        for key, code, why in standing.unanswered() if standing is not None else ():
            if key in self._slots:
                self.answers.cancel(self._slots[key], code, why)
        for slot, source in self._twins:
            self.answers.share(slot, source)
        with self._presses.raising_after_first(), _no_garbage():
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
        info = RunInfo.of({**self.builder.summary(), **self.reader.about, **report.summary()})
        info = replace(
            info,
            answer=self.reader.name,
            prefix=self.options.prefix,
            began=self._began,
            made=sign(out, self.options, answers),
            earlier=earlier_runs(self.df, self.options.prefix + self.reader.name),
        )
        out.attrs[ATTRS] = info.dump()
        remember(report)
        progress.close(str(report) if rest is None else f"{report} {rest}")
        return out

    def _progress(self) -> Progress:
        return Progress(self.status, self.client, show=self.options.progress)

    def _journal_path(self) -> Path:
        try:
            path = journal_path(self.builder, self.client.place, self.options.save_to)
            if self.options.save_to is None:
                make_private(path.parent)
                check_own(path)
            USED.add(os.path.abspath(path))
        except JournalError:
            raise
        except OSError as error:  # also of a working folder that was removed, or is another user's
            raise JournalError(
                f"The folder {JOURNAL_FOLDER} for the answers cannot be made or read: {error.strerror}. Choose a place "
                "for them with save_to=."
            ) from error
        return path


@contextmanager
def _no_garbage() -> Iterator[None]:
    """For making millions of cells: looking for garbage among them again and again takes as long as making them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
