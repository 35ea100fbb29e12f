"""From a part on the disk to a batch at the server: each step is in the journal before and after it is done."""

from __future__ import annotations

import time
from itertools import pairwise

from parallel_openai._batch.batch_api import BatchAPI, Sleep
from parallel_openai._batch.batch_state import Part, live_parts, step, write
from parallel_openai._batch.collecting.download_bounds import BESIDE
from parallel_openai._batch.part_failures import LostError
from parallel_openai._batch.server_batch import ServerBatch
from parallel_openai._batch.submitting.input_files import InputFiles
from parallel_openai._journal.journal import Journal
from parallel_openai._log import log

#: Seconds after which the server's list is looked at for a batch that was asked for: the call of a dead process may be
#: on its way for some, and the list may show it a little later. After the last it is looked at once.
LISTED = (5.0, 7.5, 10.0)


class Submitter:
    """Brings parts to the server, each of them once, whatever dies in between."""

    def __init__(self, api: BatchAPI, journal: Journal, input_files: InputFiles, *, sleep: Sleep) -> None:
        self._api, self._journal, self._input_files, self._sleep = api, journal, input_files, sleep

    async def submit(self, part: Part) -> ServerBatch:
        """Upload the part where it is not there yet, and give its new batch; or the one that an earlier try made."""
        if part.creating_at and (batch := await self._made_before(part)) is not None:
            return batch
        if part.file_id is None:
            file = self._input_files.place(part.name)
            if not file.exists():
                raise LostError(f"The input file {file} is not here any more.")
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
        """Each send anew, since the last may come long after the first, and the list shows its batch later still."""
        part.creating_at = time.time()
        write(self._journal, [step(part, "creating", submission=part.submission, creating_at=part.creating_at)])

    def refused(self, part: Part) -> None:
        """The server did not take the part's batch, which is to be made anew later."""
        part.former = [*part.former, *([part.batch_id] if part.batch_id else [])]
        part.batch_id, part.creating_at = None, 0.0
        write(self._journal, [step(part, "refused", batch_id=None, creating_at=0.0, former=part.former)])

    def earlier(self) -> list[Part]:
        """The parts of earlier calls whose answers are still to come."""
        found = live_parts(self._journal.path)
        self._input_files.tidy({part.name for part in found})
        return found

    async def recover(self, part: Part, *, keep: bool, needs_metadata: bool) -> bool:
        """Whether to go on with a part of an earlier call, whose rows are then known.

        Args:
            keep: go on with what was not submitted too. Else it is forgotten, and has cost nothing.
            needs_metadata: nobody else knows that of its rows.
        """
        if part.batch_id is None:
            made = await self._made_before(part) if part.creating_at else None
            keep = keep and self._input_files.holds(part.name) and not self._input_files.is_cancelled(part.planned_at)
            if made is None and not keep:
                self.drop(part)
                return False
        if not self._input_files.knows_rows(part.name):
            self._check_metadata(part, needs_metadata)
            if not self._input_files.is_whole(part.name, part.requests):
                await self._fetch(part)
        return True

    def drop(self, part: Part) -> None:
        """Forget a part, here and in the journal."""
        write(self._journal, [step(part, "dropped")])
        self._input_files.remove(part.name)

    async def _made_before(self, part: Part) -> ServerBatch | None:
        """The part's batch, if the server has it although its name was never written down."""
        age = max(0.0, time.time() - part.creating_at)
        ages = [age, *(each for each in LISTED if each > age)]
        looks = [later - earlier for earlier, later in pairwise(ages)] or [0.0]
        batch = await self._api.find(part.file_id, part.name, part.former, looks)
        if batch is not None:
            self._created(part, batch)
        return batch

    def _check_metadata(self, part: Part, needed: bool) -> None:
        if not part.has_metadata:
            return
        lost = (
            f"The folder {self._input_files.folder} is not here, or not whole. It holds the metadata of the requests "
            "that are in batches, which the server does not know."
        )
        if needed and not part.record:
            raise LostError(f"{lost} Put it beside the results file, or repeat the call that has the requests file.")
        if needed:
            log.warning("%s If the rows had any, the call that has the frame gives it to them again.", lost)

    async def _fetch(self, part: Part) -> None:
        """Get the input file back, where the folder of the parts is not here."""
        batch = await self._api.get(str(part.batch_id))
        file_id = batch.input_file_id or part.file_id
        if file_id is None:
            raise LostError(
                f"The folder {self._input_files.folder} is not here, and {part.batch_id} does not name its file."
            )
        self._input_files.make_folder()
        await self._api.download(file_id, self._input_files.place(part.name), part.bytes + BESIDE)

    def _created(self, part: Part, batch: ServerBatch) -> None:
        part.batch_id, part.file_id = batch.id, batch.input_file_id or part.file_id
        write(self._journal, [step(part, "created", batch_id=part.batch_id, file_id=part.file_id)])
