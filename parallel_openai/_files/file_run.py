"""A run from a requests file to a results file."""

from __future__ import annotations

import asyncio
import logging
import math
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from parallel_openai._arguments import path_of
from parallel_openai._batch.batch_run import BatchRun
from parallel_openai._batch.lane_options import BatchLane, Lane, check_lane, sure_tier
from parallel_openai._batch.under_way import UnderWay
from parallel_openai._client.client import Client
from parallel_openai._client.default_client import client_for
from parallel_openai._disk.file_ownership import check_own
from parallel_openai._files.cookbook import FileStatus
from parallel_openai._files.endpoint_url import split_url
from parallel_openai._files.known_lines import NOTHING_KNOWN, KnownLines
from parallel_openai._files.left_over import LeftOver
from parallel_openai._files.requests_file import Line, RequestsFile, not_json, parse_request
from parallel_openai._frames.parameters import SECRET
from parallel_openai._journal.entry import result_line
from parallel_openai._journal.journal import Journal
from parallel_openai._journal.origins import here
from parallel_openai._log import log
from parallel_openai._loop.background import Interrupted, arun, run
from parallel_openai._loop.interrupts import interrupt_with, recorded_interrupts
from parallel_openai._printable import printable
from parallel_openai._progress.progress import Progress
from parallel_openai._progress.status_tracker import about_busy_server, about_open_requests
from parallel_openai._records import APIRequest, Result, Ruling, Size, ruling_of
from parallel_openai._requests.encodings import get_encoding
from parallel_openai._requests.endpoints import ALL_CAPS, path_for
from parallel_openai._requests.tokens import request_size
from parallel_openai._run.response_verdict import failed_if_empty
from parallel_openai._run.spending.budget import Budget, cost_of
from parallel_openai._run.spending.caps import SpendingCaps
from parallel_openai._run.spending.worst_case import has_media, reads_unseen
from parallel_openai.errors import InvalidInputError, JournalWriteError, RunStoppedError

#: Lines that are skipped as known before other tasks of the loop get a turn.
_LINES_PER_TURN = 1000
#: The parameters that determine a request's highest cost, apart from its prompt and what the model reads elsewhere.
_PRICED_BY = ("model", "models", "service_tier", "modalities", "audio", "n", "best_of", *ALL_CAPS)
RESUMES = "The same call resumes from there"
_ENDINGS = {
    "finished": "Done",
    "submitted": "Submitted",
    "stopped": "Stopped",
    "interrupted": f"Interrupted. {RESUMES}",
}


