"""What can be done about the batches of a journal, from anywhere: look at them, collect them, cancel them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from parallel_openai._arguments import is_file, path_of
from parallel_openai._batch.batch_api import LOOKS, BatchAPI
from parallel_openai._batch.batch_run import BatchRun
from parallel_openai._batch.batch_state import Part, live_parts, step, write
from parallel_openai._batch.lane_options import BatchLane
from parallel_openai._batch.part_failures import OF_A_PART, LostError
from parallel_openai._batch.server_batch import ServerBatch
from parallel_openai._batch.submitting.input_files import InputFiles
from parallel_openai._client.client import Client
from parallel_openai._client.default_client import client_for
from parallel_openai._journal.entry import result_line
from parallel_openai._journal.journal import Journal
from parallel_openai._journal.known_results import KnownResults
from parallel_openai._journal.lines import read_entries
from parallel_openai._json import dumps
from parallel_openai._loop.background import Interrupted
from parallel_openai._loop.background import run as run_to_end
from parallel_openai._loop.interrupts import interrupt_with, noted_interrupts
from parallel_openai._printable import printable
from parallel_openai._progress.progress import Progress
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._records import APIRequest, Result
from parallel_openai.errors import InvalidInputError, RunStoppedError

T = TypeVar("T")


@dataclass(frozen=True)
class BatchInfo:
    """A batch as the server shows it.

    Attributes:
        id: its name at the server; None where it waits for room in the queue.
        status: the server's word: `validating`, `in_progress`, `finalizing`, `completed`, `expired`, `cancelling`,
            `cancelled`, `failed`; or `queued` for one that waits here; or `lost` where the server shows none.
        requests, completed, failed: of its rows.
        round: which submission it is for its rows.
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
    """How the batches stand whose answers are not in a journal yet.

    Args:
        save_to: the journal, or the results file.
        client: the account; None: the environment's.

    Raises:
        InvalidInputError: there is no such file.
        RunStoppedError: the server refuses every request.
    """
    parts = _parts(save_to)
    return _run(_each(client_for(client), parts, _look))


def cancel_batches(
    save_to: str | os.PathLike[str], *, client: Client | None = None, forget: str | Sequence[str] = ()
) -> list[BatchInfo]:
    """Cancel the batches whose answers are not in a journal yet, and what waits to be submitted.

    What they answered until then is paid, and can be collected. The rest is not, and `collect_batches` does not submit
    it again.

    Args:
        save_to: the journal, or the results file.
        client: the account; None: the environment's.
        forget: as for `collect_batches`.

    Returns:
        The batches as they stand now; one that has come to its end meanwhile cannot be cancelled any more.

    Raises:
        InvalidInputError: there is no such file.
        RunStoppedError: the server refuses every request.
    """
    give_up(save_to, forget)
    parts = _parts(save_to)
    if parts:
        InputFiles(Path(save_to)).cancel()
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
    """Wait for the batches of a journal and write their answers into it; in any process, without the frame.

    The same call that submitted them does that too, and gives the frame; afterwards it finds all in the journal.

    Args:
        save_to: the journal, or the results file.
        client: the account; None: the environment's.
        lane: as for the call that submitted them; `wait=False` takes what is there and does not wait for the rest.
        progress: False shows no bar.
        forget: the id of a batch, or several, to give up: one that the server does not show any more, say. Its rows may
            be asked, and paid for, once more.

    Returns:
        The counts. Their `ended` says whether all is done; it is `submitted` if a batch goes on, or cannot be read.

    Raises:
        InvalidInputError: there is no such file.
        RunStoppedError: the server refuses.
        KeyboardInterrupt: interrupted; the batches go on at the server.
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
        with noted_interrupts() as presses:
            collecting = _collect(Path(save_to), client, lane or BatchLane(), parts, status)
            rest = run_to_end(collecting, bar.tick, presses)
        line = f"{status.num_tasks_succeeded:,} succeeded, {status.num_tasks_failed:,} failed. Answers: {save_to}"
        line = line if rest is None else f"{line}. {rest}"
    except Interrupted:
        line = "Interrupted. The batches go on at the server; the same call goes on from there."
        raise interrupt_with(status) from None
    finally:
        bar.close(line)
    return status


def _parts(save_to: str | os.PathLike[str]) -> list[Part]:
    place = path_of(save_to, "save_to")
    if not is_file(place):
        raise InvalidInputError(f"There is no file {place} (in {Path.cwd()}).")
    return live_parts(place)


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        with noted_interrupts() as presses:
            return run_to_end(work, lambda: None, presses)
    except Interrupted:
        raise KeyboardInterrupt from None


def give_up(save_to: str | os.PathLike[str], forget: str | Sequence[str]) -> None:
    """Note in a journal that batches are given up, by their ids or the names of their parts.

    Raises:
        InvalidInputError: it is no id, or there is no batch of that id.
    """
    names = [forget] if isinstance(forget, str) else forget
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise InvalidInputError(f"forget must be the id of a batch, or a list of them, not {forget!r:.200}.")
    if not names:
        return
    with Journal(path_of(save_to, "save_to")) as journal:
        parts = {part.batch_id or part.name: part for part in _parts(save_to)}
        unknown = [name for name in names if name not in parts]
        if unknown:
            known = ", ".join(parts) or "none"
            raise InvalidInputError(f"forget={unknown[0]!r:.200} is no batch of {save_to}; it waits for: {known}.")
        input_files = InputFiles(journal.path)
        for part in (parts[name] for name in dict.fromkeys(names)):
            write(journal, [step(part, "dropped")])
            input_files.remove(part.name)


Look = Callable[[BatchAPI, Part], Coroutine[Any, Any, BatchInfo]]


async def _each(client: Client, parts: list[Part], look: Look) -> list[BatchInfo]:
    """What can be said of each part. What is wrong with one is no other's trouble."""
    api, found, errors = BatchAPI(client), list[BatchInfo](), list[RunStoppedError]()
    for part in parts:
        try:
            found.append(await look(api, part))
        except RunStoppedError as error:
            errors.append(error)
            found.append(BatchInfo(part.batch_id, "lost", part.requests, 0, 0, part.round, str(error)))
    stops = [error for error in errors if not isinstance(error, OF_A_PART)]
    if stops and not api.has_worked:
        raise stops[0]
    return found


