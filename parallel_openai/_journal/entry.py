"""One line of a results file: a `Result` is written as a line here, and read back as a `JournalEntry`.

A line is `[request, response]`, `[request, response, metadata]` or, for the rows of a DataFrame,
`[request, response, metadata, record]`. A failed request has the list of its errors in place of the response.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from parallel_openai._journal.origins import Origin
from parallel_openai._json import alike, dumps, dumps_strictly, loads
from parallel_openai._records import APIRequest, Attempt, Result, request_key, without_tier
from parallel_openai._requests.endpoints import bill_of, mappings, path_answering, usage_of

#: The version of the records written here. Lines of a later version are refused: their fields may mean something else.
VERSION = 1


def result_line(result: Result, *, record: bool, origin: Origin | None = None) -> bytes:
    """The journal's line for a result.

    Args:
        record: also write the key, the attempts and the origin, from which a later run restores the result.
        origin: the server that answered, and who wrote this down.
    """
    request = result.request
    if result.raw is None:
        answer = dumps(list(result.errors) or [result.error])
    else:
        answer = result.raw if len(result.raw) <= KEPT_WHOLE else _without_unknown_fields(result.raw, result.response)
    if not record:
        rest = () if request.metadata is None else (dumps(request.metadata),)
        return make_line(request.body, answer, *rest)
    record_fields: dict[str, Any] = {"key": request.key, "status": result.status, "version": VERSION}
    if result.error_code is not None:
        record_fields.update(error_code=result.error_code, error=result.error)
    record_fields["attempts"] = list(map(_fields, result.attempts))
    if result.sent is not None:
        record_fields["sent"] = result.sent.request_json
    if result.sent is not None or result.earlier:
        record_fields["earlier"] = [
            {**bill_of(each.response), "attempts": list(map(_fields, each.attempts))} for each in result.earlier
        ]
    if origin is not None:
        record_fields["place"], record_fields["writer"] = origin
    metadata = b"null" if request.metadata is None else dumps(request.metadata)
    return make_line(request.body, answer, metadata, dumps(record_fields))


#: Answers of up to this many bytes are kept exactly as they came.
KEPT_WHOLE = 2**20
#: The top-level fields kept of a longer answer: those that some endpoint documents.
_KNOWN_FIELDS = frozenset(
    {
        *("id", "object", "created", "created_at", "model", "service_tier", "system_fingerprint", "usage"),
        *("choices", "output", "data", "results", "status", "error", "incomplete_details"),
    }
)


def _without_unknown_fields(raw: bytes, answer: Any) -> bytes:
    """A long answer's bytes without the fields that no endpoint has; their names are kept under `left_out`."""
    if not isinstance(answer, Mapping) or answer.keys() <= _KNOWN_FIELDS:
        return raw
    left_out = [str(name)[:80] for name in answer if name not in _KNOWN_FIELDS]
    kept = {name: value for name, value in answer.items() if name in _KNOWN_FIELDS}
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


