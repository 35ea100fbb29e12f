"""`process_dataset`: one answer for each row of a Ray Dataset, asked for where the rows are."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from parallel_openai.client import Client, client_for
from parallel_openai.distributed.cluster import Line, account_name, count_workers, error_of, find_ray, seal, worker_name
from parallel_openai.distributed.parts import Index, KnownParts, in_groups, new_part, partition_name, parts_of, scan
from parallel_openai.distributed.worker import COUNTS, Tape, leased_client
from parallel_openai.engine.journal import Sync
from parallel_openai.engine.progress import Progress
from parallel_openai.engine.resume import KnownResults
from parallel_openai.engine.status import StatusTracker
from parallel_openai.errors import InvalidInputError, JournalError, RunStoppedError
from parallel_openai.frames.answers import COLUMNS, Reader
from parallel_openai.frames.place import journal_path, make_private
from parallel_openai.frames.process import answer_reader, make_recipe
from parallel_openai.frames.recipe import Prompt, Recipe
from parallel_openai.frames.run import FrameRun, Options
from parallel_openai.frames.table import check_free

#: Blocks that a worker has in hand: while the last answers of one are awaited, the next one's requests go out.
BLOCKS = 4
#: Seconds between two looks at the counters.
LOOK_EVERY = 0.5
#: Seconds that a worker waits for what makes its client, where the account's actor has just been begun anew.
OPEN_WITHIN = 30.0
_COUNTED = (*COUNTS, "num_tasks_succeeded", "num_tasks_failed", "num_tasks_restored", "num_tasks_shared")
_GAUGES = ("num_tasks_in_progress", "num_tasks_waiting")


def process_dataset(
    ds: Any,
    prompt: Prompt,
    *,
    model: str | None,
    system: Prompt | None = None,
    endpoint: str = "chat.completions",
    response_format: Mapping[str, Any] | None = None,
    samples: int = 1,
    metadata: Hashable | Sequence[Hashable] = (),
    save_to: str | os.PathLike[str] | None = None,
    retry_failed: bool = True,
    parse: Callable[[Any], Any] | None = None,
    repair: bool | int = False,
    prefix: str = "",
    progress: bool = True,
    sync: Sync = "second",
    workers: int | None = None,
    client: Client | None = None,
    extra_body: Mapping[str, Any] | None = None,
    **params: Any,
) -> Any:
    """Ask the model once for each row of a Ray Dataset, on the machines of the cluster, within the account's one limit.

    Args:
        ds: the rows, a `ray.data.Dataset`.
        save_to: a folder for the journals, on storage that all machines see. None: one in `.parallel_openai/`, which
            does where all workers are on this machine.
        workers: processes that send; None: one for each processor of the cluster, up to 8.

    The other arguments are those of `process_dataframe`. A prompt that is a function gets the rows as they are in the
    dataset. It waits until all is done.

    Returns:
        A dataset with the same rows in the same order, and the columns that `process_dataframe` adds. Rows of one block
        that ask the same share an answer.

    Raises:
        MissingDependencyError: Ray is not installed.
        InvalidInputError: before anything is sent: a column is missing, the folder is not seen everywhere, ...
        RunStoppedError: the server will refuse every row; `.partial` is the dataset with what was finished.

    A worker that dies is replaced, and its blocks are worked on again: what stands in the journals is not asked for
    again. So it is when the same call is made again, also with other or differently divided rows.
    """
    ray = find_ray()
    account = client_for(client)
    account.check_key()
    recipe = make_recipe(prompt, model, system, endpoint, response_format, samples, metadata, extra_body, params)
    reader = answer_reader(recipe, parse)
    options = Options(
        retry_failed=retry_failed,
        prefix=prefix,
        progress=False,
        sync=sync,
        repair=repair,
    )
    _check_columns(ds, recipe, reader, prefix)
    number = count_workers(ray, workers)
    folder = _folder(save_to, recipe, account)
    run = _DatasetRun(ray, account, recipe, reader, options, folder, number)
    return run.execute(ds, show=progress)


def _check_columns(ds: Any, recipe: Recipe, reader: Reader, prefix: str) -> None:
    schema = ds.schema() if hasattr(ds, "map_batches") else None
    if schema is None:
        raise InvalidInputError(f"ds must be a ray.data.Dataset that has rows, not {type(ds).__name__}.")
    like = pd.DataFrame(index=range(2), columns=schema.names)
    recipe.check(like)
    check_free(like, [*reader.names, *COLUMNS], prefix)


def _folder(save_to: str | os.PathLike[str] | None, recipe: Recipe, client: Client) -> Path:
    folder = journal_path(recipe, client.place, save_to)
    if save_to is None:
        folder = folder.with_suffix("")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        make_private(folder)
    except OSError as error:
        raise JournalError(f"The folder {folder} for the answers cannot be made: {error.strerror}.") from error
    return folder.absolute()


@dataclass(frozen=True)
class Plan:
    """What a worker needs to know; the key is not in it."""

    run: str
    line: Line
    recipe: Recipe
    reader: Reader
    options: Options
    folder: Path
    index: Any  # a reference to an Index; None where there is nothing to know


@dataclass
class _DatasetRun:
    """One call, as its caller sees it."""

    ray: Any
    client: Client
    recipe: Recipe
    reader: Reader
    options: Options
    folder: Path
    workers: int
    status: StatusTracker = field(default_factory=StatusTracker)

    def execute(self, ds: Any, *, show: bool) -> Any:
        self.name = uuid.uuid4().hex[:12]
        self.line = Line(
            account_name(self.client), (self.client.max_requests_per_minute, self.client.max_tokens_per_minute)
        )
        self._sealed = seal(self.client, self.workers)
        self.status.num_tasks_total = ds.count() * self.recipe.samples if _is_there(ds) else None
        self._begin()
        progress = Progress(self.status, self.client, show=show)
        began = time.monotonic()
        marker = self.folder / f".run-{self.name}"
        marker.touch()
        try:
            with self._watched(progress):
                out = self._mapped(ds).materialize()
        except BaseException:
            progress.close()
            raise
        finally:
            marker.unlink(missing_ok=True)
            stop = self._look()
            self.ray.get(self.line.find().end.remote(self.name))
        progress.close(self._closing_line(time.monotonic() - began))
        if stop is not None:
            raise error_of(stop, partial=out)
        return out

    def _begin(self) -> None:
        self.ray.get(self.line.find().begin.remote(self.name, self._sealed))

    def _mapped(self, ds: Any) -> Any:
        from ray.data import ActorPoolStrategy

        if _is_there(ds) and ds.num_blocks() < self.workers:
            ds = ds.repartition(self.workers)
        cpus = self.ray.cluster_resources().get("CPU", 1.0)
        plan = Plan(self.name, self.line, self.recipe, self.reader, self.options, self.folder, self._index())
        out = ds.map_batches(
            BlockWorker,
            fn_constructor_args=(plan,),
            batch_size=None,
            batch_format="pandas",
            num_cpus=min(1.0, cpus / (2 * self.workers)),  # what reads the rows needs some too
            compute=ActorPoolStrategy(
                size=self.workers, max_concurrent_calls_per_actor=BLOCKS, enable_true_multi_threading=True
            ),
        )
        out.context.execution_options.preserve_order = True
        out.context.enable_progress_bars = False
        return out

    def _index(self) -> Any:
        """What earlier runs left, read by the cluster."""
        paths = [str(path) for path in sorted(self.folder.glob("part-*.jsonl")) if path.stat().st_size]
        if not paths:
            return None
        scanner = self.ray.remote(scan)
        known = (not self.options.retry_failed, self.client.is_local)
        scans = self.ray.get(
            [scanner.remote(group, first, *known) for first, group in in_groups(paths, 4 * self.workers)]
        )
        return self.ray.put(Index.of(paths, scans))

    @contextmanager
    def _watched(self, progress: Progress) -> Iterator[None]:
        """The bar moves meanwhile, in a thread, and Ray's own messages do not run through it."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(LOOK_EVERY):
                self._look()
                progress.tick()

        watching = threading.Thread(target=watch, daemon=True)
        log = logging.getLogger("ray.data")
        before = log.level
        log.setLevel(logging.ERROR)
        watching.start()
        try:
            yield
        finally:
            over.set()
            watching.join()
            log.setLevel(before)

    def _look(self) -> tuple[str, str] | None:
        """Take the workers' counts together; gives why the run stopped."""
        from ray.exceptions import RayActorError

        try:
            totals, limits, stop = self.ray.get(self.line.find().totals.remote(self.name))
        except RayActorError:  # another run had begun it, and has ended
            self.line.hang_up()
            self._begin()
            return None
        for name in (*_COUNTED, *_GAUGES):
            setattr(self.status, name, totals[name])
        self.status.cost_usd = totals["cost_usd"]
        limiter = self.client.limiter
        for bucket, limit in zip((limiter.requests, limiter.tokens), limits, strict=True):
            if limit is not None and limit != bucket.limit:
                bucket.set_limit(limit, time.monotonic())
        found: tuple[str, str] | None = stop
        return found

    def _closing_line(self, seconds: float) -> str:
        status = self.status
        good = status.num_tasks_succeeded + status.num_tasks_shared
        known = f", {status.num_tasks_restored:,} from the journals" if status.num_tasks_restored else ""
        counts = f"{good:,} succeeded, {status.num_tasks_failed:,} failed in {seconds:.1f} s{known}"
        return f"{counts}, {self.workers} workers. Answers: {self.folder}"