async def _look(api: BatchAPI, part: Part) -> BatchInfo:
    return _info(part, await api.get(part.batch_id) if part.batch_id else None)


async def _cancel(api: BatchAPI, part: Part) -> BatchInfo:
    batch_id = part.batch_id
    if batch_id is None and part.creating_at:  # it may be there although nobody wrote down its id
        made = await api.find(part.file_id, part.name, part.former, LOOKS)
        batch_id = None if made is None else made.id
    if batch_id is None:
        return replace(_info(part, None), status="cancelled")
    try:
        return _info(part, await api.cancel(batch_id))
    except LostError:  # it has come to its end by itself
        return _info(part, await api.get(batch_id))


def _info(part: Part, batch: ServerBatch | None) -> BatchInfo:
    if batch is None:
        return BatchInfo(None, "queued", part.requests, 0, 0, part.round)
    _, completed, failed = batch.counts or (0, 0, 0)
    return BatchInfo(batch.id or part.batch_id, batch.status, part.requests, completed, failed, part.round)


async def _collect(path: Path, client: Client, lane: BatchLane, parts: list[Part], status: StatusTracker) -> str | None:
    """Gives what goes on at the server, as sentences."""
    record = all(part.record for part in parts)
    with Journal(path, sync=client.sync) as journal:

        def take(result: Result) -> None:
            journal.append(result_line(result, record=record))

        batches = BatchRun(
            client,
            journal,
            lane,
            on_result=take,
            status=status,
            record=record,
            identity=identity_in_frames if record else identity_in_files,
            known=_known_in_frames(path) if record else _known_in_files(path, parts),
            all_asked=True,
        )
        status.ended = await batches.run()
    return batches.standing.rest()


def identity_in_frames(key: str, metadata: Any) -> str:
    """What names a row of a frame: what it asks."""
    return key


def identity_in_files(key: str, metadata: Any) -> str:
    """What names a line of a requests file: the same request for two different rows is two."""
    return key if metadata is None else f"{key} {dumps(metadata, sort_keys=True).decode()}"


def _known_in_frames(path: Path) -> Callable[[str], int]:
    known = KnownResults(path, simulated=True)
    known.close()
    return lambda key: int(key in known)


def _known_in_files(path: Path, parts: list[Part]) -> Callable[[str], int]:
    known: Counter[str] = Counter()
    places = {part.path for part in parts}
    for _, entry in read_entries(path):
        if entry is not None and entry[0] and isinstance(entry[1], dict):
            for place in places:
                request = APIRequest(entry[0], path=place)
                known[identity_in_files(request.key, entry[2] if len(entry) > 2 else None)] += 1
    return lambda name: known[name]
