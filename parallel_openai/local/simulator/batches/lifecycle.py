"""`/v1/batches`: states, queue limits, and a clock that can run faster than real time."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parallel_openai.local.simulator.batches import lines as batch_lines
from parallel_openai.local.simulator.batches.files import Files, StoredFile
from parallel_openai.local.simulator.batches.odd_lines import odd
from parallel_openai.local.simulator.checks import bodies as checks
from parallel_openai.local.simulator.endpoints.endpoint import Endpoint
from parallel_openai.local.simulator.refusals import Refusal
from parallel_openai.local.simulator.settings import Settings
from parallel_openai.local.simulator.statistics import Ledger

WINDOW = 86_400.0
MAX_BATCHES_PER_HOUR = 2_000
ENDED = ("completed", "failed", "expired", "cancelled")
ENQUEUED = ("in_progress", "finalizing", "cancelling")
POLL_SECONDS = 0.05  # of real time, since the speed may change or the batch be cancelled meanwhile
LINES_PER_TURN = 50  # lines answered before other tasks of the server get a turn


@dataclass(eq=False)
class Batch:
    """One batch. `moments` are seconds since the epoch by the server's clock, under the API's names."""

    id: str
    endpoint: Endpoint
    input_file: StoredFile
    metadata: dict[str, str] | None
    moments: dict[str, float]
    status: str = "validating"
    errors: list[dict[str, Any]] = field(default_factory=list)
    model: str | None = None
    tokens: int = 0
    total: int = 0
    expiring: int = 0
    completed: int = 0
    failed: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    cancelled: bool = False
    retrievals: int = 0  # since it ended
    listings: int = 0

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED

    def as_json(self, now: float, seconds: float) -> dict[str, Any]:
        """The batch as the API returns it; `seconds` is how long all its requests take."""
        names = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
        completed = self.completed
        if self.status == "in_progress":
            share = min(1.0, (now - self.moments["in_progress_at"]) / seconds) if seconds else 1.0
            completed = int(share * (self.total - self.expiring))
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint.path,
            "model": self.model,
            "errors": {"object": "list", "data": self.errors} if self.errors else None,
            "input_file_id": self.input_file.id,
            "completion_window": "24h",
            "status": self.status,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": int(self.moments["created_at"]),
            "expires_at": int(self.moments["created_at"] + WINDOW),
            **{f"{name}_at": _whole(self.moments.get(f"{name}_at")) for name in names},
            "request_counts": {"total": self.total, "completed": completed, "failed": self.failed},
            "metadata": self.metadata,
        }


_NO_FILES = {"output_file_id": None, "error_file_id": None}


def _unknown(batch_id: str) -> Refusal:
    return Refusal(404, f"No batch found with id '{batch_id}'.", param="batch_id")


def _whole(moment: float | None) -> int | None:
    return None if moment is None else int(moment)


class Batches:
    """The batches of the account."""

    def __init__(
        self,
        endpoints: tuple[Endpoint, ...],
        files: Files,
        ledger: Callable[[], Ledger],
        settings: Callable[[], Settings],  # returns the current settings
        # Returns seconds since the epoch by the server's clock, which runs `batch_speed` times real time.
        time: Callable[[], float],
        draw: Callable[[bytes], str | None],  # returns the fault for a body's digest
    ) -> None:
        self._endpoints = {each.path: each for each in endpoints}
        self._files, self._ledger, self._settings, self._time, self._draw = files, ledger, settings, time, draw
        self._batches: dict[str, Batch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._requests = 0

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        for name in ("input_file_id", "endpoint", "completion_window"):
            if body.get(name) is None:
                raise checks.missing(name)
        checks.known_parameters(
            body, ("input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after")
        )
        checks.metadata(body)
        if body["completion_window"] != "24h":
            raise checks.invalid_value(body["completion_window"], ("24h",), "completion_window")
        endpoint = self._endpoints.get(body["endpoint"])
        if endpoint is None:
            raise checks.invalid_value(body["endpoint"], self._endpoints, "endpoint")
        file = self._files.get(str(body["input_file_id"]))
        if file.purpose != "batch":
            raise Refusal(400, f"The purpose of {file.id} is '{file.purpose}', not 'batch'.", param="input_file_id")
        now = self._time()
        if sum(now - each.moments["created_at"] < 3600 for each in self._batches.values()) >= MAX_BATCHES_PER_HOUR:
            message = f"You have created {MAX_BATCHES_PER_HOUR} batches within an hour, which is the limit."
            raise Refusal(429, message, type="requests", code="rate_limit_exceeded", headers={"retry-after": "60"})
        moments = {"created_at": now}
        batch = Batch(f"batch_simulated{os.urandom(8).hex()}", endpoint, file, body.get("metadata"), moments)
        self._batches[batch.id] = batch
        task = asyncio.get_running_loop().create_task(self._run(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return self.as_json(batch.id)

    def as_json(self, batch_id: str) -> dict[str, Any]:
        return self._get(batch_id).as_json(self._time(), self._settings().batch_seconds)

    def retrieve(self, batch_id: str) -> dict[str, Any]:
        """The batch as its own path returns it: possibly lost, or without its files yet."""
        settings, batch = self._settings(), self._get(batch_id)
        body = self.as_json(batch_id)
        if not batch.has_ended:
            return body
        if self._number(batch) in (settings.batch_lost or ()):
            raise _unknown(batch_id)
        batch.retrievals += 1
        return {**body, **_NO_FILES} if batch.retrievals <= settings.batch_late_files else body

    def listed(self) -> list[dict[str, Any]]:
        settings = self._settings()
        for batch in self._batches.values():
            batch.listings += 1
        listed = [batch for batch in self._batches.values() if batch.listings > settings.batch_late_list]
        changes = {} if settings.batch_list_metadata else {"metadata": None}
        return [{**self.as_json(batch.id), **changes} for batch in reversed(listed)]

    def has_lost(self, file_id: str) -> bool:
        """Whether the file belongs to a batch whose files get 404."""
        lost = self._settings().batch_lost_files or ()
        return any(
            self._number(batch) in lost and file_id in (batch.output_file_id, batch.error_file_id)
            for batch in self._batches.values()
        )

    def cancel(self, batch_id: str) -> dict[str, Any]:
        batch = self._get(batch_id)
        if batch.status not in ("validating", "in_progress", "cancelling"):
            raise Refusal(409, f"Cannot cancel a batch with status '{batch.status}'.")
        if batch.status != "cancelling":
            self._enter(batch, "cancelling")
            batch.cancelled = True
        return self.as_json(batch_id)

    def stats(self) -> dict[str, Any]:
        return {
            "created": len(self._batches),
            "by_status": dict(Counter(each.status for each in self._batches.values())),
            "requests": self._requests,
            "files_uploaded": self._files.uploaded,
        }

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._files.close()

    def _get(self, batch_id: str) -> Batch:
        try:
            return self._batches[batch_id]
        except KeyError:
            raise _unknown(batch_id) from None

    def _number(self, batch: Batch) -> int:
        return list(self._batches).index(batch.id) + 1

    def _enter(self, batch: Batch, status: str) -> None:
        batch.status = status
        batch.moments[f"{status}_at"] = self._time()

    async def _run(self, batch: Batch) -> None:
        settings = self._settings()
        began = batch.moments["created_at"]
        checked = batch_lines.InputCheck()
        for _ in batch_lines.check(checked, batch.input_file.path, batch.endpoint, settings):
            await asyncio.sleep(0)
        batch.model, batch.tokens = checked.model, checked.tokens
        if await self._wait_until(batch, began + settings.batch_validation_seconds):
            self._check_queue(batch, checked, settings)
            if checked.errors:
                batch.errors = checked.errors
                self._enter(batch, "failed")
                return
            batch.total = len(checked.offsets)
            done, late = self._divide(batch, checked.offsets, settings)
            batch.expiring = len(late)
            self._enter(batch, "in_progress")
            ends = began + WINDOW if late else batch.moments["in_progress_at"] + settings.batch_seconds
            if await self._wait_until(batch, ends):
                self._enter(batch, "finalizing")
                await self._write(batch, done, late, settings)
                await self._wait_until(batch, self._time() + settings.batch_finalizing_seconds, heed_cancel=False)
                self._enter(batch, "expired" if late else "completed")
                return
            share = (self._time() - batch.moments["in_progress_at"]) / max(settings.batch_seconds, 1e-9)
            await self._write(batch, done[: int(min(1.0, share) * len(done))], [], settings)
        await self._wait_until(batch, self._time() + settings.batch_finalizing_seconds, heed_cancel=False)
        self._enter(batch, "cancelled")

    async def _wait_until(self, batch: Batch, moment: float, *, heed_cancel: bool = True) -> bool:
        """Wait until `moment` by the server's clock; returns False as soon as the batch is cancelled."""
        while not (heed_cancel and batch.cancelled):
            seconds = (moment - self._time()) / self._settings().batch_speed
            if seconds <= 0:
                return True
            await asyncio.sleep(min(seconds, POLL_SECONDS))
        return False

    def _check_queue(self, batch: Batch, checked: batch_lines.InputCheck, settings: Settings) -> None:
        limit = settings.batch_queued_tokens
        if limit is None or checked.errors:
            return
        queued = sum(
            each.tokens for each in self._batches.values() if each.model == batch.model and each.status in ENQUEUED
        )
        if queued + batch.tokens > limit:
            checked.refuse(
                "token_limit_exceeded",
                f"Enqueued token limit reached for {batch.model} in organization org-simulated. Limit: {limit:,} "
                "enqueued tokens. Please try again once some in_progress batches have been completed.",
            )

    def _divide(self, batch: Batch, offsets: list[int], settings: Settings) -> tuple[list[int], list[int]]:
        """The lines that are answered, shuffled, and those that expire."""
        rng = random.Random(f"{settings.seed} {list(self._batches).index(batch.id)}")
        done: list[int] = []
        late: list[int] = []
        for offset in offsets:
            (late if rng.random() < settings.batch_expire else done).append(offset)
        rng.shuffle(done)
        return done, late

    async def _write(self, batch: Batch, done: list[int], late: list[int], settings: Settings) -> None:
        output = self._files.writer(f"{batch.id}_output.jsonl")
        errors = self._files.writer(f"{batch.id}_error.jsonl")
        kinds = list(settings.batch_odd_lines or ())[::-1]
        for count, raw in enumerate(_lines(batch.input_file.path, done), 1):
            if count % LINES_PER_TURN == 0:
                await asyncio.sleep(0)
            self._requests += 1
            answered = batch_lines.answer_line(raw, self._requests, batch.endpoint, settings, self._draw)
            line = odd(kinds.pop(), answered.line) if kinds and answered.good else answered.line
            (output if answered.good else errors).write(line)
            batch.completed += answered.good
            batch.failed += not answered.good
            self._count(answered, settings)
        for count, raw in enumerate(_lines(batch.input_file.path, late), 1):
            if count % LINES_PER_TURN == 0:
                await asyncio.sleep(0)
            errors.write(batch_lines.expired(raw, self._requests))
            batch.failed += 1
        files = output.close(), errors.close()
        batch.output_file_id, batch.error_file_id = (None if each is None else each.id for each in files)

    def _count(self, answered: batch_lines.AnsweredLine, settings: Settings) -> None:
        ledger = self._ledger()
        ledger.prompt_tokens += answered.prompt_tokens
        ledger.completion_tokens += answered.completion_tokens
        if answered.digest is not None and settings.keep_charged:
            ledger.bill(answered.digest, delivered=True)


def _lines(path: Path, offsets: list[int]) -> Iterator[bytes]:
    with open(path, "rb") as file:
        for offset in offsets:
            file.seek(offset)
            yield file.readline()
