"""`process_dataset`: one answer for each row of a Ray Dataset, requested from the machines where the rows are."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from parallel_openai._client.client import Client
from parallel_openai._client.default_client import client_for
from parallel_openai._disk.locking import Lock
from parallel_openai._frames.checked_budget import make_budget
from parallel_openai._frames.columns.answer_columns import COLUMNS, Answers, Reader
from parallel_openai._frames.columns.table import check_free
from parallel_openai._frames.defensive_copy import on_copies
from parallel_openai._frames.journal_path import journal_path, make_private
from parallel_openai._frames.process import answer_reader, make_builder
from parallel_openai._frames.request_builder import Prompt, RequestBuilder, last_line
from parallel_openai._frames.run_options import Options
from parallel_openai._loop.interrupts import Interrupts, check_not_blocked, hand_over, recorded_interrupts
from parallel_openai._progress.progress import Progress
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._ray.cluster import (
    AccountHandle,
    account_name,
    cause_of,
    count_workers,
    error_of,
    find_ray,
    learn_limits,
    seal,
)
from parallel_openai._ray.dataset_worker import COUNTED, GAUGES, LOOK_EVERY, BlockWorker, Plan
from parallel_openai._ray.shared_budget import Share
from parallel_openai._ray.worker_journals import Index, in_groups, remove_leftovers, scan
from parallel_openai._ray.worker_pool import REPLACED_WITHIN
from parallel_openai._requests.endpoints import EndpointName
from parallel_openai._run.spending.budget import Budget
from parallel_openai._run.spending.caps import SpendingCaps
from parallel_openai.errors import InvalidInputError, JournalError, RunStoppedError

#: Blocks that a worker processes at once: while it waits for the last answers of one, it sends requests of the next.
BLOCKS = 4
#: Arguments of process_dataframe that process_dataset does not have, and what to do instead.
_NOT_HERE = {
    "deadline": "process_dataframe(..., lane='ray', deadline=...) ends in time.",
    "lane": "process_dataframe(..., lane='batch') sends rows through the Batch API, from this machine.",
    "resubmit": "Nothing of it waits in a batch.",
    "ray": "It always sends from the cluster; workers= says by how many processes.",
    "explode": "Take the choices apart in the dataset that it returns.",
}


@on_copies
def process_dataset(
    ds: Any,
    prompt: Prompt,
    *,
    model: str | None,
    system: Prompt | None = None,
    endpoint: EndpointName = "chat.completions",
    response_format: Mapping[str, Any] | None = None,
    samples: int = 1,
    metadata: Hashable | Sequence[Hashable] = (),
    save_to: str | os.PathLike[str] | None = None,
    retry_failed: bool = True,
    parse: Callable[[Any], Any] | None = None,
    repair: bool | int = False,
    keep_reasoning: bool = False,
    budget_usd: float | None = None,
    budget_tokens: int | None = None,
    prefix: str = "",
    progress: bool = True,
    workers: int | None = None,
    client: Client | None = None,
    **params: Any,
) -> Any:
    """Ask the model once for each row of a Ray Dataset, on the machines of the cluster, within the account's one limit.

    Args:
        ds: the rows, a `ray.data.Dataset`.
        save_to: a folder for the journals, on storage that all machines share. None uses one in `.parallel_openai/`,
            which works if all workers are on this machine.
        workers: the number of processes that send. None is one for each processor of the cluster, up to 8.

    The other arguments are those of `process_dataframe`. A prompt function gets the rows as they are in the dataset.
    The call waits until everything is done.

    Returns:
        A dataset with the same rows in the same order, and the columns that `process_dataframe` adds. Rows of one block
        that ask the same share an answer.

    Raises:
        MissingDependencyError: Ray is not installed.
        InvalidInputError: before anything is sent: a column is missing, a machine cannot see the folder, ...
        RunStoppedError: the server will refuse every row; `.partial` is the dataset with what was finished.
        JournalLockedError: another run uses the folder.
        KeyboardInterrupt: stopped outside a notebook; `.partial` is the dataset with what was finished.

    A worker that dies is replaced, and its blocks are processed again, without sending what is in the journals already.
    The same holds if you repeat the call, also with other or differently divided rows. A row that has killed three
    workers, as a crash in a function can, fails.
    """
    for name in params:
        if name in _NOT_HERE:
            raise InvalidInputError(f"process_dataset has no {name}=. {_NOT_HERE[name]}")
    ray = find_ray()
    account = client_for(client)
    account.check_key()
    builder = make_builder(prompt, model, system, endpoint, response_format, samples, metadata, params)
    reader = answer_reader(builder, parse, keep_reasoning=keep_reasoning)
    options = Options(retry_failed=retry_failed, prefix=prefix, progress=False, repair=repair)
    with _silent_ray():
        _check_columns(ds, builder, reader, prefix)
        _check_picklable(ray, builder, reader)
        # Without the rows, which are on other machines, the builder alone must bound the cost of an answer.
        bounds, alone = SpendingCaps(budget_usd, budget_tokens), replace(builder, prompt="Any.")
        budget = make_budget(bounds, alone, pd.DataFrame(), account.price)
        number_of_workers = count_workers(ray, workers, account)
        folder = _folder(save_to, builder, account)
        run = _DatasetRun(ray, account, builder, reader, options, folder, number_of_workers, budget)
        return run.execute(ds, show=progress)


def _check_columns(ds: Any, builder: RequestBuilder, reader: Reader, prefix: str) -> None:
    if not hasattr(ds, "map_batches"):
        raise InvalidInputError(f"ds must be a ray.data.Dataset, not {type(ds).__name__}.")
    names = _names(ds)
    if not names and not ds.count():
        return  # without rows, the columns are unknown
    like = pd.DataFrame(index=range(2), columns=names)
    builder.check(like)
    check_free(like, [*reader.names, *COLUMNS], prefix)


def _names(ds: Any) -> list[str]:
    """The columns of a dataset. If its blocks have no common schema, those of its first row."""
    try:
        schema = ds.schema()
    except (TypeError, ValueError):
        return [name for row in ds.take(1) for name in row]
    return [] if schema is None else list(schema.names)


def _folder(save_to: str | os.PathLike[str] | None, builder: RequestBuilder, client: Client) -> Path:
    folder = journal_path(builder, client.place, save_to)
    if save_to is None:
        folder = folder.with_suffix("")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if save_to is None:
            make_private(folder.parent)
        make_private(folder)
    except JournalError:
        raise
    except OSError as error:
        raise JournalError(f"The folder {folder} for the answers cannot be made: {error.strerror}.") from error
    return folder.absolute()


@dataclass
class _DatasetRun:
    """One call of `process_dataset`, seen from the driver."""

    ray: Any
    client: Client
    builder: RequestBuilder
    reader: Reader
    options: Options
    folder: Path
    workers: int
    budget: Budget | None
    status: StatusTracker = field(default_factory=StatusTracker)

    def __post_init__(self) -> None:
        self.name = uuid.uuid4().hex[:12]
        self.account = AccountHandle(account_name(self.client), self.client.limiter.given)
        self._sealed = seal(self.client, self.workers)
        self._presses = Interrupts()
        self._stop: tuple[str, str] | None = None
        cpus = self.ray.cluster_resources().get("CPU", 1.0)
        self._cpus = min(1.0, cpus / (2 * self.workers))  # for each worker, leaving some for the tasks that read rows

    def execute(self, ds: Any, *, show: bool) -> Any:
        """Run with the folder locked, and wait for the end. After an interrupt all workers stop sending and wait for
        requests in flight; after another the call ends at once.

        Raises:
            KeyboardInterrupt: the run was stopped outside a notebook; `.partial` is the dataset.
        """
        check_not_blocked()
        lock = Lock(self.folder)
        try:
            with recorded_interrupts() as self._presses:
                out = self._run(ds, show=show)
                if self._presses:
                    return hand_over(out, self._presses)
                if self._stop is not None:
                    raise error_of(self._stop, partial=out)
                return out
        finally:
            lock.release()

    def _run(self, ds: Any, *, show: bool) -> Any:
        self.status.num_tasks_total = ds.count() * self.builder.samples if _is_materialized(ds) else None
        self._sync_state()
        if self.budget is not None:  # only once: a new actor would not know what has been spent
            self.account.ask("open_budget", self.name, self.budget.funds.left, self.workers)
        progress = Progress(self.status, self.client, show=show)
        began = time.monotonic()
        remove_leftovers(self.folder)
        marker = self.folder / f".run-{self.name}"
        marker.touch()
        line = ""
        try:
            mapped = self._mapped(ds)
            with self._presses.raising_after_first(), self._short_errors():
                out = self._with_all_columns(self._materialized(mapped, progress), ds)
            line = self._closing_line(time.monotonic() - began)
        finally:
            for left in self.folder.glob(f"{marker.name}*"):
                left.unlink(missing_ok=True)
            self._sync_state()
            self.account.ask("end", self.name)
            progress.close(line)
        return out

    @contextmanager
    def _short_errors(self) -> Iterator[None]:
        """Turn Ray's long errors into one sentence."""
        from ray.exceptions import RayError

        try:
            yield
        except RayError as error:
            self._sync_state()
            if self._stop is not None and not self._presses:
                raise error_of(self._stop) from error
            raise RunStoppedError(
                f"The cluster could not go on: {cause_of(error).rstrip('.')}. What was finished is in {self.folder}, "
                "and the same call goes on from there."
            ) from error

    def _materialized(self, mapped: Any, progress: Progress, within: float = REPLACED_WITHIN) -> Any:
        """The dataset with its rows computed. Ray waits forever for lost machines to be replaced, so this runs in a
        thread, which is abandoned then.

        Raises:
            RunStoppedError: the cluster has lost its last machine with room for a worker.
        """
        work: Future[Any] = Future()
        threading.Thread(target=_fulfil, args=(work, mapped.materialize), daemon=True).start()
        has_room_at = time.monotonic()
        while not work.done():
            wait([work], LOOK_EVERY)
            self._sync_state()
            progress.tick()
            if self.ray.cluster_resources().get("CPU", 0.0) >= self._cpus:
                has_room_at = time.monotonic()
            elif time.monotonic() - has_room_at > within:
                raise RunStoppedError(
                    f"The cluster has lost its last worker, and has started no other within {within:.0f} s. What was "
                    f"finished is in {self.folder}: run the same again as soon as the cluster has machines."
                )
        return work.result()

    def _with_all_columns(self, out: Any, ds: Any) -> Any:
        """Add the answer columns to an empty dataset, which no worker has seen."""
        if out.count():
            return out
        prefix = self.options.prefix
        answers = Answers(0, self.builder.samples, self.reader, self.client.price).columns()
        columns: dict[str, Any] = {name: [] for name in _names(ds)}
        added = {f"{prefix}{name}": pd.Series(values) for name, values in answers.items()}
        added[f"{prefix}status"] = added[f"{prefix}status"].astype("string")
        return self.ray.data.from_pandas(pd.DataFrame({**columns, **added}))

    def _mapped(self, ds: Any) -> Any:
        from ray.data import ActorPoolStrategy

        if _is_materialized(ds) and ds.num_blocks() < self.workers:
            ds = ds.repartition(self.workers)
        names = tuple(_names(ds))
        share = None if self.budget is None else Share(self.name, self.budget.funds.left, self.budget.tier)
        plan = Plan(
            self.name, self.account, self.builder, self.reader, self.options, self.folder, self._index(), names, share
        )
        out = ds.map_batches(
            BlockWorker,
            fn_constructor_args=(plan,),
            batch_size=None,
            batch_format="pandas",
            num_cpus=self._cpus,
            compute=ActorPoolStrategy(
                size=self.workers,
                # With a budget, one at a time: what one block reserves would look to another like the budget's end.
                max_concurrent_calls_per_actor=BLOCKS if share is None else 1,
                enable_true_multi_threading=True,
            ),
        )
        out.context.execution_options.preserve_order = True
        out.context.enable_progress_bars = False
        return out

    def _index(self) -> Any:
        """A reference to the index of earlier runs' answers, made by the cluster; None if there are none."""
        paths = [str(path) for path in sorted(self.folder.glob("part-*.jsonl")) if path.stat().st_size]
        if not paths:
            return None
        scanner = self.ray.remote(_scan)
        known = (not self.options.retry_failed, self.client.is_local)
        scans = self.ray.get(
            [scanner.remote(group, first, *known) for first, group in in_groups(paths, 4 * self.workers)]
        )
        for each in scans:
            if isinstance(each, JournalError):
                raise each
        return self.ray.put(Index.of(paths, scans))

    def _sync_state(self) -> None:
        """Exchange state with the actor: read the workers' totals and any stop, and pass on an interrupt."""
        if self._presses and self._stop is None:
            self._stop = "KeyboardInterrupt", "It was stopped."
        totals, limits, self._stop = self.account.ask("look", self.name, self._sealed, self._stop)
        for name in (*COUNTED, *GAUGES):
            setattr(self.status, name, totals[name])
        for model, known in limits.items():
            learn_limits(self.client.limiter.of(model), known, time.monotonic())

    def _closing_line(self, seconds: float) -> str:
        status = self.status
        good = status.num_tasks_succeeded + status.num_tasks_shared
        known = f", {status.num_tasks_restored:,} from the journals" if status.num_tasks_restored else ""
        counts = f"{good:,} succeeded, {status.num_tasks_failed:,} failed in {seconds:.1f} s{known}"
        how = "Interrupted. The same call goes on from there: " if self._presses else ""
        return f"{how}{counts}, {self.workers} workers. Answers: {self.folder}"


@contextmanager
def _silent_ray() -> Iterator[None]:
    """Silence Ray's own messages, which would break the progress bar."""
    log = logging.getLogger("ray.data")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _fulfil(work: Future[Any], function: Callable[[], Any]) -> None:
    try:
        work.set_result(function())
    except BaseException as error:
        work.set_exception(error)


def _scan(paths: list[str], first: int, failures: bool, simulated: bool) -> Any:
    """As `scan`, but an error is returned: raised in a task, Ray would wrap it in many lines."""
    try:
        return scan(paths, first, failures, simulated)
    except JournalError as error:
        return error


def _check_picklable(ray: Any, builder: RequestBuilder, reader: Reader) -> None:
    try:
        ray.cloudpickle.dumps((builder, reader))
    except Exception as error:  # pickling may call anything, which may raise anything
        raise InvalidInputError(
            f"The call cannot be sent to other processes ({last_line(error)}): make what its functions use, such as "
            "locks, files and connections, inside them."
        ) from None


def _is_materialized(ds: Any) -> bool:
    """Whether the dataset's rows are computed already."""
    from ray.data.dataset import MaterializedDataset

    return isinstance(ds, MaterializedDataset)