def _is_there(ds: Any) -> bool:
    """Whether its rows need not be read or computed first."""
    from ray.data.dataset import MaterializedDataset

    return isinstance(ds, MaterializedDataset)


class BlockWorker:
    """An actor of the dataset: asks for the rows of a block, several blocks at a time."""

    def __init__(self, plan: Plan) -> None:
        import ray

        self._ray = ray
        self.plan = plan
        self._name = worker_name()
        self.stop: tuple[str, str] | None = None
        self.status = StatusTracker(timeline=Tape(keeps=False))
        self.index: Index | None = None if plan.index is None else ray.get(plan.index)
        self.client = self._open()
        self._told_at = 0.0
        self._telling = threading.Lock()
        if not (plan.folder / f".run-{plan.run}").exists():
            host = self._name.rpartition("-")[0]
            self.end_run(
                InvalidInputError(
                    f"The machine {host} does not see the folder {plan.folder}: save_to must lie on storage that all "
                    "machines share."
                )
            )

    def __call__(self, rows: pd.DataFrame) -> pd.DataFrame:
        run = PartRun(rows, self.plan.recipe, self.plan.reader, self.client, self.plan.options, self.status, self)
        try:
            out = run.execute() if self.stop is None else run.cancelled()
        except (RunStoppedError, JournalError) as error:
            self.end_run(error)
            partial = getattr(error, "partial", None)
            out = run.cancelled() if partial is None else partial
        finally:
            self.tell(at_once=True)
        out.attrs = {}  # they would become a part of the block's type
        name = f"{self.plan.options.prefix}status"
        return out.assign(**{name: out[name].astype("string")})

    def end_run(self, error: Exception) -> None:
        """Have all workers stop."""
        self.stop = (type(error).__name__, str(error))
        self._ray.get(self.plan.line.find().stop.remote(self.plan.run, *self.stop))

    def tell(self, *, at_once: bool = False) -> None:
        """Tell how it stands, now and then, and hear whether to stop."""
        from ray.exceptions import RayActorError

        now = time.monotonic()
        with self._telling:
            if not at_once and now - self._told_at < LOOK_EVERY:
                return
            self._told_at = now
            counts = Counter({name: getattr(self.status, name) for name in (*_COUNTED, *_GAUGES, "cost_usd")})
            try:
                stop = self._ray.get(self.plan.line.find().count.remote(self.plan.run, self._name, counts))
            except RayActorError:
                self.plan.line.hang_up()
                return
            self.stop = self.stop or stop

    def _open(self) -> Client:
        give_up_at = time.monotonic() + OPEN_WITHIN
        while time.monotonic() < give_up_at:
            sealed = self._ray.get(self.plan.line.find().unseal.remote(self.plan.run))
            if sealed is not None:
                return leased_client(sealed, self.plan.line)[0]
            time.sleep(LOOK_EVERY)
        raise RuntimeError("The run that this worker is for has ended.")


