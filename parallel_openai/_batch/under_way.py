"""Requests that an earlier call gave into batches, for a call that sends in another way: they are paid for already."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from parallel_openai._batch.batch_state import live_parts
from parallel_openai._batch.part_failures import LostError
from parallel_openai._batch.submitting.input_files import InputFiles


class UnderWay:
    """The names of a journal's requests that wait in batches, and how many of them a call met.

    Args:
        journal: its path.
        identity: the name by which a request is known, from its key and its metadata.
    """

    def __init__(self, journal: Path, identity: Callable[[str, Any], str] = lambda key, metadata: key) -> None:
        self._since: dict[str, list[float]] = {}  # of each request that waits; the same one may do so several times
        self._met: list[str] = []
        self._first = float("inf")
        input_files = InputFiles(journal)
        if not input_files.folder.is_dir():  # as without batches, where the journal need not be read for them
            return
        for part in live_parts(journal):
            if input_files.holds(part.name):
                with suppress(LostError):
                    for place in input_files.places(part.name).values():
                        self._since.setdefault(identity(place.key, place.metadata), []).append(part.planned_at)

    @property
    def any_waits(self) -> bool:
        return bool(self._since)

    @property
    def met(self) -> int:
        return len(self._met)

    def in_batch(self) -> Iterator[tuple[str, str]]:
        """The names of the requests that were met, and what is to be said of each."""
        why = str(self) if self._met else ""
        return ((name, why) for name in self._met)

    def meet(self, *names: str | None) -> bool:
        """Whether a request with one of these names waits in a batch; it is met once. The first is the one that it is
        known by."""
        since = next((self._since[name] for name in names if name is not None and self._since.get(name)), None)
        if since is None:
            return False
        self._met.append(str(names[0]))
        self._first = min(self._first, since.pop())
        return True

    def __str__(self) -> str:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(self._first))
        rows = "1 request waits" if self.met == 1 else f"{self.met:,} requests wait"
        return (
            f'{rows} in a batch since {when} and would be paid for twice. The same call with lane="batch" waits for '
            "the answers, po.collect_batches() (parallel-openai batch collect) takes in what is there, "
            "po.cancel_batches() gives them up, and resubmit=True (--resubmit) sends and pays them again."
        )
