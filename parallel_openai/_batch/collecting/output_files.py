"""The files of a batch that has ended: first the answers; then, if nothing more is to come, what is no answer."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from typing import IO, NamedTuple

from parallel_openai._batch.batch_api import BatchAPI
from parallel_openai._batch.batch_state import Part
from parallel_openai._batch.collecting.download_bounds import BESIDE, MOST_OF_ALL
from parallel_openai._batch.collecting.output_lines import (
    Outcome,
    missing,
    read_line,
    read_lines,
    read_outcome,
    refused,
    unreadable,
)
from parallel_openai._batch.part_failures import LOST_LOOKS, SHORT_LOOKS, LostError, NotWholeError
from parallel_openai._batch.server_batch import ServerBatch
from parallel_openai._batch.submitting.input_files import InputFiles, Place, Row, read_row
from parallel_openai._log import log
from parallel_openai.errors import RunStoppedError

#: Rows that are read or written before other work of the loop gets its turn.
AT_ONCE = 100
#: Lines in a file for each row of the batch, the blank ones too, that are read at the most.
LINES_OF_A_ROW = 100
Settle = Callable[[Part, Row, Outcome], list[Part]]


class _Word(NamedTuple):
    """Where a line stands that is no answer."""

    kind: str
    offset: int


class _Reading:
    """What the files of a batch say so far.

    Attributes:
        all: the rows.
        open: those without an answer.
        words: what is said of them, the first word of each.
        in_output: rows with a response in the output.
        unreadable: lines in each file that do not say of which row they are.
        is_damaged: an answer is there whose request is not.
        files: the files while they are read, and what was asked among them.
    """

    def __init__(self, places: dict[str, Place], taken: set[str]) -> None:
        self.all = places
        self.open = {name: place for name, place in places.items() if name not in taken}
        self.words: dict[str, _Word] = {}
        self.in_output = set(taken)
        self.unreadable = Counter[str]()
        self.is_damaged = False
        self.files: dict[str, IO[bytes]] = {}

    @property
    def silent(self) -> int:
        """How many rows nothing was said of."""
        return len(self.open) - len(self.words)

    def looks(self, batch: ServerBatch) -> float:
        """How often to look before it is believed that no more answers are to come."""
        if not self.open:
            return 0
        counts = batch.counts
        is_unclear = 0 < self.silent <= self.unreadable.total()
        if counts is None or counts.total != len(self.all) or counts.completed + counts.failed > counts.total:
            may_be_all = is_unclear or batch.status != "completed"
            return 0 if not self.silent else SHORT_LOOKS if may_be_all else math.inf
        if len(self.in_output) + self.unreadable["output"] < counts.completed:
            # A row that the server counts as done and says at another place to have failed, is one that failed.
            return math.inf if self.silent else SHORT_LOOKS
        if is_unclear:
            return SHORT_LOOKS
        if self.silent == 0 or batch.status != "completed":
            return 0
        return LOST_LOOKS if counts.completed + counts.failed == counts.total else math.inf


class OutputFiles:
    """Reads what batches gave.

    Args:
        settle: hands a row's outcome over; gives the parts that became full by it.
    """

    def __init__(self, api: BatchAPI, input_files: InputFiles, settle: Settle) -> None:
        self._api, self._input_files, self._settle = api, input_files, settle
        self._taken: dict[str, set[str]] = {}

    def taken(self, part: Part) -> int:
        """How many of its rows were answered, of a part whose files are not whole yet."""
        return len(self._taken.get(part.name, ()))

    def forget(self, part: Part) -> None:
        self._taken.pop(part.name, None)

    async def collect(self, part: Part, batch: ServerBatch, look: int) -> list[Part]:
        """Hand over all that the batch says; gives the parts that became full by what is to be sent again.

        Args:
            look: the number of this look at its files.

        Raises:
            NotWholeError: there is more to come. The answers were handed over.
            LostError: a file of it cannot be had, or is longer than it may be. Again the answers were handed over.
        """
        reading = _Reading(self._input_files.places(part.name), self._taken.setdefault(part.name, set()))
        with ExitStack() as stack:
            reading.files["asked"] = stack.enter_context(self._input_files.open(part.name))
            lost = [error async for error in self._read(part, batch, reading, stack)]
            if reading.is_damaged or look < reading.looks(batch):
                raise lost[0] if lost else NotWholeError(_not_whole(batch, reading))
            return await self._take_rest(part, batch, reading)

    async def _read(
        self, part: Part, batch: ServerBatch, reading: _Reading, stack: ExitStack
    ) -> AsyncIterator[RunStoppedError]:
        """Take the answers out of both files; gives what was wrong with a file, so that the other is read all the
        same."""
        most = BESIDE + (part.answer_bytes or part.requests * MOST_OF_ALL)
        for kind, file_id in (("output", batch.output_file_id), ("error", batch.error_file_id)):
            if file_id is None:
                continue
            place = self._input_files.place(part.name, kind)
            try:
                if not await self._api.download(file_id, place, most):
                    rows = f"{part.requests:,} rows of batch {batch.id}"
                    yield LostError(f"The file {file_id} is longer than the answers to {rows} can be ({most:,} bytes).")
            except RunStoppedError as error:
                yield error
                continue
            reading.files[kind] = stack.enter_context(self._input_files.open(part.name, kind))
            async for damage in self._take_answers(part, batch, kind, reading):
                yield damage

    async def _take_answers(
        self, part: Part, batch: ServerBatch, kind: str, reading: _Reading
    ) -> AsyncIterator[LostError]:
        """Hand the answers over; gives why it could not be done with some."""
        for number, (offset, line) in enumerate(read_lines(reading.files[kind], len(reading.all) * LINES_OF_A_ROW)):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
            if line is None:
                reading.unreadable[kind] += 1
                continue
            name = line["custom_id"]
            if kind == "output" and name in reading.all and line.get("response") is not None:
                reading.in_output.add(name)
            if name not in reading.open:  # none of ours, or it was told of twice
                continue
            outcome = read_outcome(line, batch)
            if outcome.answer is None:
                reading.words.setdefault(name, _Word(kind, offset))
                continue
            try:
                row = read_row(reading.files["asked"], name, reading.open[name], part.path)
            except LostError as error:
                reading.is_damaged = True
                yield error
                continue
            del reading.open[name]
            reading.words.pop(name, None)
            self._taken[part.name].add(name)
            self._settle(part, row, outcome)

    async def _take_rest(self, part: Part, batch: ServerBatch, reading: _Reading) -> list[Part]:
        at_fault = batch.at_fault()
        new: list[Part] = []
        for number, name in enumerate(reading.all, 1):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
            if name not in reading.open:
                continue
            try:
                row = read_row(reading.files["asked"], name, reading.open[name], part.path)
            except LostError as error:  # there is no answer, so what is lost here is not paid for
                log.warning("%s", error)
                continue
            if name in reading.words:
                outcome = _read_again(reading, name, batch)
            elif number in at_fault:
                outcome = refused(batch, at_fault[number])
            else:
                outcome = unreadable(batch) if reading.unreadable["output"] else missing(batch)
            new += self._settle(part, row, outcome)
        return new


def _read_again(reading: _Reading, name: str, batch: ServerBatch) -> Outcome:
    kind, offset = reading.words[name]
    reading.files[kind].seek(offset)
    line = read_line(reading.files[kind].readline())
    return unreadable(batch) if line is None else read_outcome(line, batch)


def _not_whole(batch: ServerBatch, reading: _Reading) -> str:
    told = "" if batch.counts is None else f" (it says that {batch.counts.completed:,} were answered)"
    left = reading.silent or len(reading.open)
    return (
        f"Batch {batch.id} is {batch.status}{told}, and its files do not say what became of {left:,} of its "
        f"{len(reading.all):,} rows."
    )
