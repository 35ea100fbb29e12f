"""From a part on the disk to a batch at the server: each step is in the journal before and after it is done."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from parallel_openai.batch.api import BatchAPI, Sleep
from parallel_openai.batch.spool import Spool
from parallel_openai.batch.state import Part, live_parts, step, write
from parallel_openai.engine.journal import Journal
from parallel_openai.errors import InvalidInputError

#: Seconds that a call of a dead process may still be on its way to the server.
SETTLED = 5.0
#: How far the server's clock may be from ours.
DAY = 86_400.0


class Submitter:
    """Brings parts to the server, each of them once, whatever dies in between."""

    def __init__(self, api: BatchAPI, journal: Journal, spool: Spool, *, sleep: Sleep) -> None:
        self._api, self._journal, self._spool, self._sleep = api, journal, spool, sleep

    async def submit(self, part: Part) -> dict[str, Any]:
        """Upload the part where it is not there yet, and give its new batch."""
        if part.file_id is None:
            file = self._spool.place(part.name)
            part.file_id = await self._api.upload(file, f"parallel_openai-{part.name}.jsonl", part.bytes)
            write(self._journal, [step(part, "uploaded", file_id=part.file_id)])
        part.submission += 1
        part.creating_at = time.time()
        write(self._journal, [step(part, "creating", submission=part.submission, creating_at=part.creating_at)])
        batch = await self._api.create(part.file_id, part.path, _mark(part))
        self._created(part, batch)
        return batch

    async def earlier(self, *, keep: bool) -> list[Part]:
        """The parts of earlier calls whose answers are still to come, each with its input file here.

        What was not submitted is forgotten, and has cost nothing; with `keep`, it is among them.
        """
        found = live_parts(self._journal.path)
        self._spool.tidy({part.name for part in found})
        parts = []
        for part in found:
            if part.batch_id is None and not await self._adopt(part) and not (keep and self._spool.holds(part.name)):
                write(self._journal, [step(part, "dropped")])
                self._spool.remove(part.name)
                continue
            if not self._spool.holds(part.name):
                if not part.record:
                    raise InvalidInputError(
                        f"The folder {self._spool.folder} is not here. It holds the metadata of the requests that are "
                        "in batches, which the server does not know; put it beside the results file."
                    )
                await self._fetch(part)
            parts.append(part)
        return parts

    async def _adopt(self, part: Part) -> bool:
        """Whether the server has the part's batch, although its name was never written down."""
        if not part.creating_at:
            return False
        if (moment := part.creating_at + SETTLED - time.time()) > 0:
            await self._sleep(min(moment, SETTLED))
        batch = await self._api.find(_mark(part), since=part.planned_at - DAY)
        if batch is None:
            return False
        self._created(part, batch)
        return True

    async def _fetch(self, part: Part) -> None:
        """Get the input file back, where the folder of the parts is not here."""
        batch = await self._api.get(str(part.batch_id))
        self._spool.writer(part.name).close()
        await self._api.download(batch["input_file_id"], self._spool.place(part.name))
        self._spool.index(part.name)

    def _created(self, part: Part, batch: Mapping[str, Any]) -> None:
        part.batch_id = str(batch["id"])
        write(self._journal, [step(part, "created", batch_id=part.batch_id, file_id=batch.get("input_file_id"))])


def _mark(part: Part) -> str:
    """What the part's batch is called in its metadata."""
    return f"{part.name}.{part.submission}"
