"""Finds requests that are already in batches of an earlier call, so that a call on another lane does not pay twice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from parallel_openai._batch.batch_state import live_parts
from parallel_openai._batch.part_failures import LostError
from parallel_openai._batch.submitting.input_files import InputFiles


class UnderWay:
    """The requests of a journal that are in batches, and which of them a call has come across."""

    def __init__(self, journal: Path) -> None:
        self._since: dict[str, list[float]] = {}  # by key; the same request may be in batches several times
        self._met: list[str] = []
        self._earliest = float("inf")
        input_files = InputFiles(journal)
        if not input_files.folder.is_dir():  # no batches, so the journal need not be read
            return
        for part in live_parts(journal):
            if input_files.holds(part.name):
                with suppress(LostError):
                    for info in input_files.row_infos(part.name).values():
                        self._since.setdefault(info.key, []).append(part.planned_at)

    @property
    def any_waits(self) -> bool:
        return bool(self._since)

    @property
    def met(self) -> int:
        return len(self._met)

    def unanswered(self) -> Iterator[tuple[str, str, str]]:
        """The key of each request that was met, with an error code and a message."""
        why = self.rest()
        return ((key, "in_batch", why or "") for key in self._met)

    def meet(self, *keys: str | None) -> bool:
        """Whether a request with one of these keys, its own first, is in a batch. Each one there is met once."""
        since = next((self._since[key] for key in keys if key is not None and self._since.get(key)), None)
        if since is None:
            return False
        self._met.append(str(keys[0]))
        self._earliest = min(self._earliest, since.pop())
        return True

    def rest(self) -> str | None:
        """A sentence about the requests that were met; None if none was."""
        if not self._met:
            return None
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(self._earliest))
        rows = "1 request waits" if self.met == 1 else f"{self.met:,} requests wait"
        return (
            f'{rows} in a batch since {when} and would be billed twice. The same call with lane="batch" waits for the '
            "answers, po.collect_batches() (parallel-openai batch collect) collects what is there, "
            "po.cancel_batches() cancels them, and resubmit=True (--resubmit) sends them again and pays twice."
        )
