"""Reads the outcome of each row from the lines of a batch's output and error files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import IO, Any, Literal

from parallel_openai._batch.server_batch import ServerBatch
from parallel_openai._json import dumps, loads_from_anywhere, loads_quickly
from parallel_openai._printable import printable
from parallel_openai._records import MAX_RESPONSE_BYTES, APIRequest, Attempt, Response, Result, Verdict
from parallel_openai._requests.endpoints import bill_of, usage_of
from parallel_openai._run.response_verdict import judge

#: Added to each answer, since nothing else in it shows that it cost half.
TIER = "batch"
#: For an unreadable line: its row may have been answered and billed, so it is not sent again.
UNREADABLE = "malformed_response"
#: Of a row that was not processed, and costs nothing.
NOT_PROCESSED = Response(400, {}, b"", None, 0.0)
#: Of a row that may have been billed, nobody knows how much.
_UNKNOWN = Response(200, {}, b"", None, 0.0)

Fate = Literal["done", "again", "cancelled"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a row in a batch."""

    fate: Fate  # `done`: final; `again`: worth sending again; `cancelled`: the batch was cancelled before the row
    attempt: Attempt  # the batch as an attempt of the row
    response: Response  # the batch's answer as a send's, which shows what it cost
    # Why there is no answer.
    error_code: str | None = None
    error: str | None = None
    answer: dict[str, Any] | None = None  # the answer's JSON, if there is one
    verdict: Verdict | None = None  # on the server's error response, if there is one

    def result(self, request: APIRequest, earlier: tuple[Attempt, ...]) -> Result:
        """The row's result, with its earlier attempts."""
        attempts = (*earlier, self.attempt)
        if self.answer is not None:
            raw, usage = dumps(self.answer), usage_of(self.answer)
            return Result(request, "succeeded", self.answer, attempts=attempts, raw=raw, usage=usage)
        errors = (self.error or "",)
        return Result(request, "failed", None, self.error_code, self.error, errors=errors, attempts=attempts)


def read_lines(file: IO[bytes], max_lines: int) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
    """The offset and the content of each line; None for a line that does not name its row.

    Reads at most `max_lines` lines, blank ones included.
    """
    offset = 0
    for _ in range(max_lines):
        raw = file.readline(MAX_RESPONSE_BYTES)
        if not raw:
            return
        size = len(raw)
        is_complete = raw.endswith(b"\n") or size < MAX_RESPONSE_BYTES
        while not raw.endswith(b"\n") and (more := file.readline(MAX_RESPONSE_BYTES)):  # the rest of one too long
            raw, size = more, size + len(more)
        if raw.strip():
            yield offset, read_line(raw) if is_complete else None
        offset += size


def read_line(raw: bytes) -> Mapping[str, Any] | None:
    """The parsed line; None if it does not name its row.

    >>> read_line(b'["no object"]')
    """
    try:
        line = loads_quickly(loads_from_anywhere(raw)[0])
    except ValueError:
        return None
    return line if isinstance(line, dict) and isinstance(line.get("custom_id"), str) else None


def read_outcome(line: Mapping[str, Any], batch: ServerBatch) -> Outcome:
    """The outcome in a line.

    >>> line = {"custom_id": "a", "response": None, "error": {"code": "batch_expired", "message": "Too late."}}
    >>> read_outcome(line, ServerBatch.of({"id": "batch_1", "created_at": 100, "expired_at": 160})).fate
    'again'
    """
    response, error = line.get("response"), line.get("error")
    if isinstance(response, dict):
        status, body = _status(response.get("status_code")), _json(response.get("body"))
        if status >= 300 or isinstance(body, dict):
            return _answered(batch, status, body, response.get("request_id"))
    if error:
        details = error if isinstance(error, dict) else {"message": error}
        code, message = details.get("code") or "batch_error", details.get("message") or "The batch returned no answer."
        return without_answer(batch, str(code), str(message))
    return unreadable(batch)


def _answered(batch: ServerBatch, status: int, body: Any, request_id: Any) -> Outcome:
    request_id = request_id if isinstance(request_id, str) else ""
    response = Response(status, {"x-request-id": request_id}, dumps(body), body, batch.seconds)
    verdict = judge(response, reached=True)
    attempt = _attempt(batch, status, verdict.code, request_id or None)
    if verdict.kind == "done":
        answer = {**body, "service_tier": TIER}
        return Outcome("done", attempt, response._replace(data=answer), answer=answer)
    if usage_of(body) is not None:
        attempt = attempt._replace(bill={**bill_of(body), "service_tier": TIER})
        response = response._replace(data={**body, "service_tier": TIER})
    fate: Fate = "done" if verdict.kind in ("fail", "stop") else "again"
    return Outcome(fate, attempt, response, verdict.code, verdict.message, verdict=verdict)


def without_answer(batch: ServerBatch, code: str, message: str) -> Outcome:
    """For a row that the batch did not process."""
    code, message = printable(code), printable(message)
    fate: Fate = "cancelled" if code == "batch_cancelled" else "again"
    return Outcome(fate, _attempt(batch, 0, code, None), NOT_PROCESSED, code, f"{message} (Batch {batch.id}.)")


def unreadable(batch: ServerBatch) -> Outcome:
    """For a row whose line cannot be read."""
    message = f"The batch's files have no readable line for this row, so it may have been billed. (Batch {batch.id}.)"
    return Outcome("done", _attempt(batch, 0, UNREADABLE, None), _UNKNOWN, UNREADABLE, message)


def refused(batch: ServerBatch, error: Mapping[str, Any]) -> Outcome:
    """For a row whose line in the input file the server refuses."""
    code, message = str(error.get("code") or "batch_error"), str(error.get("message"))
    response, verdict = NOT_PROCESSED._replace(data={"error": error}), Verdict("fail", code, message)
    return replace(without_answer(batch, code, message), fate="done", response=response, verdict=verdict)


def missing(batch: ServerBatch) -> Outcome:
    """For a row in neither file, which the batch by its own report did not process."""
    if batch.status == "cancelled":
        return without_answer(batch, "batch_cancelled", "The batch was cancelled before this row.")
    if batch.status == "failed":
        return without_answer(batch, "batch_failed", f"The batch failed: {batch.why()}")
    code = "batch_expired" if batch.status == "expired" else "batch_incomplete"
    return without_answer(batch, code, "The batch ended without a result for this row.")


def _status(value: Any) -> int:
    """The status of an answer; 200 if it cannot be read, since errors show in the body too."""
    try:
        status = int(value)
    except (TypeError, ValueError, OverflowError):
        return 200
    return status if 200 <= status < 600 else 200


def _json(body: Any) -> Any:
    """The body, parsed if it is a JSON string, as some gateways send it, and out of a list that holds it alone."""
    if isinstance(body, str):
        with suppress(ValueError):
            body = loads_quickly(body)
    return body[0] if isinstance(body, list) and len(body) == 1 else body


def _attempt(batch: ServerBatch, status: int, code: str | None, request_id: str | None) -> Attempt:
    return Attempt(batch.created_at, batch.seconds, 0.0, status, code, request_id)
