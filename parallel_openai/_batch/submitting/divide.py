"""Dividing rows among input files: one model and one endpoint a file, within the Batch API's bounds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from parallel_openai._batch.batch_state import Part
from parallel_openai._batch.lane_options import MOST_REQUESTS, BatchLane
from parallel_openai._batch.submitting.input_files import InputFiles, PartWriter, Row, inputs_of, make_line, tokens_of
from parallel_openai._records import APIRequest

#: What a batch may hold of what the server says may be queued, since it counts otherwise than we do.
QUEUE_SHARE = 0.9


@dataclass(frozen=True)
class _Kind:
    path: str
    model: str
    round: int


class Divider:
    """Fills parts on the disk, several at a time where there are several models.

    Args:
        input_files: where they lie.
        options: their bounds.
        run: what their names begin with.
        record: whether their results go into the journal with a record, as a frame's do.
    """

    def __init__(self, input_files: InputFiles, options: BatchLane, run: str, *, record: bool) -> None:
        self._input_files, self._options, self._run, self._record = input_files, options, run, record
        self._open: dict[_Kind, tuple[str, PartWriter]] = {}
        self._queue: dict[str, int] = {}  # prompt tokens that a batch of a model may have
        self._count = 0
        self.rows = 0  # so far

    def objection(self, row: Row) -> str | None:
        """Why no batch can hold the row; None where one can."""
        size = len(make_line(row))
        if size > self._options.max_bytes:
            return f"The request is {size:,} bytes long and a batch may have {self._options.max_bytes:,}."
        tokens, most = tokens_of(row.request), self._most_tokens(_model(row.request))
        if most is not None and tokens > most / QUEUE_SHARE:
            return (
                f"The prompt has {tokens:,} tokens, more than may be queued for its model ({most / QUEUE_SHARE:,.0f})."
            )
        return None

    def learn_queue(self, model: str, tokens: int) -> None:
        """The server queues no more than so many tokens of a model."""
        self._queue[model] = max(1, int(tokens * QUEUE_SHARE))

    def add(self, row: Row, round: int) -> Part | None:
        """Put a row into a part; gives the part that was full, if it was."""
        request = row.request
        kind, line, full = _Kind(request.path, _model(request), round), make_line(row), None
        if kind in self._open and not self._fits(kind, self._open[kind][1], len(line), request):
            full = self._close(kind)
        if kind not in self._open:
            self._count += 1
            name = f"{self._run}-{self._count:04d}"
            self._open[kind] = name, self._input_files.writer(name)
        self._open[kind][1].add(row, line)
        self.rows += 1
        return full

    def close(self) -> Iterator[Part]:
        """The parts that were not full."""
        for kind in list(self._open):
            yield self._close(kind)

    def discard(self) -> None:
        """Leave nothing behind of what was not closed."""
        for name, writer in self._open.values():
            writer.abandon()
            self._input_files.remove(name)
        self._open.clear()

    def _fits(self, kind: _Kind, part: PartWriter, size: int, request: APIRequest) -> bool:
        options, most = self._options, self._most_tokens(kind.model)
        return (
            part.requests < options.max_requests
            and part.bytes + size <= options.max_bytes
            and (kind.path != "embeddings" or part.inputs + inputs_of(request) <= MOST_REQUESTS)
            and (most is None or part.tokens + tokens_of(request) <= most)
        )

    def _most_tokens(self, model: str) -> int | None:
        known = [most for most in (self._queue.get(model), self._options.max_queued_tokens) if most is not None]
        return min(known, default=None)

    def _close(self, kind: _Kind) -> Part:
        name, writer = self._open.pop(kind)
        writer.close()
        return Part(
            name=name,
            model=kind.model,
            path=kind.path,
            requests=writer.requests,
            bytes=writer.bytes,
            tokens=writer.tokens,
            round=kind.round,
            planned_at=time.time(),
            record=self._record,
            answer_bytes=writer.answer_bytes,
            has_metadata=writer.has_metadata,
        )


def _model(request: APIRequest) -> str:
    return str(request.request_json.get("model"))
