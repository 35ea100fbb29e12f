"""Divides rows among input files: one model and endpoint per file, within the Batch API's limits."""

from __future__ import annotations

import time

from parallel_openai._batch.batch_state import Part
from parallel_openai._batch.lane_options import MAX_REQUESTS, BatchLane
from parallel_openai._batch.submitting.input_files import InputFiles, PartWriter, Row, inputs_of, make_line, tokens_of
from parallel_openai._journal.origins import Origin
from parallel_openai._records import APIRequest

#: The share of the server's queue limit that a batch may use, since the server counts tokens differently.
QUEUE_SHARE = 0.9


#: What the rows of a file have in common: the endpoint's path, the model, and the number of their submission.
_Kind = tuple[str, str, int]


class Divider:
    """Fills parts on disk, several at a time if there are several models.

    Args:
        input_files: where they are stored.
        options: their limits.
        run: the prefix of their names.
        origin: who plans them, and for which server.
        record: whether their results' journal lines contain a record, as a frame's do.
    """

    def __init__(self, input_files: InputFiles, options: BatchLane, run: str, origin: Origin, *, record: bool) -> None:
        self._input_files, self._options, self._run = input_files, options, run
        self._record, self._origin = record, origin
        self._open: dict[_Kind, PartWriter] = {}
        self._full: list[Part] = []
        self._queue_limits: dict[str, int] = {}  # the most prompt tokens of a batch, by model
        self._count = 0
        self.rows = 0

    def why_too_large(self, row: Row) -> str | None:
        """Why no batch can hold the row; None if one can."""
        size = len(make_line(row))
        if size > self._options.max_bytes:
            return f"The request has {size:,} bytes, more than a batch may have ({self._options.max_bytes:,})."
        tokens, limit = tokens_of(row.request), self._max_tokens(_model(row.request))
        if limit is not None and tokens > (queue := limit / QUEUE_SHARE):
            return f"The prompt has {tokens:,} tokens, more than may be queued for its model ({queue:,.0f})."
        return None

    def set_queue_limit(self, model: str, tokens: int) -> None:
        """Set the most tokens of a model that the server queues."""
        self._queue_limits[model] = max(1, int(tokens * QUEUE_SHARE))

    def add(self, row: Row, round: int) -> None:
        """Add a row to a part."""
        path, model, line = row.request.path, _model(row.request), make_line(row)
        kind = (path, model, round)
        if kind in self._open and not self._fits(self._open[kind], row.request, len(line)):
            self._close(kind)
        if kind not in self._open:
            self._count += 1
            name = f"{self._run}-{self._count:04d}"
            part = Part(name, model, path, 0, 0, 0, round, 0.0, self._record, has_metadata=False)
            part.place, part.writer = self._origin
            self._open[kind] = self._input_files.writer(part)
        self._open[kind].add(row, line)
        self.rows += 1

    def take_full(self) -> list[Part]:
        """Hand over the parts that are full."""
        full, self._full = self._full, []
        return full

    def take_all(self) -> list[Part]:
        """Hand over all parts, full or not."""
        for kind in list(self._open):
            self._close(kind)
        return self.take_full()

    def discard(self) -> None:
        for files in self._open.values():
            files.abandon()
        for part in (*self._full, *(files.part for files in self._open.values())):
            self._input_files.remove(part.name)
        self._open.clear()
        self._full.clear()

    def _fits(self, files: PartWriter, request: APIRequest, size: int) -> bool:
        part, options, limit = files.part, self._options, self._max_tokens(files.part.model)
        return (
            part.requests < options.max_requests
            and part.bytes + size <= options.max_bytes
            and (part.path != "embeddings" or files.inputs + inputs_of(request) <= MAX_REQUESTS)
            and (limit is None or part.tokens + tokens_of(request) <= limit)
        )

    def _max_tokens(self, model: str) -> int | None:
        limits = (self._queue_limits.get(model), self._options.max_queued_tokens)
        return min((limit for limit in limits if limit is not None), default=None)

    def _close(self, kind: _Kind) -> None:
        files = self._open.pop(kind)
        files.close()
        files.part.planned_at = time.time()
        self._full.append(files.part)


def _model(request: APIRequest) -> str:
    return str(request.request_json.get("model"))
