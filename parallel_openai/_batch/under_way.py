"""Finds requests that are already in batches of an earlier call, so that no other call pays for them twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from parallel_openai._batch.batch_state import live_parts
from parallel_openai._batch.part_failures import LostError
from parallel_openai._batch.submitting.input_files import InputFiles
from parallel_openai._journal.origins import Origin
from parallel_openai.errors import JournalError


class UnderWay:
    """The requests of journals that are in batches, and which of them a call has come across.

    Args:
        own: the call's journal; None if the call waits for its batches itself.
        others: journals of other calls.
        origin: the origin that the batches of others must have.
    """

    def __init__(self, own: Path | None, others: Iterable[Path] = (), origin: Origin | None = None) -> None:
        # By key, when it was sent, and the journal; the same request may be in batches several times.
        self._since: dict[str, list[tuple[float, Path]]] = {}
        self._own = own
        self._met: list[tuple[str, Path]] = []
        self._earliest: dict[Path, float] = {}
        if own is not None:
            self._add(own, None)
        for journal in others:
            with suppress(JournalError, OSError):  # what is wrong with it does not concern this run
                self._add(journal, origin)

    def _add(self, journal: Path, origin: Origin | None) -> None:
        input_files = InputFiles(journal)
        if not input_files.folder.is_dir():  # no batches, so the journal need not be read
            return
        for part in live_parts(journal):
            if input_files.holds(part.name) and origin in (None, Origin(part.place, part.writer)):
                with suppress(LostError):
                    for info in input_files.row_infos(part.name).values():
                        self._since.setdefault(info.key, []).append((part.planned_at, journal))

    @property
    def any_waits(self) -> bool:
        return bool(self._since)

    @property
    def met(self) -> int:
        return len(self._met)

    def unanswered(self) -> Iterator[tuple[str, str, str]]:
        """The key of each request that was met, with an error code and a message."""
        why = self._sentences()
        return ((key, "in_batch", why[journal]) for key, journal in self._met)

    def meet(self, *keys: str | None) -> bool:
        """Whether a request with one of these keys, its own first, is in a batch. Each one there is met once."""
        since = next((self._since[key] for key in keys if key is not None and self._since.get(key)), None)
        if since is None:
            return False
        began, journal = since.pop()
        self._met.append((str(keys[0]), journal))
        self._earliest[journal] = min(began, self._earliest.get(journal, began))
        return True

    def rest(self) -> str | None:
        """A sentence about the requests that were met; None if none was."""
        return " ".join(self._sentences().values()) or None

    def _sentences(self) -> dict[Path, str]:
        counts = Counter(journal for _, journal in self._met)
        return {journal: self._sentence(journal, count) for journal, count in counts.items()}

    def _sentence(self, journal: Path, count: int) -> str:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(self._earliest[journal]))
        rows = "1 request waits" if count == 1 else f"{count:,} requests wait"
        if journal == self._own:
            whose, how = "", 'The same call with lane="batch" waits for the answers, po.collect_batches()'
        else:
            whose, how = f" of another call, whose journal is {journal},", "po.collect_batches() with that journal"
        return (
            f"{rows} in a batch{whose} since {when} and would be billed twice. {how} (parallel-openai batch collect) "
            "collects what is there, po.cancel_batches() cancels them, and resubmit=True (--resubmit) sends them again "
            "and pays twice."
        )
