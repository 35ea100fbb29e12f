"""How the batches of a run stand, in words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

from parallel_openai._batch.batch_state import Part
from parallel_openai._batch.part_failures import OF_A_PART, LostError, PartFailures
from parallel_openai._batch.server_batch import ServerBatch
from parallel_openai._batch.submitting.input_files import InputFiles
from parallel_openai._log import log
from parallel_openai.errors import BatchError, RunStoppedError

_LIMIT = re.compile(r"Limit: ([\d,]+)")


class StandingText:
    """Tells how the parts of a run stand.

    Args:
        parts: those whose answers are not all here.
        batches: their batches, as they were seen last.
        taken: how many rows of a part were answered.
    """

    def __init__(
        self,
        parts: list[Part],
        batches: Mapping[str, ServerBatch],
        failures: PartFailures,
        input_files: InputFiles,
        taken: Callable[[Part], int],
    ) -> None:
        self._parts, self._batches, self._failures, self._input_files, self._taken = (
            parts,
            batches,
            failures,
            input_files,
            taken,
        )

    def rest(self) -> str | None:
        """What goes on at the server or is in trouble, as sentences; None where nothing does."""
        well = [part for part in self._parts if part.batch_id is not None and self._sentence(part) is None]
        told = [self._going_on(well) if well else None, *map(self._sentence, self._parts)]
        return " ".join(filter(None, told)) or None

    def in_batch(self) -> Iterator[tuple[str, str]]:
        """The keys of the requests that are at the server, and what is to be said of each."""
        rest = self.rest() or ""
        for part in self._parts:
            if part.batch_id is None and not part.creating_at:
                continue
            with suppress(LostError, OSError):  # what its rows are, nobody knows
                for place in self._input_files.places(part.name).values():
                    yield place.key, self._sentence(part) or rest

    def note(self) -> str:
        """For the bar."""
        return note_of([self._batches.get(part.name) for part in self._parts])

    def state(self, part: Part) -> str | None:
        return self._batches[part.name].status if part.name in self._batches else None

    def tell(self, refusals: Sequence[RunStoppedError], *, skipped: int, has_worked: bool) -> None:
        """Log what is wrong with some parts.

        Args:
            refusals: what the server said of parts that it would not have.
            skipped: how many requests were not submitted since they may be in a part whose rows are not known.
            has_worked: whether the server has answered some call as it should.

        Raises:
            RunStoppedError: there is something to stop for.
        """
        sentences = [each for each in map(self._sentence, self._parts) if each is not None]
        for sentence in sentences:
            log.warning("%s", sentence)
        if refusals:
            words = " ".join(dict.fromkeys(map(str, refusals)))
            raise (BatchError if isinstance(refusals[0], BatchError) else type(refusals[0]))(words)
        if skipped:
            why = f"{skipped:,} requests were not submitted, since they may be in it and would be paid for twice."
            raise BatchError(f"{' '.join(sentences)} What is in a batch is not known: {why}")
        for error in () if has_worked else map(self._failures.error, self._parts):
            if error is not None and not isinstance(error, OF_A_PART):
                raise error

    def _sentence(self, part: Part) -> str | None:
        return self._failures.sentence(part, self._input_files.journal)

    def _going_on(self, parts: Sequence[Part]) -> str:
        ids = [str(part.batch_id) for part in parts]
        rows = sum(part.requests - self._taken(part) for part in parts)
        shown = ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
        are = "row is" if rows == 1 else "rows are"
        batches, go = ("batch", "goes") if len(ids) == 1 else ("batches", "go")
        return (
            f"{rows:,} {are} in {len(ids)} {batches} ({shown}), which {go} on at the server. The same call again "
            f"collects them, and so does `parallel-openai batch collect --save_filepath {self._input_files.journal}`; "
            "`batch cancel` in its place cancels them."
        )


def note_of(batches: Sequence[ServerBatch | None]) -> str:
    """How they stand, for the bar.

    >>> told = {"status": "in_progress", "request_counts": {"total": 2000, "completed": 1200, "failed": 0}}
    >>> note_of([ServerBatch.of(told, ""), None])
    'batches: 1 in_progress, 1 queued; 1,200 done there'
    """
    states = Counter((batch.status if batch is not None else "") or "queued" for batch in batches)
    done = sum(batch.counts.completed for batch in batches if batch is not None and batch.counts is not None)
    about = ", ".join(f"{count} {state}" for state, count in states.items())
    return f"batches: {about}; {done:,} done there" if states else ""


def limit_in(message: str) -> int | None:
    """How many tokens may be queued.

    >>> limit_in("Enqueued token limit reached for gpt-4o in organization org-x. Limit: 90,000 enqueued tokens.")
    90000
    """
    found = _LIMIT.search(message)
    return int(found[1].replace(",", "")) if found else None
