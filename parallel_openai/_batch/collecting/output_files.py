"""Reads the files of an ended batch: first the answers; then, once no more are expected, the failures."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from typing import IO, NamedTuple

from parallel_openai._batch.batch_api import BatchAPI
from parallel_openai._batch.batch_state import Part
from parallel_openai._batch.collecting.download_bounds import EXTRA_BYTES, MAX_ANSWER_BYTES
from parallel_openai._batch.collecting.output_lines import (
    Outcome,
    missing,
    read_line,
    read_lines,
    read_outcome,
    refused,
    unreadable,
)
from parallel_openai._batch.part_failures import MAX_INCOMPLETE_CHECKS, MAX_LOST_CHECKS, IncompleteError, LostError
from parallel_openai._batch.server_batch import ServerBatch
from parallel_openai._batch.submitting.input_files import InputFiles, Row, RowInfo, read_row
from parallel_openai._log import log
from parallel_openai.errors import RunStoppedError

#: Rows that are read or written before other tasks of the loop get a turn.
ROWS_PER_TURN = 100
#: The most lines read from a file for each row of the batch, blank ones included.
MAX_LINES_PER_ROW = 100
Settle = Callable[[Part, Row, Outcome], None]


class _LineRef(NamedTuple):
    """The position of a line that is not an answer."""

    kind: str
    offset: int


class _Reading:
    """What was read from the files of a batch so far."""

    def __init__(self, infos: dict[str, RowInfo], answered: set[str]) -> None:
        self.all = infos  # the rows
        self.open = {name: info for name, info in infos.items() if name not in answered}  # those without an answer
        self.failures: dict[str, _LineRef] = {}  # for rows in `open`, the first line about each
        self.in_output = set(answered)  # rows with a response in the output file
        self.unreadable = Counter[str]()  # the number of lines in each file that do not name their row
        self.is_damaged = False  # whether there is an answer whose request is lost
        self.files: dict[str, IO[bytes]] = {}  # the open files by kind; `input` has the requests

    @property
    def unmentioned(self) -> int:
        """The number of rows in neither file."""
        return len(self.open) - len(self.failures)

    def checks(self, batch: ServerBatch) -> float:
        """The number of checks after which no more answers are expected."""
        if not self.open:
            return 0
        counts = batch.counts
        is_unclear = 0 < self.unmentioned <= self.unreadable.total()
        if counts is None or counts.total != len(self.all) or counts.completed + counts.failed > counts.total:
            may_be_all = is_unclear or batch.status != "completed"
            return 0 if not self.unmentioned else MAX_INCOMPLETE_CHECKS if may_be_all else math.inf
        if len(self.in_output) + self.unreadable["output"] < counts.completed:
            # A row that the server counts as completed but reports as failed elsewhere has failed.
            return math.inf if self.unmentioned else MAX_INCOMPLETE_CHECKS
        if is_unclear:
            return MAX_INCOMPLETE_CHECKS
        if self.unmentioned == 0 or batch.status != "completed":
            return 0
        return MAX_LOST_CHECKS if counts.completed + counts.failed == counts.total else math.inf


class OutputFiles:
    """Downloads and reads the files of ended batches.

    Args:
        settle: takes a row's outcome.
    """

    def __init__(self, api: BatchAPI, input_files: InputFiles, settle: Settle) -> None:
        self._api, self._input_files, self._settle = api, input_files, settle

    async def collect(self, part: Part, batch: ServerBatch) -> None:
        """Pass on all outcomes.

        Raises:
            IncompleteError: more answers are expected. Those there were passed on.
            LostError: a file is missing or too long. The answers that could be read were passed on.
        """
        reading = _Reading(self._input_files.row_infos(part.name), part.answered)
        with ExitStack() as stack:
            reading.files["input"] = stack.enter_context(self._input_files.open(part.name))
            lost = [error async for error in self._read(part, batch, reading, stack)]
            check = 1 if part.failure is None else part.failure.checks + 1  # the number of this check
            if reading.is_damaged or check < reading.checks(batch):
                raise lost[0] if lost else IncompleteError(_incomplete(batch, reading))
            await self._settle_rest(part, batch, reading)

    async def _read(
        self, part: Part, batch: ServerBatch, reading: _Reading, stack: ExitStack
    ) -> AsyncIterator[RunStoppedError]:
        """Read the answers of both files; yields a file's error, so that the other file is read all the same."""
        max_bytes = EXTRA_BYTES + (part.answer_bytes or part.requests * MAX_ANSWER_BYTES)
        for kind, file_id in (("output", batch.output_file_id), ("error", batch.error_file_id)):
            if file_id is None:
                continue
            path = self._input_files.path(part.name, kind)
            try:
                if not await self._api.download(file_id, path, max_bytes):
                    rows = f"{part.requests:,} rows of batch {batch.id}"
                    yield LostError(
                        f"The file {file_id} is longer than the answers to {rows} can be ({max_bytes:,} bytes)."
                    )
            except RunStoppedError as error:
                yield error
                continue
            reading.files[kind] = stack.enter_context(self._input_files.open(part.name, kind))
            async for damage in self._take_answers(part, batch, kind, reading):
                yield damage

    async def _take_answers(
        self, part: Part, batch: ServerBatch, kind: str, reading: _Reading
    ) -> AsyncIterator[LostError]:
        """Pass on the answers of a file; yields the error of each whose request is lost."""
        for number, (offset, line) in enumerate(read_lines(reading.files[kind], len(reading.all) * MAX_LINES_PER_ROW)):
            if number % ROWS_PER_TURN == 0:
                await asyncio.sleep(0)
            if line is None:
                reading.unreadable[kind] += 1
                continue
            name = line["custom_id"]
            if kind == "output" and name in reading.all and line.get("response") is not None:
                reading.in_output.add(name)
            if name not in reading.open:  # not one of the batch's rows, or already answered
                continue
            outcome = read_outcome(line, batch)
            if outcome.answer is None:
                reading.failures.setdefault(name, _LineRef(kind, offset))
                continue
            try:
                row = read_row(reading.files["input"], name, reading.open[name], part.path)
            except LostError as error:
                reading.is_damaged = True
                yield error
                continue
            del reading.open[name]
            reading.failures.pop(name, None)
            part.answered.add(name)
            self._settle(part, row, outcome)

    async def _settle_rest(self, part: Part, batch: ServerBatch, reading: _Reading) -> None:
        at_fault = batch.at_fault()
        for number, name in enumerate(reading.all, 1):
            if number % ROWS_PER_TURN == 0:
                await asyncio.sleep(0)
            if name not in reading.open:
                continue
            try:
                row = read_row(reading.files["input"], name, reading.open[name], part.path)
            except LostError as error:  # no answer either, so nothing billed is lost
                log.warning("%s", error)
                continue
            if name in reading.failures:
                outcome = _read_again(reading, name, batch)
            elif number in at_fault:
                outcome = refused(batch, at_fault[number])
            else:
                outcome = unreadable(batch) if reading.unreadable["output"] else missing(batch)
            self._settle(part, row, outcome)


def _read_again(reading: _Reading, name: str, batch: ServerBatch) -> Outcome:
    kind, offset = reading.failures[name]
    reading.files[kind].seek(offset)
    line = read_line(reading.files[kind].readline())
    return unreadable(batch) if line is None else read_outcome(line, batch)


def _incomplete(batch: ServerBatch, reading: _Reading) -> str:
    reported = "" if batch.counts is None else f" (reporting {batch.counts.completed:,} answers)"
    missing = reading.unmentioned or len(reading.open)
    return (
        f"Batch {batch.id} is {batch.status}{reported}, but its files lack the outcome of {missing:,} of its "
        f"{len(reading.all):,} rows."
    )
