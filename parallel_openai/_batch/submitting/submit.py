"""Submits parts as batches. Each step is recorded in the journal before and after it."""

from __future__ import annotations

import time

from parallel_openai._batch.batch_api import BatchAPI
from parallel_openai._batch.batch_state import Part, live_parts, step, write
from parallel_openai._batch.collecting.download_bounds import EXTRA_BYTES
from parallel_openai._batch.part_failures import LostError
from parallel_openai._batch.server_batch import ServerBatch
from parallel_openai._batch.submitting.input_files import InputFiles
from parallel_openai._journal.journal import Journal
from parallel_openai._journal.origins import writer
from parallel_openai._log import log
from parallel_openai._printable import printable

#: Seconds before each search of the server's list for a batch that was requested before a crash: the request may still
#: be in transit, and the list may lag behind. They run from now, since the clock may have been set since the request.
SEARCH_DELAYS = (0.0, 5.0, 2.5, 2.5)


class Submitter:
    """Submits each part exactly once, whatever crashes in between."""

    def __init__(self, api: BatchAPI, journal: Journal, input_files: InputFiles) -> None:
        self._api, self._journal, self._input_files = api, journal, input_files
        self._began, self._is_cancelled = time.time(), False

    def is_cancelled(self, part: Part) -> bool:
        """Whether `cancel_batches` cancelled the part, in this or another process."""
        self._is_cancelled = self._is_cancelled or self._input_files.is_cancelled(self._began)
        return self._input_files.is_cancelled(part.planned_at) if part.earlier else self._is_cancelled

    async def submit(self, part: Part) -> ServerBatch:
        """Upload the part if necessary and return its new batch, or the one that an earlier attempt created."""
        if part.creating_at and (batch := await self._find_created(part)) is not None:
            return batch
        if part.file_id is None:
            file = self._input_files.path(part.name)
            if not file.exists():
                raise LostError(f"The input file {file} no longer exists.")
            part.file_id = await self._api.upload(file, f"parallel_openai-{part.name}.jsonl", part.bytes)
            write(self._journal, [step(part, "uploaded", file_id=part.file_id)])
        part.submission += 1
        mark = f"{part.name}.{part.submission}"
        try:
            batch = await self._api.create(
                part.file_id, part.path, mark, part.former, on_send=lambda: self._note_creating(part)
            )
        except LostError:
            self.refused(part)
            raise
        self._created(part, batch)
        return batch

    def _note_creating(self, part: Part) -> None:
        """Record each attempt, since the last may be long after the first, and the list may lag behind it."""
        part.creating_at = time.time()
        write(self._journal, [step(part, "creating", submission=part.submission, creating_at=part.creating_at)])

    def refused(self, part: Part) -> None:
        """Record that the server refused the part's batch; it is to be created again later."""
        part.former = [*part.former, *([part.batch_id] if part.batch_id else [])]
        part.batch_id, part.batch, part.creating_at = None, None, 0.0
        write(self._journal, [step(part, "refused", batch_id=None, creating_at=0.0, former=part.former)])

    def earlier(self) -> list[Part]:
        """The parts of earlier calls whose answers are not all in the journal."""
        found = live_parts(self._journal.path)
        self._input_files.tidy({part.name for part in found})
        return found

    async def recover(self, part: Part, *, claim_all: bool) -> bool:
        """Restore a part of an earlier call; returns False if it was dropped instead.

        Args:
            claim_all: keep parts that were not submitted, and need the metadata of their rows. Otherwise such parts
                are dropped, which have cost nothing, and the call itself provides the metadata.

        Raises:
            LostError: it was not submitted and somebody else planned it, or its files are damaged.
        """
        if part.batch_id is None:
            created = await self._find_created(part) if part.creating_at else None
            keep = claim_all and self._input_files.holds(part.name)
            if created is None and (not keep or self._input_files.is_cancelled(part.planned_at)):
                write(self._journal, [step(part, "dropped")])
                self._input_files.remove(part.name)
                return False
            if created is None and part.writer != writer():  # as in a folder that was copied
                who = printable(part.writer) or "somebody else"
                raise LostError(
                    f"{part.requests:,} rows were planned by {who} and never submitted; they would be billed to this "
                    "account. The same call as theirs submits its rows itself."
                )
        if not self._input_files.knows_rows(part.name):
            if claim_all and part.has_metadata:
                self._report_lost_metadata(part)
            if not self._input_files.is_complete(part.name, part.requests):
                await self._fetch(part)
        return True

    async def _find_created(self, part: Part) -> ServerBatch | None:
        """The part's batch, if the server has one whose id was never recorded."""
        batch = await self._api.find(part.file_id, part.name, part.former, SEARCH_DELAYS)
        if batch is not None:
            self._created(part, batch)
        return batch

    def _report_lost_metadata(self, part: Part) -> None:
        lost = (
            f"The folder {self._input_files.folder} is missing or incomplete. It holds the metadata of the requests in "
            "batches, which the server does not have."
        )
        if not part.record:
            raise LostError(f"{lost} Restore it beside the results file, or repeat the call with the requests file.")
        log.warning("%s A call with the frame restores it.", lost)

    async def _fetch(self, part: Part) -> None:
        """Download the input file, since the folder of the parts is missing."""
        batch = await self._api.get(str(part.batch_id))
        file_id = batch.input_file_id or part.file_id
        if file_id is None:
            raise LostError(
                f"The folder {self._input_files.folder} is missing, and {part.batch_id} does not name its input file."
            )
        self._input_files.make_folder()
        await self._api.download(file_id, self._input_files.path(part.name), part.bytes + EXTRA_BYTES)

    def _created(self, part: Part, batch: ServerBatch) -> None:
        part.batch_id, part.file_id = batch.id, batch.input_file_id or part.file_id
        write(self._journal, [step(part, "created", batch_id=part.batch_id, file_id=part.file_id)])
