"""A worker of `process_dataset`: an actor that processes blocks of rows on the machine where they are."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from parallel_openai._client.client import Client
from parallel_openai._frames.columns.answer_columns import Reader, object_column
from parallel_openai._frames.frame_run import FrameRun
from parallel_openai._frames.request_builder import RequestBuilder, last_line
from parallel_openai._frames.run_options import Options
from parallel_openai._journal.known_results import KnownResults
from parallel_openai._progress.progress import Progress
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._ray.cluster import AccountHandle, worker_name
from parallel_openai._ray.crash_guard import MOST_DEATHS, CrashGuard, die_at_once
from parallel_openai._ray.shared_budget import Share
from parallel_openai._ray.worker import COUNTS, RemoteTimeline, leased_client
from parallel_openai._ray.worker_journals import Index, KnownParts, new_part, partition_name, parts_of
from parallel_openai._requests.endpoints import Answer
from parallel_openai._requests.template import BadPromptError
from parallel_openai.errors import InvalidInputError, JournalError, ParallelOpenAIError, RunStoppedError

#: Seconds between two exchanges of counters.
LOOK_EVERY = 0.2
#: Seconds that a worker waits for its client, which a newly started account's actor does not have yet.
OPEN_WITHIN = 30.0
#: The counters of a worker, which only grow, and its gauges.
COUNTED = (*COUNTS, "num_tasks_succeeded", "num_tasks_failed", "num_tasks_restored", "num_tasks_shared")
GAUGES = ("num_tasks_in_progress", "num_tasks_waiting")
#: Types of cells that a dataset can always hold.
_PLAIN = (int, float, np.ndarray, type(None), type(pd.NA))


@dataclass(frozen=True)
class Plan:
    """What a worker needs to know of its run. The API key is not in it."""

    run: str
    account: AccountHandle
    builder: RequestBuilder
    reader: Reader
    options: Options
    folder: Path
    index: Any  # a Ray reference to an Index, or None if the folder has no answers
    names: tuple[str, ...]  # the dataset's columns
    share: Share | None = None  # of the budget, if there is one

    @property
    def marker(self) -> Path:
        """A file that exists while the run is going on."""
        return self.folder / f".run-{self.run}"


class BlockWorker:
    """The actor: processes a block of rows in each call, and several blocks at a time."""

    def __init__(self, plan: Plan) -> None:
        import ray

        die_at_once()
        self.plan = plan
        self._name = worker_name()
        self.stop: tuple[str, str] | None = None
        self.status = StatusTracker(timeline=RemoteTimeline(keeps=False))
        self._check_folder()
        self._guard = CrashGuard(
            plan.marker.with_name(f"{plan.marker.name}-{ray.get_runtime_context().get_actor_id()}"),
            plan.marker.with_name(f"{plan.marker.name}-deaths"),
        )
        self._check_deaths()
        self.index: Index | None = None if plan.index is None else ray.get(plan.index)
        self.client = self._open()
        self._builder, self._reader = self._watched()
        self._funds = None if plan.share is None else plan.account.borrowed(plan.share)
        self._options = replace(plan.options, budget_usd=self._funds)
        self._reported_at = 0.0
        self._report_lock = threading.Lock()

    def _check_folder(self) -> None:
        if self.plan.marker.exists():
            return
        host = self._name.rpartition("-")[0]
        error = InvalidInputError(
            f"The machine {host} does not see the folder {self.plan.folder}: save_to must lie on storage that all "
            "machines share."
        )
        self.end_run(error)
        raise error

    def _check_deaths(self) -> None:
        """End the run if this worker has died again and again without an answer."""
        if self._guard.deaths_in_vain < MOST_DEATHS:
            return
        error = RunStoppedError(
            f"A worker has died {MOST_DEATHS} times without an answer, as of a lack of memory or a crash in native "
            f"code. What was finished is in {self.plan.folder}, and the same call goes on from there."
        )
        self.end_run(error)
        if self._guard.deaths_in_vain > MOST_DEATHS:  # it cannot even give its rows back
            raise error

    def __call__(self, rows: pd.DataFrame) -> pd.DataFrame:
        self._guard.look()
        try:
            out = self._answered(plain_block(rows, self.plan.names))
            out.attrs = {}  # would become part of the block's type
            return storable(out, self._reader.names, self.plan.options.prefix)
        except Exception as error:  # the other workers stop in order, and keep what they have
            self.end_run(error)
            raise
        finally:
            if self._funds is not None:
                self._funds.give_back()
            self.tell(at_once=True)

    def _answered(self, rows: pd.DataFrame) -> pd.DataFrame:
        run = PartRun(rows, self._builder, self._reader, self.client, self._options, self.status, self)
        try:
            return run.execute() if self.stop is None else run.cancelled()
        except KeyboardInterrupt as stop:
            partial = vars(stop).get("partial")
            if partial is None:
                self.end_run(RunStoppedError("A function of the call raised KeyboardInterrupt."))
        except (RunStoppedError, JournalError) as error:
            self.end_run(error)
            partial = getattr(error, "partial", None)
        return run.cancelled() if partial is None else partial

    def _watched(self) -> tuple[RequestBuilder, Reader]:
        """The builder and the reader, with the caller's functions in them guarded against repeated crashes."""

        def no_prompt(why: str) -> BadPromptError:
            return BadPromptError("prompt_error", f"The prompt function is not called with this row. {why}")

        def no_reading(why: str) -> Answer:
            return Answer(None, None, None, "parse_error", f"The answer is not read. {why}", repairable=False)

        builder, watch = self.plan.builder, self._guard.watch
        texts: dict[str, Any] = {
            name: watch(text, no_prompt) for name in ("prompt", "system") if callable(text := getattr(builder, name))
        }
        return replace(builder, **texts), replace(self.plan.reader, read=watch(self.plan.reader.read, no_reading))

    def end_run(self, error: Exception) -> None:
        """Stop all workers of the run with an error."""
        if isinstance(error, ParallelOpenAIError):
            self.stop = type(error).__name__, str(error)
        else:
            self.stop = "RunStoppedError", f"A worker failed. {last_line(error)}"
        self.plan.account.ask("stop", self.plan.run, *self.stop)

    def tell(self, *, at_once: bool = False) -> None:
        """Send this worker's counters, and learn whether to stop; by default only if the last time is a while ago."""
        now = time.monotonic()
        with self._report_lock:
            if not at_once and now - self._reported_at < LOOK_EVERY:
                return
            self._reported_at = now
            if self.status.num_tasks_succeeded > self.status.num_tasks_restored:
                self._guard.has_answer()
            counts = Counter({name: getattr(self.status, name) for name in (*COUNTED, *GAUGES)})
            stop = self.plan.account.ask("count", self.plan.run, self._name, counts)
            self.stop = self.stop or stop

    def _open(self) -> Client:
        give_up_at = time.monotonic() + OPEN_WITHIN
        while time.monotonic() < give_up_at:
            sealed = self.plan.account.ask("unseal", self.plan.run)
            if sealed is not None:
                return leased_client(sealed, self.plan.account)[0]
            time.sleep(LOOK_EVERY)
        raise RuntimeError("The run that this worker is for has ended.")


