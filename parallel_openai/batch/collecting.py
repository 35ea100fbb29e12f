"""What the lines of a batch's output and error files say of their rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from parallel_openai.engine.retry import judge
from parallel_openai.jsonl import dumps
from parallel_openai.records import APIRequest, Attempt, Response, Result
from parallel_openai.requests.endpoints import usage_of

#: Written into each answer, since nothing else in it tells that it cost half.
TIER = "batch"

Fate = Literal["done", "again", "left"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a row in a batch.

    Attributes:
        fate: `done`: it has its result; `again`: it may have one another time; `left`: somebody cancelled it.
        attempt: its going through the batch, as one send.
        error_code, error: why there is no answer.
        answer: the answer's JSON, where there is one.
    """

    fate: Fate
    attempt: Attempt
    error_code: str | None = None
    error: str | None = None
    answer: dict[str, Any] | None = None

    def result(self, request: APIRequest, earlier: tuple[Attempt, ...]) -> Result:
        """The row's result, after the sends before this one."""
        attempts = (*earlier, self.attempt)
        if self.answer is not None:
            return Result(
                request,
                "succeeded",
                self.answer,
                attempts=attempts,
                raw=dumps(self.answer),
                usage=usage_of(self.answer),
            )
        errors = (self.error or "",)
        return Result(request, "failed", None, self.error_code, self.error, errors=errors, attempts=attempts)


def read_outcome(line: Mapping[str, Any], batch: Mapping[str, Any]) -> Outcome:
    """What a line says.

    >>> line = {"custom_id": "a", "response": None, "error": {"code": "batch_expired", "message": "Too late."}}
    >>> read_outcome(line, {"id": "batch_1", "created_at": 100, "expired_at": 160}).fate
    'again'
    """
    said = line.get("response")
    if not isinstance(said, dict):
        error = line.get("error")
        code, message = (error.get("code"), error.get("message")) if isinstance(error, dict) else (None, None)
        return without_answer(batch, str(code or "batch_error"), str(message or "The batch gave no answer."))
    status, body = int(said.get("status_code") or 0), said.get("body")
    request_id = str(said.get("request_id") or "")
    response = Response(status, {"x-request-id": request_id}, dumps(body), body, _seconds(batch))
    verdict = judge(response, reached=True)
    attempt = _attempt(batch, status, verdict.code, request_id or None)
    if verdict.kind == "done":
        return Outcome("done", attempt, answer={**body, "service_tier": TIER} if isinstance(body, dict) else None)
    fate: Fate = "done" if verdict.kind in ("fail", "stop") else "again"
    return Outcome(fate, attempt, verdict.code, verdict.message)


def without_answer(batch: Mapping[str, Any], code: str, message: str) -> Outcome:
    """For a row that the batch did not come to."""
    fate: Fate = "left" if code == "batch_cancelled" else "again"
    return Outcome(fate, _attempt(batch, 0, code, None), code, f"{message} (Batch {batch.get('id')}.)")


def missing(batch: Mapping[str, Any]) -> Outcome:
    """For a row of which neither file says anything."""
    if batch.get("status") == "cancelled":
        return without_answer(batch, "batch_cancelled", "The batch was cancelled before this row.")
    code = "batch_expired" if batch.get("status") == "expired" else "batch_incomplete"
    return without_answer(batch, code, "The batch came to its end without a word of this row.")


def _attempt(batch: Mapping[str, Any], status: int, code: str | None, request_id: str | None) -> Attempt:
    at = batch.get("created_at") or 0
    return Attempt(float(at), _seconds(batch), 0.0, status, code, request_id)


def _seconds(batch: Mapping[str, Any]) -> float:
    ends = (batch.get(f"{name}_at") for name in ("completed", "expired", "cancelled"))
    end = next((each for each in ends if each), None)
    return float(max(0, end - (batch.get("created_at") or end))) if end else 0.0
