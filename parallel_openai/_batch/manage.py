"""Check, collect or cancel the batches of a journal, in any process."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from parallel_openai._arguments import check_file, path_of
from parallel_openai._batch.batch_api import LIST_DELAYS, BatchAPI
from parallel_openai._batch.batch_run import BatchRun
from parallel_openai._batch.batch_state import Part, live_parts, step, write
from parallel_openai._batch.lane_options import BatchLane
from parallel_openai._batch.part_failures import PART_ERRORS, LostError
from parallel_openai._batch.server_batch import ServerBatch
from parallel_openai._batch.submitting.input_files import InputFiles
from parallel_openai._client.client import Client
from parallel_openai._client.default_client import client_for
from parallel_openai._journal.entry import result_line
from parallel_openai._journal.journal import Journal
from parallel_openai._journal.known_results import KnownResults
from parallel_openai._journal.origins import here
from parallel_openai._loop.background import Interrupted
from parallel_openai._loop.background import run as run_to_end
from parallel_openai._loop.interrupts import interrupt_with, recorded_interrupts
from parallel_openai._printable import printable
from parallel_openai._progress.progress import Progress
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._records import Result
from parallel_openai.errors import InvalidInputError, RunStoppedError

T = TypeVar("T")


@dataclass(frozen=True)
class BatchInfo:
    """The state of a batch at the server.

    Attributes:
        id: its id at the server; None if it is not submitted yet, since the server's queue is full.
        status: the server's status: `validating`, `in_progress`, `finalizing`, `completed`, `expired`, `cancelling`,
            `cancelled`, `failed`; or `queued` if it is not submitted yet; or `lost` if the server does not return it.
        requests, completed, failed: the numbers of its rows.
        round: the number of the submission of its rows, from 1.
        error: why it is lost.
    """

    id: str | None
    status: str
    requests: int
    completed: int
    failed: int
    round: int
    error: str | None = None

    def __str__(self) -> str:
        again = f", submission {self.round} of its rows" if self.round > 1 else ""
        failed = f", {self.failed:,} failed" if self.failed else ""
        done = f"{self.completed:,} of {self.requests:,} done"
        why = f". {self.error}" if self.error else ""
        return printable(f"{self.id or 'not submitted yet'}: {self.status}, {done}{failed}{again}{why}")


def batch_status(save_to: str | os.PathLike[str], *, client: Client | None = None) -> list[BatchInfo]:
    """The state of the batches whose answers are not in the journal yet.

    Args:
        save_to: the journal, or the results file.
        client: the account; None: the environment's.

    Raises:
        InvalidInputError: there is no such file.
        RunStoppedError: the server refuses every request.
    """
    parts = _parts(save_to)
    return _run(_each(client_for(client), parts, _check))


def cancel_batches(
    save_to: str | os.PathLike[str], *, client: Client | None = None, forget: str | Sequence[str] = ()
) -> list[BatchInfo]:
    """Cancel the batches whose answers are not in a journal yet, and what waits to be submitted.

    What they have answered is billed and can be collected. The rest is not billed, and `collect_batches` does not
    submit it again.

    Args:
        save_to: the journal, or the results file.
        client: the account; None: the environment's.
        forget: as for `collect_batches`.

    Returns:
        The batches with their new status; one that has already ended cannot be cancelled.

    Raises:
        InvalidInputError: there is no such file.
        RunStoppedError: the server refuses every request.
    """
    give_up(save_to, forget)
    parts = _parts(save_to)
    if parts:
        InputFiles(path_of(save_to, "save_to")).cancel()
        parts = _parts(save_to)  # a run in another process may just have submitted one
    return _run(_each(client_for(client), parts, _cancel))


def collect_batches(
    save_to: str | os.PathLike[str],
    *,
    client: Client | None = None,
    lane: BatchLane | None = None,
    progress: bool = True,
    forget: str | Sequence[str] = (),
) -> StatusTracker:
    """Wait for the batches of a journal and write their answers into it, in any process and without the frame.

    The call that submitted them does so too when it is repeated; afterwards it finds the answers in the journal. What
    another user or machine planned and never submitted is left to them, since it would be billed to this account.

    Args:
        save_to: the journal, or the results file.
        client: the account; None: the environment's.
        lane: as for the call that submitted them; `wait=False` collects what is there without waiting for the rest.
        progress: whether to show a progress bar.
        forget: the ids of one or more batches to give up, such as one that the server no longer returns. Their rows
            may then be sent, and billed, again.

    Returns:
        The counts. `ended` is `submitted` if a batch is still running or cannot be read.

    Raises:
        InvalidInputError: there is no such file.
        RunStoppedError: the server refuses a batch or every request.
        KeyboardInterrupt: on Ctrl-C; the batches keep running at the server.
    """
    give_up(save_to, forget)
    parts = _parts(save_to)
    status = StatusTracker(num_tasks_total=sum(part.requests for part in parts))
    client = client_for(client)
    if lane is not None and not isinstance(lane, BatchLane):
        raise InvalidInputError(f"lane must be a BatchLane, such as BatchLane(wait=False), not {lane!r:.200}.")
    bar = Progress(status, client, show=progress)
    line = ""
    try:
        with recorded_interrupts() as interrupts:
            collecting = _collect(path_of(save_to, "save_to"), client, lane or BatchLane(), parts, status)
            rest = run_to_end(collecting, bar.tick, interrupts)
        line = f"{status.num_tasks_succeeded:,} succeeded, {status.num_tasks_failed:,} failed. Answers: {save_to}"
        line = line if rest is None else f"{line}. {rest}"
    except Interrupted:
        line = "Interrupted. The batches keep running at the server; the same call resumes from there."
        raise interrupt_with(status) from None
    finally:
        bar.close(line)
    return status


def _parts(save_to: str | os.PathLike[str]) -> list[Part]:
    path = path_of(save_to, "save_to")
    check_file(path)
    return live_parts(path)


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        with recorded_interrupts() as interrupts:
            return run_to_end(work, lambda: None, interrupts)
    except Interrupted:
        raise KeyboardInterrupt from None


def give_up(save_to: str | os.PathLike[str], forget: str | Sequence[str]) -> None:
    """Record in a journal that batches are given up, by their ids or the names of their parts."""
    names = [forget] if isinstance(forget, str) else forget
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise InvalidInputError(f"forget must be a batch's id or a list of ids, not {forget!r:.200}.")
    if not names:
        return
    with Journal(path_of(save_to, "save_to")) as journal:
        parts = {part.batch_id or part.name: part for part in _parts(save_to)}
        unknown = [name for name in names if name not in parts]
        if unknown:
            known = ", ".join(parts) or "none"
            raise InvalidInputError(
                f"forget={unknown[0]!r:.200} is not a batch of {save_to}; its batches are: {known}."
            )
        input_files = InputFiles(journal.path)
        for part in (parts[name] for name in dict.fromkeys(names)):
            write(journal, [step(part, "dropped")])
            input_files.remove(part.name)


Action = Callable[[BatchAPI, Part], Coroutine[Any, Any, BatchInfo]]


async def _each(client: Client, parts: list[Part], action: Action) -> list[BatchInfo]:
    """Apply an action to each part. The failure of one does not affect the others."""
    api, found, errors = BatchAPI(client), list[BatchInfo](), list[RunStoppedError]()
    for part in parts:
        try:
            found.append(await action(api, part))
        except RunStoppedError as error:
            errors.append(error)
            found.append(BatchInfo(part.batch_id, "lost", part.requests, 0, 0, part.round, str(error)))
    stops = [error for error in errors if not isinstance(error, PART_ERRORS)]
    if stops and not api.has_worked:
        raise stops[0]
    return found


async def _check(api: BatchAPI, part: Part) -> BatchInfo:
    return _info(part, await api.get(part.batch_id) if part.batch_id else None)


async def _cancel(api: BatchAPI, part: Part) -> BatchInfo:
    batch_id = part.batch_id
    if batch_id is None and part.creating_at:  # a crash may have prevented recording its id
        created = await api.find(part.file_id, part.name, part.former, LIST_DELAYS)
        batch_id = None if created is None else created.id
    if batch_id is None:
        return replace(_info(part, None), status="cancelled")
    try:
        return _info(part, await api.cancel(batch_id))
    except LostError:  # it has already ended
        return _info(part, await api.get(batch_id))


def _info(part: Part, batch: ServerBatch | None) -> BatchInfo:
    if batch is None:
        return BatchInfo(None, "queued", part.requests, 0, 0, part.round)
    _, completed, failed = batch.counts or (0, 0, 0)
    return BatchInfo(batch.id or part.batch_id, batch.status, part.requests, completed, failed, part.round)


async def _collect(path: Path, client: Client, lane: BatchLane, parts: list[Part], status: StatusTracker) -> str | None:
    """Collect; returns what is still running, as sentences."""
    record = all(part.record for part in parts)
    with Journal(path, sync=client.sync) as journal:

        def take(result: Result) -> None:
            journal.append(result_line(result, record=record, origin=here(client.place)))

        batches = BatchRun(
            client,
            journal,
            lane,
            on_result=take,
            status=status,
            record=record,
            known=_known_in_frames(path) if record else lambda name, offset: False,
            claim_all=True,
        )
        status.ended = await batches.run()
    return batches.status_text.rest()


def _known_in_frames(path: Path) -> Callable[[str, int], bool]:
    known = KnownResults(path, simulated=True)
    known.close()
    return known.is_answered_behind