@dataclass
class PartRun(FrameRun):
    """The run of one block of rows, with a journal of its own."""

    worker: BlockWorker | None = None

    def execute(self) -> pd.DataFrame:
        try:
            return super().execute()
        finally:
            self._clean_up()

    def cancelled(self) -> pd.DataFrame:
        """The rows without sending anything, with the columns that a stopped run adds."""
        self._ended = "stopped"
        with self._to_its_end() as finish:
            return finish()

    def _journal_path(self) -> Path:
        assert self.worker is not None
        self._partition = partition_name(self.df)
        return new_part(self.worker.plan.folder, self._partition)

    async def _known(self) -> KnownResults:
        assert self.worker is not None
        how: dict[str, Any] = {"failures": not self.options.retry_failed, "simulated": self.client.is_local}
        paths = [path for path in parts_of(self.worker.plan.folder, self._partition) if path != self.journal_path]
        known = [await KnownResults.load(path, **how) for path in paths if path.stat().st_size]
        return KnownParts(known, self.worker.index)

    def _origin(self) -> None:
        """None is checked: the workers are on many machines, but all belong to the driver."""

    def _progress(self) -> Progress:
        assert self.worker is not None
        return _ReportingProgress(self, self.worker, self.client)

    def leave_off(self) -> None:
        """Stop sending, and wait for requests in flight."""
        if not self._presses:
            self._presses.record()

    def _clean_up(self) -> None:
        """Remove the lock, and the journal if it is empty."""
        self.journal_path.with_name(self.journal_path.name + ".lock").unlink(missing_ok=True)
        if self.journal_path.exists() and not self.journal_path.stat().st_size:
            self.journal_path.unlink()


