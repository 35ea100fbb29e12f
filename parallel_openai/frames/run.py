"""One call on a frame, from its rows to its columns: the place where the parts are put together."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from parallel_openai.client import Client
from parallel_openai.engine.journal import Journal
from parallel_openai.engine.loop import Interrupted, arun, run
from parallel_openai.engine.progress import Progress
from parallel_openai.engine.resume import KnownResults, result_line
from parallel_openai.engine.status import StatusTracker
from parallel_openai.errors import JournalError, RunStoppedError
from parallel_openai.frames.answers import COLUMNS, Answers, Reader
from parallel_openai.frames.recipe import Recipe
from parallel_openai.frames.report import RunReport, remember
from parallel_openai.frames.table import check_frame, check_free, with_columns
from parallel_openai.jsonl import dumps, loads
from parallel_openai.records import APIRequest, Result
from parallel_openai.requests.prompts import BadPromptError

JOURNAL_FOLDER = ".parallel_openai"
#: Rows answered from the journal before other work of the loop gets its turn.
RESTORE_AT_ONCE = 200


@dataclass(frozen=True)
class Options:
    """What a call says about the run itself, and not about the question."""

    save_to: str | os.PathLike[str] | None = None
    retry_failed: bool = True
    prefix: str = ""
    progress: bool = True


@dataclass
class FrameRun:
    """A frame, what is asked of its rows, and where the answers gather.

    Raises:
        InvalidInputError: the frame lacks what the recipe needs, or has what the answers would overwrite.
    """

    df: pd.DataFrame
    recipe: Recipe
    reader: Reader
    client: Client
    options: Options
    status: StatusTracker = field(default_factory=StatusTracker)

    def __post_init__(self) -> None:
        check_frame(self.df)
        self.recipe.check(self.df)
        check_free(self.df, [self.reader.name, *COLUMNS], self.options.prefix)
        self.client.check_key()
        self.journal_path = self._journal_path()
        self.answers = Answers(len(self.df), self.recipe.samples, self.reader, self.client.base_url)
        self.status.num_tasks_total = len(self.df) * self.recipe.samples
        self._slots: dict[str, int] = {}  # the slot that asks for each key
        self._twins: list[tuple[int, int]] = []  # slots that share another's answer

    def execute(self) -> pd.DataFrame:
        """Run, and wait for the end. A KeyboardInterrupt ends the run early and keeps what there is."""
        progress = self._progress()
        began = time.monotonic()
        try:
            run(self._work(), progress.tick, nested=self.client.loop == "running")
        except Interrupted:
            return self._finish(progress, began, "interrupted")
        except RunStoppedError as error:
            error.partial = self._finish(progress, began, "stopped")
            # A notebook shows the whole way that an error came; the way through the engine tells its reader nothing.
            raise error.with_traceback(None) from None
        except BaseException:
            progress.close()
            raise
        return self._finish(progress, began, "finished")

    async def aexecute(self) -> pd.DataFrame:
        """The same for a caller with a loop of its own; cancelling its task ends the run early."""
        progress = self._progress()
        began = time.monotonic()
        try:
            await arun(self._work(), progress.tick, nested=self.client.loop == "running")
        except Interrupted:
            return self._finish(progress, began, "interrupted")
        except RunStoppedError as error:
            error.partial = self._finish(progress, began, "stopped")
            # A notebook shows the whole way that an error came; the way through the engine tells its reader nothing.
            raise error.with_traceback(None) from None
        except BaseException:
            progress.close()
            raise
        return self._finish(progress, began, "finished")

    async def _work(self) -> None:
        with Journal(self.journal_path) as journal:
            known = KnownResults(
                self.journal_path, failures=not self.options.retry_failed, simulated=self.client.is_local
            )
            self.status.num_damaged_lines = known.damaged_lines
            try:
                await self.client.process(
                    self._requests(known), on_result=lambda result: self._take(result, journal), status=self.status
                )
            finally:
                known.close()

    def _requests(self, known: KnownResults) -> Iterator[APIRequest | None]:
        """What must be sent; what can be answered from the journal or by another row is answered on the way."""
        restored = 0
        for slot, request in enumerate(self.recipe.requests(self.df)):
            if isinstance(request, BadPromptError):
                self._reject(slot, request)
                continue
            first = self._slots.setdefault(request.key, slot)
            if first != slot:
                self._twins.append((slot, first))
                self.status.num_tasks_shared += 1
                continue
            if request.key in known and self._restore(slot, known.get(request)):
                restored += 1
                if restored % RESTORE_AT_ONCE == 0:
                    yield None
                continue
            yield request

    def _reject(self, slot: int, error: BadPromptError) -> None:
        self.answers.reject(slot, error)
        self.status.num_tasks_failed += 1
        self.status.errors[error.code] += 1

    def _restore(self, slot: int, result: Result | None) -> bool:
        """Take an answer from the journal; one that is no answer after all is asked for again."""
        if result is None:
            return False
        good = self.answers.fill(slot, result)
        if not good and self.options.retry_failed:
            self.answers.clear(slot)
            return False
        self.status.num_tasks_restored += 1
        if good:
            self.status.num_tasks_succeeded += 1
        else:
            self.status.num_tasks_failed += 1
        return True

    def _take(self, result: Result, journal: Journal) -> None:
        """A request has come to its end: first onto the disk, then into its cells."""
        journal.append(result_line(result, record=True))
        slot = self._slots[result.request.key]
        good = self.answers.fill(slot, result)
        status = self.status
        status.cost_usd += self.answers.cost(slot)
        if result.status == "succeeded" and not good:
            status.num_tasks_succeeded -= 1
            status.num_tasks_failed += 1
            status.errors[self.answers.error_code(slot) or "error"] += 1

    def _finish(self, progress: Progress, began: float, ended: str) -> pd.DataFrame:
        for slot, source in self._twins:
            self.answers.share(slot, source)
        columns = {self.options.prefix + name: values for name, values in self.answers.columns().items()}
        out = with_columns(self.df, columns)
        report = RunReport.of(
            self.status,
            rows=len(self.df),
            statuses=columns[self.options.prefix + "status"],
            error_codes=columns[self.options.prefix + "error_code"],
            seconds=time.monotonic() - began,
            ended=ended,
            journal=str(self.journal_path),
            simulated=self.answers.simulated,
        )
        about = {"answer": self.reader.name, "prefix": self.options.prefix}
        # Plain JSON, since to_parquet and others write the attrs into their files.
        out.attrs["parallel_openai"] = loads(dumps({**self.recipe.summary(), **about, **report.summary()}))
        remember(report)
        progress.close(str(report))
        return out

    def _progress(self) -> Progress:
        return Progress(self.status, self.client, show=self.options.progress)

    def _journal_path(self) -> Path:
        if self.options.save_to is not None:
            return Path(self.options.save_to)
        folder = Path(JOURNAL_FOLDER)
        try:
            _make_private(folder)
        except OSError as error:
            raise JournalError(
                f"The folder {folder.absolute()} for the answers cannot be made: {error.strerror}. Choose a place for "
                "them with save_to=."
            ) from error
        model = "".join(c if c.isalnum() or c in "-._" else "-" for c in self.recipe.model or "requests")
        return folder / f"{model[:80]}-{self.recipe.digest(self.client.base_url)}.jsonl"


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    fence = folder / ".gitignore"
    if not fence.exists():
        fence.write_text("# Answers and the data they are about: not to be published by accident.\n*\n", "utf-8")


def execute(df: Any, recipe: Recipe, reader: Reader, client: Client, options: Options) -> pd.DataFrame:
    return FrameRun(df, recipe, reader, client, options).execute()


async def aexecute(df: Any, recipe: Recipe, reader: Reader, client: Client, options: Options) -> pd.DataFrame:
    return await FrameRun(df, recipe, reader, client, options).aexecute()
