"""Describes the state of a run's batches in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from parallel_openai._batch.batch_state import Part
from parallel_openai._batch.part_failures import PART_ERRORS, LostError, advice_on
from parallel_openai._batch.server_batch import ServerBatch
from parallel_openai._batch.submitting.input_files import InputFiles
from parallel_openai._log import log
from parallel_openai.errors import BatchError, RunStoppedError


class StatusText:
    """Describes the state of the parts of a run."""

    def __init__(
        self,
        parts: list[Part],  # those whose answers are not all in the journal
        input_files: InputFiles,
        cancelled: Mapping[str, str],  # by request key, the message about each that someone else cancelled
    ) -> None:
        self._parts, self._input_files, self._cancelled = parts, input_files, cancelled

    def rest(self) -> str | None:
        """What is still running, has failed or was cancelled at the server, as sentences; None if nothing is."""
        count = len(self._cancelled)
        are = "1 row was in a batch" if count == 1 else f"{count:,} rows were in batches"
        cancelled = f"{are} cancelled at the server; the same call again submits them." if count else None
        return " ".join(filter(None, [self._unfinished(), cancelled])) or None

    def _unfinished(self) -> str:
        running = [part for part in self._parts if part.batch_id is not None and self._sentence(part) is None]
        sentences = [self._in_progress(running) if running else None, *map(self._sentence, self._parts)]
        return " ".join(filter(None, sentences))

    def unanswered(self) -> Iterator[tuple[str, str, str]]:
        """The key of each request that is at the server or was cancelled there, with an error code and a message."""
        yield from ((key, "batch_cancelled", why) for key, why in self._cancelled.items())
        rest = self._unfinished()
        for part in self._parts:
            if part.batch_id is None and not part.creating_at:
                continue
            with suppress(LostError, OSError):  # its rows are unknown
                for info in self._input_files.row_infos(part.name).values():
                    yield info.key, "in_batch", self._sentence(part) or rest

    def note(self) -> str:
        return note_of([part.batch for part in self._parts])

    def report(self, refusals: Sequence[RunStoppedError], *, skipped: int, has_worked: bool) -> None:
        """Log what is wrong with some parts, and raise what concerns the whole run.

        Args:
            refusals: the errors of parts that the server refused.
            skipped: the number of requests not submitted since they may be in a part whose rows are unknown.
            has_worked: whether any call to the server has succeeded.

        Raises:
            RunStoppedError: a part was refused, requests were skipped, or no call can succeed.
        """
        sentences = [each for each in map(self._sentence, self._parts) if each is not None]
        for sentence in sentences:
            log.warning("%s", sentence)
        if refusals:
            words = " ".join(dict.fromkeys(map(str, refusals)))
            raise (BatchError if isinstance(refusals[0], BatchError) else type(refusals[0]))(words)
        if skipped:
            why = f"{skipped:,} requests were not submitted, since they may be in it and would be billed twice."
            raise BatchError(f"{' '.join(sentences)} The content of a batch is unknown: {why}")
        for failure in () if has_worked else [part.failure for part in self._parts]:
            if failure is not None and not isinstance(failure.error, PART_ERRORS):
                raise failure.error

    def _sentence(self, part: Part) -> str | None:
        return advice_on(part, self._input_files.journal)

    def _in_progress(self, parts: Sequence[Part]) -> str:
        ids = [str(part.batch_id) for part in parts]
        rows = sum(part.requests - len(part.answered) for part in parts)
        named = ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
        are = "row is" if rows == 1 else "rows are"
        batches, run = ("batch", "runs") if len(ids) == 1 else ("batches", "run")
        return (
            f"{rows:,} {are} in {len(ids)} {batches} ({named}), which {run} on at the server. The same call collects "
            f"them later, and so does `parallel-openai batch collect --save_filepath {self._input_files.journal}`; "
            "`batch cancel` cancels them."
        )


def note_of(batches: Sequence[ServerBatch | None]) -> str:
    """The note in the progress bar.

    >>> data = {"status": "in_progress", "request_counts": {"total": 2000, "completed": 1200, "failed": 0}}
    >>> note_of([ServerBatch.of(data), None])
    'batches: 1 in_progress, 1 queued; 1,200 rows done'
    """
    states = Counter((batch.status if batch is not None else "") or "queued" for batch in batches)
    done = sum(batch.counts.completed for batch in batches if batch is not None and batch.counts is not None)
    about = ", ".join(f"{count} {state}" for state, count in states.items())
    return f"batches: {about}; {done:,} rows done" if states else ""
