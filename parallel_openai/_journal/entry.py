"""What a line of a journal says of its request and its answer: written here, and read back here, for every face."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parallel_openai._journal.lines import Entry, make_line
from parallel_openai._journal.origins import Origin
from parallel_openai._json import alike, dumps, dumps_strictly
from parallel_openai._records import APIRequest, Attempt, Result, request_key
from parallel_openai._requests.endpoints import bill_of, path_answering, usage_of


def result_line(result: Result, *, record: bool, origin: Origin | None = None) -> bytes:
    """A result as a journal's line; with `record`, the key, the attempts and the origin are written too, for the way
    back."""
    request = result.request
    if result.raw is None:
        answer = dumps(list(result.errors) or [result.error])
    else:
        answer = result.raw if len(result.raw) <= KEPT_WHOLE else _without_ballast(result.raw, result.response)
    if not record:
        beside = () if request.metadata is None else (dumps(request.metadata),)
        return make_line(request.body, answer, *beside)
    about: dict[str, Any] = {"key": request.key, "status": result.status}
    if result.error_code is not None:
        about.update(error_code=result.error_code, error=result.error)
    about["attempts"] = list(map(_fields, result.attempts))
    if result.sent is not None:
        about["sent"] = result.sent.request_json
        about["earlier"] = [
            {**bill_of(each.response), "attempts": list(map(_fields, each.attempts))} for each in result.earlier
        ]
    if origin is not None:
        about["place"], about["writer"] = origin
    beside_it = b"null" if request.metadata is None else dumps(request.metadata)
    return make_line(request.body, answer, beside_it, dumps(about))


#: Bytes up to which an answer is kept as it came.
KEPT_WHOLE = 2**20
#: What is kept of a longer one: the fields that the endpoints' answers have.
_NEEDED = frozenset(
    {
        *("id", "object", "created", "created_at", "model", "service_tier", "system_fingerprint", "usage"),
        *("choices", "output", "data", "results", "status", "error", "incomplete_details"),
    }
)


def _without_ballast(raw: bytes, answer: Any) -> bytes:
    """A long answer's bytes without the fields that no endpoint's answer has, whose names are told."""
    if not isinstance(answer, Mapping) or answer.keys() <= _NEEDED:
        return raw
    left_out = [str(name)[:80] for name in answer if name not in _NEEDED]
    kept = {name: value for name, value in answer.items() if name in _NEEDED}
    return dumps({**kept, "left_out": left_out[:20]})


def _fields(attempt: Attempt) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "at": attempt.at,
        "seconds": attempt.seconds,
        "waited": attempt.waited,
        "status": attempt.status,
    }
    if attempt.error_code is not None:
        fields["error_code"] = attempt.error_code
    if attempt.request_id is not None:
        fields["request_id"] = attempt.request_id
    if attempt.bill is not None:
        fields["bill"] = attempt.bill
    return fields


#: Whether a request is answered for this run, was asked without an answer that counts, or neither.


def is_asked_in(request: APIRequest, entry: Entry) -> bool:
    """Whether the request that a line holds is the one that it is kept under. The tier that it was sent in is no part
    of the key."""
    body = entry[0]
    if _has_key(request, body):
        return True
    return "service_tier" in body and _has_key(request, {name: body[name] for name in body if name != "service_tier"})


def _has_key(request: APIRequest, body: Mapping[str, Any]) -> bool:
    try:
        canonical = dumps_strictly(body, sort_keys=True)
    except TypeError:  # half a surrogate pair, which no request of ours holds
        return False
    plain = alike(canonical)
    keys = (request_key(request.path, each, request.sample) for each in (plain, canonical))
    return next(keys) == request.key or (plain is not canonical and next(keys) == request.key)


def record_of(entry: Entry) -> Mapping[str, Any]:
    """What a frame's line says of the way to its answer; nothing where another program wrote the line."""
    return entry[3] if len(entry) == 4 and isinstance(entry[3], dict) else {}


def key_of(entry: Entry) -> str | None:
    """The key under which a frame's line was written; None for a line without a record."""
    key = record_of(entry).get("key")
    return key if isinstance(key, str) else None


def asked_key(entry: Entry) -> str | None:
    """The key of what a line asks; a file run's answer has none written beside it, so that it is made. None for its
    failure."""
    if len(entry) == 4 or not entry[0] or not isinstance(entry[1], Mapping):
        return key_of(entry)
    try:
        body = alike(dumps_strictly(entry[0], sort_keys=True))
    except TypeError:  # it could not have been sent
        return None
    return request_key(path_answering(entry[0], entry[1]), body)


def origin_of(entry: Entry) -> Origin | None:
    """Where a line's record says that it came from."""
    record = record_of(entry)
    place, by = record.get("place"), record.get("writer")
    return Origin(place, by) if isinstance(place, str) and isinstance(by, str) else None


def restored(request: APIRequest, entry: Entry) -> Result:
    """The result that a line was written for."""
    record = record_of(entry)
    if not request.body:
        request.request_json = entry[0]  # whoever looked it up by its key alone may ask which model was meant
    attempts = attempts_of(record)
    if type(entry[1]) is dict:
        sent, before = record.get("sent"), record.get("earlier")
        if sent is None and before is None:  # it was no repair
            usage = usage_of(entry[1])
            return Result(request, "succeeded", entry[1], attempts=attempts, restored=True, usage=usage)
        earlier = [each for each in before if isinstance(each, dict)] if isinstance(before, list) else []
        return Result(
            request,
            "succeeded",
            entry[1],
            attempts=attempts,
            restored=True,
            earlier=tuple(_restore_earlier(request, each) for each in earlier),
            sent=APIRequest(sent, path=request.path, sample=request.sample) if isinstance(sent, dict) else None,
            usage=usage_of(entry[1]),
        )
    errors = tuple(map(str, entry[1])) if isinstance(entry[1], list) else ()
    return Result(
        request,
        "failed",
        error_code=str(record.get("error_code") or "error"),
        error=str(record.get("error") or ""),
        errors=errors,
        attempts=attempts,
        restored=True,
    )


def _restore_earlier(request: APIRequest, fields: Mapping[str, Any]) -> Result:
    usage = usage_of(fields)
    return Result(request, "succeeded", bill_of(fields), attempts=attempts_of(fields), restored=True, usage=usage)


def attempts_of(record: Mapping[str, Any]) -> tuple[Attempt, ...]:
    """The sends that a line's record tells of."""
    sends = record.get("attempts")
    if not isinstance(sends, list):
        return ()
    if len(sends) == 1 and type(sends[0]) is dict:  # as nearly all are
        return (_attempt(sends[0]),)
    return tuple(_attempt(fields) for fields in sends if isinstance(fields, dict))


def _attempt(fields: Mapping[str, Any]) -> Attempt:
    get = fields.get
    return Attempt(
        _number(get("at")),
        _number(get("seconds")),
        _number(get("waited")),
        int(_number(get("status"))),
        _text(get("error_code")),
        _text(get("request_id")),
        bill if isinstance(bill := get("bill"), dict) else None,
    )


def _number(value: Any) -> float:
    """A damaged line may hold anything, and one of them must not stop a run."""
    good = type(value) in (float, int) and -1e15 < value < 1e15
    return float(value) if good else 0.0


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
