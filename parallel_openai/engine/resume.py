"""What a file of results already knows, and how a result is written into it and read back."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from parallel_openai.engine.lines import Entry, make_line, read_entries, read_entry_at
from parallel_openai.jsonl import dumps
from parallel_openai.records import APIRequest, Attempt, Result
from parallel_openai.requests.endpoints import is_simulated, usage_of


def result_line(result: Result, *, record: bool) -> bytes:
    """A result as a journal's line; with `record`, the key and the attempts are written too, for the way back."""
    request = result.request
    answer = result.raw if result.raw is not None else dumps(list(result.errors) or [result.error])
    if not record:
        beside = () if request.metadata is None else (dumps(request.metadata),)
        return make_line(request.body, answer, *beside)
    about: dict[str, Any] = {"key": request.key, "status": result.status}
    if result.error_code is not None:
        about.update(error_code=result.error_code, error=result.error)
    about["attempts"] = _plain(result.attempts)
    if result.sent is not None:
        about["sent"] = result.sent.request_json
        about["earlier"] = [{**_bill(each.response), "attempts": _plain(each.attempts)} for each in result.earlier]
    return make_line(request.body, answer, dumps(request.metadata), dumps(about))


def _plain(attempts: Iterable[Attempt]) -> list[dict[str, Any]]:
    return [_fields(attempt) for attempt in attempts]


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
    return fields


def _bill(response: Any) -> dict[str, Any]:
    """What a response says that it took, and of which model."""
    return {name: response[name] for name in ("model", "usage") if name in response}


class KnownResults:
    """The finished requests of a journal, by key; a later success goes before an earlier failure.

    Args:
        path: the journal; it need not exist.
        failures: whether failed requests count as finished too.
        simulated: whether answers of the simulator count.

    The answers themselves stay on the disk and are read when asked for.
    """

    def __init__(self, path: str | os.PathLike[str], *, failures: bool = False, simulated: bool = False) -> None:
        self.damaged_lines = 0
        self._offsets: dict[str, int] = {}
        self._failed: set[str] = set()
        self._file = -1
        if not Path(path).exists():
            return
        succeeded: set[str] = set()
        for offset, entry in read_entries(path):
            if entry is None:
                self.damaged_lines += 1
                continue
            key = key_of(entry)
            if key is None:
                continue
            if isinstance(entry[1], Mapping):
                if simulated or not is_simulated(entry[1]):
                    self._offsets[key] = offset
                    succeeded.add(key)
            elif key not in succeeded:
                self._failed.add(key)
                if failures:
                    self._offsets[key] = offset
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    def __contains__(self, key: str) -> bool:
        return key in self._offsets

    def __len__(self) -> int:
        return len(self._offsets)

    def was_asked(self, key: str) -> bool:
        """Whether the journal holds an answer or a failure of it."""
        return key in self._offsets or key in self._failed

    def get(self, request: APIRequest) -> Result | None:
        """The request's result as it was written, or None when it is not known."""
        offset = self._offsets.get(request.key)
        return None if offset is None else restored(request, read_entry_at(self._file, offset))

    def entry(self, key: str) -> Entry | None:
        """The line written under a key, or None."""
        offset = self._offsets.get(key)
        return None if offset is None else read_entry_at(self._file, offset)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def key_of(entry: Entry) -> str | None:
    """The key under which a frame's line was written; None for a line without a record."""
    record = entry[3] if len(entry) == 4 else None
    key = record.get("key") if isinstance(record, dict) else None
    return key if isinstance(key, str) else None


def restored(request: APIRequest, entry: Entry) -> Result:
    """The result that a line was written for."""
    record: Mapping[str, Any] = entry[3]
    attempts = attempts_of(record)
    if isinstance(entry[1], Mapping):
        sent, before = record.get("sent"), record.get("earlier")
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
    return Result(request, "succeeded", _bill(fields), attempts=attempts_of(fields), restored=True, usage=usage)


def attempts_of(record: Mapping[str, Any]) -> tuple[Attempt, ...]:
    """The sends that a line's record tells of."""
    sends = record.get("attempts")
    return tuple(_attempt(fields) for fields in sends if isinstance(fields, dict)) if isinstance(sends, list) else ()


def _attempt(fields: Mapping[str, Any]) -> Attempt:
    return Attempt(
        at=_number(fields.get("at")),
        seconds=_number(fields.get("seconds")),
        waited=_number(fields.get("waited")),
        status=int(_number(fields.get("status"))),
        error_code=_text(fields.get("error_code")),
        request_id=_text(fields.get("request_id")),
    )


def _number(value: Any) -> float:
    """A damaged line may hold anything, and one of them must not stop a run."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15
    return float(value) if good else 0.0


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
