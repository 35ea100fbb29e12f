"""What a line of a file of results says of its request and its answer: written here, and read back here, for every run.

A line is `[request, response]`, `[request, response, metadata]` or, for a frame's rows,
`[request, response, metadata, record]`; a failure has the list of its errors in the place of the response.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from parallel_openai._journal.origins import Origin
from parallel_openai._json import alike, dumps, dumps_strictly, loads
from parallel_openai._records import APIRequest, Attempt, Result, request_key, without_tier
from parallel_openai._requests.endpoints import bill_of, mappings, path_answering, usage_of

#: Of the records that are written here. A line with a later one is not read, since it may mean something else by it.
VERSION = 1


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
    about: dict[str, Any] = {"key": request.key, "status": result.status, "version": VERSION}
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


class JournalEntry(NamedTuple):
    """What a line says.

    >>> entry = JournalEntry.read(b'[{"model":"m"},{"id":"1"},null,{"key":"k","status":"succeeded","version":1}]')
    >>> entry.key, entry.is_good, entry.version
    ('k', True, 1)
    >>> JournalEntry.read(b'[{"model":"m"},{"id"') is None
    True
    """

    body: dict[str, Any]  # what was asked
    answer: Any  # the response's JSON; the list of its errors where there is none
    metadata: Any = None  # what travelled beside the request
    # Of a frame's line, the key, the attempts and the origin; None where a line has the cookbook's shape.
    record: Mapping[str, Any] | None = None

    @classmethod
    def read(cls, line: bytes, loads: Callable[[bytes], Any] = loads) -> JournalEntry | None:
        """The line's entry; None for one that is damaged, or no line of results."""
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
        """Whether it holds an answer, and no failure."""
        return isinstance(self.answer, Mapping)

    @property
    def version(self) -> int:
        """Of the record; those of before versions were told are of the first."""
        version = self.record.get("version") if self.record else None
        return version if type(version) is int else 1

    @property
    def key(self) -> str | None:
        """The key under which a frame's line was written; None for a line without a record."""
        key = self.record.get("key") if self.record else None
        return key if isinstance(key, str) else None

    @property
    def asked_key(self) -> str | None:
        """The key of what the line asks; a file run's answer has none written beside it, so that it is made. None for
        its failure."""
        if self.record is not None or not self.body or not self.is_good:
            return self.key
        try:
            body = alike(dumps_strictly(without_tier(self.body), sort_keys=True))
        except TypeError:  # it could not have been sent
            return None
        return request_key(path_answering(self.body, self.answer), body)

    @property
    def origin(self) -> Origin | None:
        """Where the record says that the line came from."""
        place, by = (self.record.get("place"), self.record.get("writer")) if self.record else (None, None)
        return Origin(place, by) if isinstance(place, str) and isinstance(by, str) else None

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The sends that the record tells of."""
        return attempts_of(self.record.get("attempts")) if self.record else ()

    @property
    def error_code(self) -> str:
        """Of a failure."""
        return str((self.record or {}).get("error_code") or "error")

    @property
    def error(self) -> str:
        """A failure's sentence."""
        told = self.answer if isinstance(self.answer, list) else [self.answer]
        return str((self.record or {}).get("error") or (told[-1] if told else None) or "")

    def asks(self, request: APIRequest) -> bool:
        """Whether the request that the line holds is the one that it is kept under. The tier that it was sent in is no
        part of the key."""
        body = self.body
        return _has_key(request, body) or ("service_tier" in body and _has_key(request, without_tier(body)))

    def result(self, request: APIRequest) -> Result:
        """The result that the line was written for."""
        if not request.body:
            request.request_json = self.body  # whoever looked it up by its key alone may ask which model was meant
        answer, attempts = self.answer, self.attempts
        if type(answer) is not dict:
            errors = tuple(map(str, answer)) if isinstance(answer, list) else ()
            return Result(
                request, "failed", None, self.error_code, self.error, errors, attempts=attempts, restored=True
            )
        result = Result(request, "succeeded", answer, attempts=attempts, restored=True, usage=usage_of(answer))
        record = self.record or {}
        sent, earlier = record.get("sent"), record.get("earlier")
        if sent is None and earlier is None:  # it was no repair
            return result
        return result._replace(
            earlier=tuple(_restore_earlier(request, each) for each in mappings(earlier)),
            sent=APIRequest(sent, path=request.path, sample=request.sample) if isinstance(sent, dict) else None,
        )


def _has_key(request: APIRequest, body: Mapping[str, Any]) -> bool:
    try:
        canonical = dumps_strictly(body, sort_keys=True)
    except TypeError:  # half a surrogate pair, which no request of ours holds
        return False
    plain = alike(canonical)
    keys = (request_key(request.path, each, request.sample) for each in (plain, canonical))
    return next(keys) == request.key or (plain is not canonical and next(keys) == request.key)


def _restore_earlier(request: APIRequest, fields: Mapping[str, Any]) -> Result:
    attempts = attempts_of(fields.get("attempts"))
    return Result(request, "succeeded", bill_of(fields), attempts=attempts, restored=True, usage=usage_of(fields))


def make_line(body: bytes, answer: bytes, *rest: bytes) -> bytes:
    """One line of JSON parts, each of which may come with line breaks between its tokens.

    >>> make_line(b'{"a":1}', b'{\\n "b": 2\\n}')
    b'[{"a":1},{  "b": 2 }]'
    """
    line = b"[" + b",".join((body, answer, *rest)) + b"]"
    if b"\n" in line or b"\r" in line:  # in JSON a line break never stands inside a string
        line = line.replace(b"\n", b" ").replace(b"\r", b" ")
    return line


def attempts_of(sends: Any) -> tuple[Attempt, ...]:
    """The sends, out of what is written of them."""
    if not isinstance(sends, list):
        return ()
    if len(sends) == 1 and type(sends[0]) is dict:  # as nearly all are
        return (_attempt(sends[0]),)
    return tuple(map(_attempt, mappings(sends)))


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
