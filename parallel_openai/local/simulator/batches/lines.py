"""Lines of a batch's input file: their validation, and the output line for each."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from parallel_openai.local.simulator import refusals
from parallel_openai.local.simulator.endpoints.endpoint import Endpoint
from parallel_openai.local.simulator.faults import faults
from parallel_openai.local.simulator.refusals import Refusal
from parallel_openai.local.simulator.settings import Settings

MAX_REQUESTS = 50_000
MAX_BYTES = 200 * 10**6
MAX_INPUTS = 50_000  # of embeddings
MAX_ERRORS = 50  # that are reported


@dataclass
class InputCheck:
    """The result of validating an input file."""

    model: str | None = None
    tokens: int = 0
    offsets: list[int] = field(default_factory=list)  # the byte offset of each request
    errors: list[dict[str, Any]] = field(default_factory=list)  # why the batch fails, one for each invalid line

    def refuse(self, code: str, message: str, *, line: int | None = None, param: str | None = None) -> None:
        if len(self.errors) < MAX_ERRORS:
            self.errors.append({"code": code, "message": message, "param": param, "line": line})


def check(found: InputCheck, path: Path, endpoint: Endpoint, settings: Settings) -> Iterator[None]:
    """Validate an input file into `found`. Yields now and then, so that other tasks get a turn."""
    seen, inputs, end = set[str](), 0, 0
    if path.stat().st_size > MAX_BYTES:
        found.refuse("file_too_large", f"The batch input file is larger than the {MAX_BYTES} maximum.")
        return
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            start, end = end, end + len(raw)
            if number % 200 == 0:
                yield
            if not raw.strip():
                continue
            body = _checked_line(found, raw, number, endpoint, seen)
            if body is None:
                continue
            found.offsets.append(start)
            inputs += len(body["input"]) if isinstance(body.get("input"), list) else 1
            try:
                found.tokens += endpoint.read(body, settings).prompt_tokens
            except Refusal:
                pass  # only this request fails, when it is answered
    if not found.offsets and not found.errors:
        found.refuse("empty_batch", "The batch input file has no requests.")
    if len(found.offsets) > MAX_REQUESTS:
        message = f"The batch input file has {len(found.offsets)} requests; the maximum is {MAX_REQUESTS}."
        found.refuse("too_many_tasks", message)
    if endpoint.path == "/v1/embeddings" and inputs > MAX_INPUTS:
        found.refuse("too_many_inputs", f"The batch has {inputs} embedding inputs; the maximum is {MAX_INPUTS}.")
    if settings.models is not None and found.model not in (None, *settings.models):
        found.refuse("model_not_found", f"The provided model '{found.model}' is not supported by the Batch API.")


def _checked_line(
    found: InputCheck, raw: bytes, number: int, endpoint: Endpoint, seen: set[str]
) -> dict[str, Any] | None:
    """The body of a line that is valid."""
    try:
        line = orjson.loads(raw)
    except orjson.JSONDecodeError:
        line = None
    objection = _objection(line, endpoint, seen, found.model)
    if objection is not None:
        code, message, param = objection
        found.refuse(code, message, line=number, param=param)
        return None
    seen.add(line["custom_id"])
    body: dict[str, Any] = line["body"]
    found.model = body["model"]
    return body


def _objection(line: Any, endpoint: Endpoint, seen: set[str], model: str | None) -> tuple[str, str, str | None] | None:
    """The code, message and parameter of the error in a line; None if it is valid."""
    if not isinstance(line, dict):
        return "invalid_json_line", "This line is not parseable as valid JSON.", None
    for name, kind in (("custom_id", str), ("method", str), ("url", str), ("body", dict)):
        if not isinstance(line.get(name), kind):
            return "missing_required_parameter", f"Missing required parameter: '{name}'.", name
    body = line["body"]
    if line["custom_id"] in seen:
        message = (
            "The custom_id for this request is a duplicate of another request. The custom_id parameter must be unique "
            "for each request in a batch."
        )
        return "duplicate_custom_id", message, "custom_id"
    if line["method"] != "POST":
        return "invalid_method", "The method must be POST.", "method"
    if line["url"] != endpoint.path:
        message = f"The URL provided for this request does not match the batch endpoint {endpoint.path}."
        return "invalid_url", message, "url"
    if body.get("stream"):
        return "invalid_request", "Streaming is not supported in batches.", "body.stream"
    if not isinstance(body.get("model"), str):
        return "missing_required_parameter", "Missing required parameter: 'model'.", "body.model"
    if model not in (None, body["model"]):
        message = f"The model {body['model']} is not that of the other requests, {model}. A batch has one model."
        return "mismatched_model", message, "body.model"
    return None


@dataclass(frozen=True)
class AnsweredLine:
    line: bytes
    good: bool
    prompt_tokens: int = 0
    completion_tokens: int = 0
    digest: bytes | None = None  # of the body, if it was charged


def answer_line(
    raw: bytes, number: int, endpoint: Endpoint, settings: Settings, draw: Callable[[bytes], str | None]
) -> AnsweredLine:
    """The output line for one line of an input file."""
    line = orjson.loads(raw)
    body = orjson.dumps(line["body"])
    digest = sha256(body).digest()
    fault = draw(digest)
    try:
        if fault in faults.FAILED:
            raise refusals.by_status(int(fault or 500))
        if fault in faults.REFUSED:
            raise refusals.by_status(429)
        parsed = endpoint.read(line["body"], settings)
        rng = random.Random(digest + settings.seed.to_bytes(16, "little", signed=True))
        answer = endpoint.answer(parsed, settings, rng, fault if fault in faults.FLAWS else None)
    except Refusal as refusal:
        return AnsweredLine(_response_line(line, number, refusal.status, {"error": refusal.error()}), good=False)
    output = _response_line(line, number, 200, answer.body)
    return AnsweredLine(output, True, answer.prompt_tokens, answer.completion_tokens, digest)


def expired(raw: bytes, number: int) -> bytes:
    message = "This request could not be executed before the completion window expired."
    return _line(orjson.loads(raw), number, error={"code": "batch_expired", "message": message})


def _response_line(line: dict[str, Any], number: int, status: int, body: Any) -> bytes:
    response = {"status_code": status, "request_id": f"req_simulated_batch{number:010d}", "body": body}
    return _line(line, number, response=response)


def _line(line: dict[str, Any], number: int, *, response: Any = None, error: Any = None) -> bytes:
    line_id = f"batch_req_simulated{number:010d}"
    return orjson.dumps({"id": line_id, "custom_id": line["custom_id"], "response": response, "error": error})
