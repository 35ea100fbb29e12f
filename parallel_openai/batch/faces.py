"""What can be done about the batches of a journal, from anywhere: look at them, collect them, cancel them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from parallel_openai.arguments import path_of
from parallel_openai.batch.api import BatchAPI
from parallel_openai.batch.options import BatchLane
from parallel_openai.batch.run import BatchRun
from parallel_openai.batch.state import Part, live_parts
from parallel_openai.client import Client
from parallel_openai.default_client import client_for
from parallel_openai.engine.interrupts import interrupt_with, noted_interrupts
from parallel_openai.engine.journal import Journal
from parallel_openai.engine.lines import read_entries
from parallel_openai.engine.loop import Interrupted
from parallel_openai.engine.loop import run as run_to_end
from parallel_openai.engine.progress import Progress
from parallel_openai.engine.resume import KnownResults, result_line
from parallel_openai.engine.status import StatusTracker
from parallel_openai.errors import BatchError, InvalidInputError
from parallel_openai.jsonl import dumps
from parallel_openai.printable import printable
from parallel_openai.records import APIRequest, Result

T = TypeVar("T")


@dataclass(frozen=True)
class BatchInfo:
    """A batch as the server shows it.

    Attributes:
        id: its name at the server; None where it waits for room in the queue.
        status: the server's word: `validating`, `in_progress`, `finalizing`, `completed`, `expired`, `cancelling`,
            `cancelled`, `failed`; or `queued` for one that waits here.
        requests, completed, failed: of its rows.
        round: which submission it is for its rows.
    """

    id: str | None
    status: str
    requests: int
    completed: int
    failed: int
    round: int

    def __str__(self) -> str:
        again = f", submission {self.round} of its rows" if self.round > 1 else ""
        failed = f", {self.failed:,} failed" if self.failed else ""
        done = f"{self.completed:,} of {self.requests:,} done"
        return printable(f"{self.id or 'not submitted yet'}: {self.status}, {done}{failed}{again}")


def batch_status(save_to: str | os.PathLike[str], *, client: Client | None = None) -> list[BatchInfo]:
    """How the batches stand whose answers are not in a journal yet.

    Args:
        save_to: the journal, or the results file.
        client: the account; None: the environment's.

    Raises:
        InvalidInputError: there is no such file.
        BatchError: the server does not know a batch.
    """
    parts = _parts(save_to)
    return _run(_look(client_for(client), parts))


def cancel_batches(save_to: str | os.PathLike[str], *, client: Client | None = None) -> list[BatchInfo]:
    """Cancel the batches whose answers are not in a journal yet. What they answered until then is paid, and can be
    collected; the rest is not.

    Args:
        save_to: the journal, or the results file.
        client: the account; None: the environment's.

    Returns:
        The batches as they stand now; one that has come to its end meanwhile cannot be cancelled any more.

    Raises:
        InvalidInputError: there is no such file.
    """
    parts = _parts(save_to)
    return _run(_cancel(client_for(client), parts))


def collect_batches(
    save_to: str | os.PathLike[str],
    *,
    client: Client | None = None,
    lane: BatchLane | None = None,
    progress: bool = True,
) -> StatusTracker:
    """Wait for the batches of a journal and write their answers into it; in any process, without the frame.

    The same call that submitted them does that too, and gives the frame; afterwards it finds all in the journal.

    Args:
        save_to: the journal, or the results file.
        client: the account; None: the environment's.
        lane: as for the call that submitted them; `wait=False` takes what is there and does not wait for the rest.
        progress: False shows no bar.

    Returns:
        The counts; their `ended` says whether all is done.

    Raises:
        InvalidInputError: there is no such file.
        RunStoppedError: the server refuses.
        KeyboardInterrupt: interrupted; the batches go on at the server.
    """
    parts = _parts(save_to)
    status = StatusTracker(num_tasks_total=sum(part.requests for part in parts))
    client = client_for(client)
    if lane is not None and not isinstance(lane, BatchLane):
        raise InvalidInputError(f"lane must be a BatchLane, such as BatchLane(wait=False), not {lane!r:.200}.")
    bar = Progress(status, client, show=progress)
    line = ""
    try:
        with noted_interrupts() as presses:
            run_to_end(_collect(Path(save_to), client, lane or BatchLane(), parts, status), bar.tick, presses)
        line = f"{status.num_tasks_succeeded:,} succeeded, {status.num_tasks_failed:,} failed. Answers: {save_to}"
    except Interrupted:
        line = "Interrupted. The batches go on at the server; the same call goes on from there."
        raise interrupt_with(status) from None
    finally:
        bar.close(line)
    return status


def _parts(save_to: str | os.PathLike[str]) -> list[Part]:
    place = path_of(save_to, "save_to")
    if not place.is_file():
        raise InvalidInputError(f"There is no file {place} (in {Path.cwd()}).")
    return live_parts(place)


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        with noted_interrupts() as presses:
            return run_to_end(work, lambda: None, presses)
    except Interrupted:
        raise KeyboardInterrupt from None


async def _look(client: Client, parts: list[Part]) -> list[BatchInfo]:
    api = BatchAPI(client)
    return [_info(part, await api.get(part.batch_id) if part.batch_id else None) for part in parts]


async def _cancel(client: Client, parts: list[Part]) -> list[BatchInfo]:
    api = BatchAPI(client)
    found = []
    for part in parts:
        try:
            batch = await api.cancel(part.batch_id) if part.batch_id else None
        except BatchError:  # it has come to its end by itself
            batch = await api.get(str(part.batch_id))
        found.append(_info(part, batch))
    return found


def _info(part: Part, batch: Mapping[str, Any] | None) -> BatchInfo:
    if batch is None:
        return BatchInfo(None, "queued", part.requests, 0, 0, part.round)
    counts = batch.get("request_counts") or {}
    completed, failed = (int(counts.get(name) or 0) for name in ("completed", "failed"))
    return BatchInfo(str(batch["id"]), str(batch.get("status")), part.requests, completed, failed, part.round)


async def _collect(path: Path, client: Client, lane: BatchLane, parts: list[Part], status: StatusTracker) -> None:
    record = all(part.record for part in parts)
    with Journal(path) as journal:

        def take(result: Result) -> APIRequest | None:
            journal.append(result_line(result, record=record))
            return None

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