class JournalEntry(NamedTuple):
    """The content of one line.

    >>> entry = JournalEntry.read(b'[{"model":"m"},{"id":"1"},null,{"key":"k","status":"succeeded","version":1}]')
    >>> entry.key, entry.is_good, entry.version
    ('k', True, 1)
    >>> JournalEntry.read(b'[{"model":"m"},{"id"') is None
    True
    """

    body: dict[str, Any]  # the request
    answer: Any  # the response's JSON, or the list of errors of a failure
    metadata: Any = None  # the caller's own data for the request
    # The key, the attempts and the origin of a DataFrame's request; None for a line in the cookbook's format.
    record: Mapping[str, Any] | None = None

    @classmethod
    def read(cls, line: bytes, loads: Callable[[bytes], Any] = loads) -> JournalEntry | None:
        """The line's entry, or None if the line is damaged or not a line of results."""
        try:
            parts = loads(line)
        except ValueError:
            return None
        if not isinstance(parts, list) or not 2 <= len(parts) <= 4 or not isinstance(parts[0], dict):
            return None
        if len(parts) == 4 and not isinstance(parts[3], dict):  # another program wrote it
            parts[3] = {}
        return cls(*parts)

    @property
    def is_good(self) -> bool:
        """Whether the line holds an answer rather than a failure."""
        return isinstance(self.answer, Mapping)

    @property
    def version(self) -> int:
        """The record's version. The first records did not state one; they are version 1."""
        version = self.record.get("version") if self.record else None
        return version if type(version) is int else 1

    @property
    def key(self) -> str | None:
        """The key in the record, or None for a line without a record."""
        key = self.record.get("key") if self.record else None
        return key if isinstance(key, str) else None

    @property
    def lookup_key(self) -> str | None:
        """The key to find the line by. An answer without a record has its key computed from the request; a failure
        without a record has none."""
        if self.record is not None or not self.body or not self.is_good:
            return self.key
        try:
            body = alike(dumps_strictly(without_tier(self.body), sort_keys=True))
        except TypeError:  # it could not have been sent
            return None
        return request_key(path_answering(self.body, self.answer), body)

    @property
    def origin(self) -> Origin | None:
        """The origin in the record, or None if it states none."""
        place, by = (self.record.get("place"), self.record.get("writer")) if self.record else (None, None)
        return Origin(place, by) if isinstance(place, str) and isinstance(by, str) else None

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        return attempts_of(self.record.get("attempts")) if self.record else ()

    @property
    def error_code(self) -> str:
        return str((self.record or {}).get("error_code") or "error")

    @property
    def error(self) -> str:
        messages = self.answer if isinstance(self.answer, list) else [self.answer]
        return str((self.record or {}).get("error") or (messages[-1] if messages else None) or "")

    def asks(self, request: APIRequest) -> bool:
        """Whether the line's body is that of this request, apart from a service tier, which is no part of the key."""
        body = self.body
        return _has_key(request, body) or ("service_tier" in body and _has_key(request, without_tier(body)))

    def result(self, request: APIRequest) -> Result:
        """The result that the line was written from."""
        if not request.body:
            request.request_json = self.body  # a request made from its key alone has no body of its own
        answer, attempts = self.answer, self.attempts
        if type(answer) is not dict:
            errors = tuple(map(str, answer)) if isinstance(answer, list) else ()
            return Result(
                request, "failed", None, self.error_code, self.error, errors, attempts=attempts, restored=True
            )
        result = Result(request, "succeeded", answer, attempts=attempts, restored=True, usage=usage_of(answer))
        record = self.record or {}
        sent, earlier = record.get("sent"), record.get("earlier")
        if sent is None and earlier is None:  # as for nearly all: no repair was sent
            return result
        return result._replace(
            earlier=tuple(_restore_earlier(request, each) for each in mappings(earlier)),
            sent=APIRequest(sent, path=request.path, sample=request.sample) if isinstance(sent, dict) else None,
        )


def _has_key(request: APIRequest, body: Mapping[str, Any]) -> bool:
    try:
        canonical = dumps_strictly(body, sort_keys=True)
    except TypeError:  # a lone surrogate, which no request of ours holds
        return False
    plain = alike(canonical)
    keys = (request_key(request.path, each, request.sample) for each in (plain, canonical))
    return next(keys) == request.key or (plain is not canonical and next(keys) == request.key)


def _restore_earlier(request: APIRequest, fields: Mapping[str, Any]) -> Result:
    attempts = attempts_of(fields.get("attempts"))
    return Result(request, "succeeded", bill_of(fields), attempts=attempts, restored=True, usage=usage_of(fields))


def make_line(body: bytes, answer: bytes, *rest: bytes) -> bytes:
    """Join JSON parts into one line. The parts may have line breaks between their tokens.

    >>> make_line(b'{"a":1}', b'{\\n "b": 2\\n}')
    b'[{"a":1},{  "b": 2 }]'
    """
    line = b"[" + b",".join((body, answer, *rest)) + b"]"
    if b"\n" in line or b"\r" in line:  # never inside a JSON string, where line breaks are escaped
        line = line.replace(b"\n", b" ").replace(b"\r", b" ")
    return line


def attempts_of(written: Any) -> tuple[Attempt, ...]:
    """The attempts in a record's `attempts` field, which may hold anything."""
    if not isinstance(written, list):
        return ()
    if len(written) == 1 and type(written[0]) is dict:  # as nearly all are
        return (_attempt(written[0]),)
    return tuple(map(_attempt, mappings(written)))


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
    # A damaged line may hold anything here, and must not stop the run.
    good = type(value) in (float, int) and -1e15 < value < 1e15
    return float(value) if good else 0.0


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