class _ReportingProgress(Progress):
    """Shows no progress here, but sends it to the driver, which does."""

    def __init__(self, run: PartRun, worker: BlockWorker, client: Client) -> None:
        super().__init__(worker.status, client, show=False)
        self._run, self._worker = run, worker

    def tick(self) -> None:
        self._worker.tell()
        if self._worker.stop is not None:
            self._run.leave_off()


def plain_block(rows: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """A block as an ordinary frame with all of the dataset's columns; those that it lacks are filled with None.

    Columns that Arrow has no type for, such as strings mixed with numbers, come in an array type of Ray's, from which
    pandas cannot take rows.
    """
    own = [name for name in map(str, rows) if type(rows[name].dtype).__module__.startswith("ray.")]
    plain: dict[str, Any] = {name: None for name in names if name not in rows}
    return rows.assign(**plain, **{name: object_column(rows[name].tolist()) for name in own})


def storable(out: pd.DataFrame, answers: Sequence[str], prefix: str) -> pd.DataFrame:
    """A block that a dataset can hold. A row whose answer it cannot hold fails.

    >>> said = pd.Series(["good", "bad \\ud800"], dtype="string[python]")
    >>> out = pd.DataFrame({"response": said, "status": "succeeded", "error_code": None, "error": None})
    >>> storable(out, ["response"], "")["status"].tolist()
    ['succeeded', 'failed']
    """
    out = out.assign(**{f"{prefix}status": out[f"{prefix}status"].astype("string")})
    for name in out.columns[out.dtypes.map(pd.api.types.is_string_dtype)]:
        odd = np.array([_is_odd(cell) for cell in out[name]], dtype=bool)
        if not odd.any():
            continue
        safe: list[str | None] = [str(cell).encode("utf-8", "backslashreplace").decode() for cell in out.loc[odd, name]]
        if name in {prefix + answer for answer in answers}:
            why = [f"A dataset cannot hold the answer: {text:.200}" for text in safe]
            for column, cells in {"status": "failed", "error_code": "malformed_response", "error": why}.items():
                out[prefix + column] = out[prefix + column].astype("string")
                out.loc[odd, prefix + column] = cells
            safe = [None] * len(safe)
        out.loc[odd, name] = safe
        if out[name].dtype != object:
            out[name] = out[name].astype("string")
    return out


def _is_odd(cell: Any) -> bool:
    """Whether a cell holds a lone surrogate, or a value that cannot be pickled, such as a lock."""
    if isinstance(cell, _PLAIN):
        return False
    import ray

    dumps: Callable[[Any], object] = ray.cloudpickle.dumps
    try:
        cell.encode() if isinstance(cell, str) else dumps(cell)
    except Exception:  # pickling may call anything, which may raise anything
        return True
    return False