class FileRun:
    """One call: the two files, the client, and the counts."""

    def __init__(
        self,
        requests_filepath: str | os.PathLike[str],
        save_filepath: str | os.PathLike[str] | None,
        request_url: str | None,
        api_key: str | None,
        max_requests_per_minute: float | None,
        max_tokens_per_minute: float | None,
        token_encoding_name: str,
        max_attempts: int,
        logging_level: int,
        *,
        progress: bool,
        client: Client | None,
        budget_usd: float | None,
        budget_tokens: int | None,
        deadline: float | None,
        lane: Lane,
        resubmit: bool,
        resume_from_anywhere: bool,
    ) -> None:
        self.bounds = SpendingCaps(budget_usd, budget_tokens, deadline)
        self.lane = check_lane(lane, {}, deadline, repair=False, resubmit=resubmit)
        if self.lane is None and lane != "online":
            raise InvalidInputError(
                'lane must be online or batch; for flex, write "service_tier": "flex" into the bodies.'
            )
        self._resubmit = resubmit
        self._under_way: UnderWay | None = None
        self.rest: str | None = None
        self._logging_level = _checked_level(logging_level)
        self.source = RequestsFile(path_of(requests_filepath, "requests_filepath"))
        self.target = (
            default_results(self.source.path) if save_filepath is None else path_of(save_filepath, "save_filepath")
        )
        if self.target.suffix in (".gz", ".zst"):
            raise InvalidInputError(
                f"save_filepath is {self.target}, but results are not compressed: leave out the suffix."
            )
        if os.path.exists(self.target) and self.target.samefile(self.source.path):
            raise InvalidInputError(f"save_filepath is the requests file itself: {self.target}. Choose another.")
        base_url: str | None = None
        self.path: str | None = None  # None: each line has its own endpoint
        if request_url is not None:
            base_url, self.path = split_url(request_url)
        get_encoding(str(token_encoding_name))  # raises if there is no such encoding
        self.encoding = token_encoding_name
        self.client = (
            client_for(client)
            if client is not None
            else Client(
                base_url,
                api_key,
                max_requests_per_minute=max_requests_per_minute,
                max_tokens_per_minute=max_tokens_per_minute,
                max_attempts=max_attempts,
            )
        )
        self.client.check_key()
        self._origin = here(self.client.place)
        self._from = None if resume_from_anywhere else self._origin.place
        self._price = self.client.price
        self.budget = self.bounds.budget(self._price, sure_tier(lane))
        self.status = FileStatus()
        self._unpriced: dict[str, None] = {}  # models without a known price that answered
        self._read_to_end = False
        self._show, self._is_own_client = progress, client is None

    def execute(self) -> FileStatus:
        with recorded_interrupts() as interrupts:
            try:
                with self._displayed() as bar:
                    run(self.work(), bar.tick, interrupts, nested=self.client.loop == "running")
            except Interrupted:
                raise interrupt_with(self.status) from None
            if interrupts:
                raise interrupt_with(self.status)
        return self.status

    async def aexecute(self) -> FileStatus:
        try:
            with self._displayed() as bar:
                await arun(self.work(), bar.tick, nested=self.client.loop == "running")
        except Interrupted as stop:
            raise asyncio.CancelledError(*stop.args) from None
        return self.status

    @contextmanager
    def _displayed(self) -> Iterator[Progress]:
        """Show the progress of the run and, however it ends, its closing line; the logger has the call's level."""
        bar, line = Progress(self.status, self.client, show=self._show, unit="request"), ""
        level = log.level
        try:
            log.setLevel(self._logging_level)
            yield bar
            line = self.closing_line()
        except Interrupted:
            self.status.ended = "interrupted"
            line = self.closing_line()
            raise
        except (RunStoppedError, JournalWriteError) as error:
            self.status.ended = "stopped"
            error.partial = self.status
            line = self.closing_line()
            raise
        finally:
            log.setLevel(level)
            bar.close(line)
            if self._is_own_client:
                self.client.close()

    async def work(self) -> None:
        counting = asyncio.get_running_loop().create_task(self._count_lines())
        try:
            await self._work(self.client.clock())
        finally:
            counting.cancel()

    async def _work(self, began: float) -> None:
        if self.budget is not None:
            await self._check_caps(self.budget)
        with Journal(self.target, sync=self.client.sync, origin=self._origin) as journal:
            if self.lane is not None:
                await self._work_in_batches(self.lane, journal)
                return
            if not self._resubmit:
                self._under_way = UnderWay(self.target)
            self.status.ended = await self.client.process(
                journal.before_sending(self._requests(await self._known(), journal)),
                on_result=lambda result: self._take(result, journal),
                status=self.status,
                budget=self.budget,
                deadline=self.bounds.until(began),
            )
            if self._under_way is not None and self._under_way.met:
                self.rest = self._under_way.rest()
                self.status.ended = "submitted" if self.status.ended == "finished" else self.status.ended

    async def _work_in_batches(self, lane: BatchLane, journal: Journal) -> None:
        known = await self._known()
        batches = BatchRun(
            self.client,
            journal,
            lane,
            on_result=lambda result: self._take(result, journal),
            status=self.status,
            record=False,
            budget=self.budget,
        )
        try:
            self.status.ended = await batches.run(journal.before_sending(self._requests(known, journal)))
        finally:
            self.rest = batches.status_text.rest()
            if self.rest is not None and batches.is_over_budget:
                self.rest = f"{self.bounds.why('budget')} {self.rest}"

    def closing_line(self) -> str:
        status = self.status
        parts = [f"{status.num_tasks_succeeded:,} succeeded", f"{status.num_tasks_failed:,} failed"]
        if status.num_tasks_restored:
            parts.append(f"{status.num_tasks_restored:,} known already")
        if status.num_rate_limit_errors:
            parts.append(f"{status.num_rate_limit_errors:,} rate-limit refusals waited out")
        if status.num_busy_errors:
            parts.append(about_busy_server(status.num_busy_errors))
        if status.timeline.most_at_once:
            parts.append(f"{status.timeline.most_at_once} at once is what this server takes")
        if status.num_requests_left:
            parts.append(f"{status.num_requests_left:,} left in flight, which the server may bill")
        if status.most_open_requests is not None:
            parts.append(about_open_requests(status.most_open_requests))
        if self._unpriced:
            parts.append(f"cost not known (no price for {', '.join(map(printable, [*self._unpriced][:3]))})")
        parts += [] if self.rest is None else [self.rest.removesuffix(".")]
        how = _ENDINGS.get(status.ended) or f"{self.bounds.why(status.ended)} {RESUMES}"
        faster = status.timeline.advice
        advice = f" {faster}." if faster is not None else ""
        return f"{how}: {', '.join(parts)}.{advice} Results: {self.target}"

    async def _check_caps(self, budget: Budget) -> None:
        """Check, before anything is sent, that each request has a highest cost."""
        good: tuple[str, dict[str, Any]] | None = None  # endpoint and caps of the previous line, mostly the same
        for number, _, line in self.source.lines():
            if number % _LINES_PER_TURN == 0:
                await asyncio.sleep(0)
            try:
                body, metadata, path = parse_request(line)
                caps = {name: body[name] for name in _PRICED_BY if name in body}
                if (path or path_for(body), caps) == good and reads_unseen(body) is None and not has_media(body):
                    continue
                request = self._request(body, metadata, path, number)
            except ValueError:
                continue  # it is rejected later, with its line number
            request.size = request_size(caps, self.encoding, request.path)
            if (objection := budget.objection(request)) is not None:
                raise InvalidInputError(f"Line {number} of {self.source.path}: {objection}")
            good = path or path_for(body), caps

    async def _count_lines(self) -> None:
        """Count the lines for the remaining time; the run does not wait for it."""
        total = 0
        for lines in self.source.counts():
            total += lines
            await asyncio.sleep(0)
        if not self._read_to_end:
            self.status.num_tasks_total = total

    async def _known(self) -> KnownLines:
        known = await KnownLines.load(self.target, simulated=self.client.is_local, place=self._from)
        self.status.num_damaged_lines += known.damaged_lines
        for writer, count in known.by_others.items():
            log.warning("%s: %s of the answers in it were written by %s.", self.target, f"{count:,}", printable(writer))
        return known

    def _requests(self, known: KnownLines, journal: Journal) -> Iterator[APIRequest | None]:
        """The requests to send: first the new ones, then those that failed before.

        Lines whose request is answered with other metadata alone take what is left over once all lines are read.
        """
        later = {"answered": array("Q"), "failed": array("Q")}  # line numbers and byte offsets, alternating
        yield from self._read(self._counted(self.source.lines()), known, later)
        if later["answered"]:
            left_over = LeftOver(known, journal.append)
            yield from left_over.find()
            yield from self._read(self._lines_at(later["answered"]), left_over, later)
        yield from self._read(self._lines_at(later["failed"]), NOTHING_KNOWN, later)

    def _lines_at(self, positions: array[int]) -> Iterator[Line]:
        return self.source.lines_at(zip(positions[::2], positions[1::2], strict=True))

    def _counted(self, lines: Iterator[Line]) -> Iterator[Line]:
        """The lines, keeping the total up to date."""
        status, count = self.status, 0
        for count, line in enumerate(lines, 1):
            if status.num_tasks_total is not None and count > status.num_tasks_total:
                status.num_tasks_total = None  # the file is still growing
            yield line
        self._read_to_end = True
        status.num_tasks_total = count

    def _read(
        self, lines: Iterable[Line], known: KnownLines | LeftOver, later: Mapping[str, array[int]]
    ) -> Iterator[APIRequest | None]:
        """The requests of new lines, with None now and then among known ones. Lines in a state of `later` are added
        there."""
        status = self.status
        for number, offset, line in lines:
            try:
                body, metadata, path = parse_request(line)
                state = known.take(body, metadata, self._path_of(body, path))
                request = self._request(body, metadata, path, number) if state != "good" else None
            except ValueError as error:
                self._reject(number, line, str(error))
                continue
            if request is not None and self._waits_in_batch(request):
                yield None
            elif state in later:
                later[state].extend((number, offset))
            elif request is not None:
                yield request
            else:
                status.num_tasks_restored += 1
                status.num_tasks_succeeded += 1
                if status.num_tasks_restored % _LINES_PER_TURN == 0:
                    yield None

    def _request(self, body: dict[str, Any], metadata: Any, path: str | None, number: int) -> APIRequest:
        try:
            request = APIRequest(body, metadata, path=self._path_of(body, path))
        except TypeError as error:
            raise not_json(error) from None
        request.request_json = body  # no copy: it was parsed from the line and is not shared
        request.measure, request.context = self._measure, number
        return request

    def _path_of(self, body: dict[str, Any], path: str | None) -> str:
        """The endpoint of a line: its own, or the call's, or else the one that fits."""
        return path or self.path or path_for(body)

    def _waits_in_batch(self, request: APIRequest) -> bool:
        if self._under_way is None:
            return False
        return self._under_way.meet(request.key, request.former_key)

    def _measure(self, request: APIRequest) -> Size:
        return request_size(request.request_json, self.encoding, request.path)

    def _take(self, result: Result, journal: Journal) -> Ruling:
        self._count_cost(result)
        result = failed_if_empty(result)
        if result.status == "failed":
            number = result.request.context
            line = "A line" if number is None else f"Line {number}"
            log.warning("%s of %s failed (%s): %s", line, self.source.path, result.error_code, result.error)
        if not result.restored:
            journal.append(result_line(result, record=False))
        return ruling_of(result)

    def _count_cost(self, result: Result) -> None:
        if result.usage is not None:
            cost, model = cost_of(self._price, result.response, result.usage, result.request)
            if math.isnan(cost):
                self._unpriced[model] = None
            else:
                self.status.cost_usd += cost

    def _reject(self, number: int, line: bytes, reason: str) -> None:
        """Log and count an invalid line. There is no request to write to the results."""
        start = line[:80].decode(errors="replace").strip()
        if any(name in start for name in SECRET):  # keys are never logged
            start = "..."
        log.error("Line %d of %s is not sent: %s It begins: %s", number, self.source.path, reason, start)
        self.status.count_failed("invalid_line")


def _checked_level(logging_level: int) -> int:
    try:
        return logging.Handler(logging_level).level
    except (TypeError, ValueError):
        raise InvalidInputError(
            f"logging_level must be one of logging's levels, such as logging.WARNING (30), not {logging_level!r:.200}."
        ) from None


def default_results(source: Path) -> Path:
    name = source.name.removesuffix(".gz").removesuffix(".zst").removesuffix(".jsonl")
    target = source.with_name(f"{name}_results.jsonl")
    check_own(target, "Remove it, or name another file for the results.")
    return target