@dataclass
class PartRun(FrameRun):
    """The rows of one block, with journals of their own."""

    worker: BlockWorker | None = None

    def execute(self) -> pd.DataFrame:
        try:
            return super().execute()
        finally:
            self._tidy()

    def cancelled(self) -> pd.DataFrame:
        """The rows as they are when nothing is asked."""
        return self._finish(self._progress(), time.monotonic(), "stopped")

    def _journal_path(self) -> Path:
        assert self.worker is not None
        self._partition = partition_name(self.recipe.requests(self.df), len(self.df))
        return new_part(self.worker.plan.folder, self._partition)

    async def _known(self) -> KnownResults:
        assert self.worker is not None
        how = {"failures": not self.options.retry_failed, "simulated": self.client.is_local}
        paths = [path for path in parts_of(self.worker.plan.folder, self._partition) if path != self.journal_path]
        known = [await KnownResults.load(path, **how) for path in paths if path.stat().st_size]
        return KnownParts(known, self.worker.index)

    def _progress(self) -> Progress:
        assert self.worker is not None
        return _Telling(self.worker, self.client)

    def _tidy(self) -> None:
        """Leave no empty files behind."""
        self.journal_path.with_name(self.journal_path.name + ".lock").unlink(missing_ok=True)
        if self.journal_path.exists() and not self.journal_path.stat().st_size:
            self.journal_path.unlink()


class _Telling(Progress):
    """Shows nothing here, and tells those who show."""

    def __init__(self, worker: BlockWorker, client: Client) -> None:
        super().__init__(worker.status, client, show=False)
        self._worker = worker

    def tick(self) -> None:
        self._worker.tell()
