"""A batch as parsed from the server's JSON, which is not trusted to be valid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

#: The key of our entry in a batch's metadata.
TAG_KEY = "parallel_openai"
#: Final statuses. OpenAI's `failed` mostly means that the input file was refused.
ENDED = frozenset({"completed", "expired", "cancelled", "failed"})
_MAX_ID_LENGTH = 500


class Counts(NamedTuple):
    """The numbers of rows of a batch."""

    total: int
    completed: int
    failed: int


@dataclass(frozen=True, slots=True)
class ServerBatch:
    """A batch as the server reports it. Missing or invalid fields are None or empty."""

    id: str | None  # its id at the server
    status: str  # its status at the server
    # The ids of its files.
    input_file_id: str | None
    output_file_id: str | None
    error_file_id: str | None
    created_at: float  # seconds since the epoch
    seconds: float  # from its creation to its end
    counts: Counts | None  # of its rows
    has_begun: bool  # whether the validation of its input file succeeded
    errors: tuple[Mapping[str, Any], ...]  # why it failed
    tag: str | None  # our own name for it, from its metadata

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> ServerBatch:
        created = _number(data.get("created_at"))
        ends = (_number(data.get(f"{name}_at")) for name in ("completed", "expired", "cancelled", "failed"))
        metadata = data.get("metadata")
        tag = metadata.get(TAG_KEY) if isinstance(metadata, Mapping) else None
        return cls(
            id=plain_id(data.get("id")),
            status=_string(data.get("status")),
            input_file_id=plain_id(data.get("input_file_id")),
            output_file_id=plain_id(data.get("output_file_id")),
            error_file_id=plain_id(data.get("error_file_id")),
            created_at=created,
            seconds=max(0.0, next(filter(None, ends), created) - created),
            counts=_counts(data.get("request_counts")),
            has_begun=_number(data.get("in_progress_at")) > 0,
            errors=_errors(data.get("errors")),
            tag=_string(tag) or None,
        )

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED

    @property
    def is_refused(self) -> bool:
        """Whether it failed before any row was answered, as far as the server reports."""
        if self.status != "failed" or self.output_file_id or self.error_file_id:
            return False
        return not self.counts.completed if self.counts is not None else bool(self.errors) and not self.has_begun

    def why(self) -> str:
        """Why it failed, as far as the server reports."""
        reasons = (f"{each.get('message')} ({each.get('code')})" for each in self.errors[:3])
        return "; ".join(reasons) or "no reason given"

    def at_fault(self) -> dict[int, Mapping[str, Any]]:
        """The errors of lines of the input file by line number from 1, whether the server counts from 0 or 1."""
        found = {line: each for each in self.errors if type(line := each.get("line")) is int}
        return {line + 1: each for line, each in found.items()} if 0 in found else found


def plain_id(value: Any) -> str | None:
    """The id if it is valid, otherwise None. It becomes part of a URL's path and is not trusted.

    >>> plain_id("file-abc"), plain_id(".."), plain_id(7)
    ('file-abc', None, None)
    """
    is_plain = isinstance(value, str) and value.isprintable() and value not in ("", ".", "..")
    return value if is_plain and len(value) <= _MAX_ID_LENGTH else None


def _counts(data: Any) -> Counts | None:
    if not isinstance(data, Mapping):
        return None
    numbers = [each for name in Counts._fields if type(each := data.get(name)) is int and each >= 0]
    return Counts(*numbers) if len(numbers) == 3 else None


def _errors(data: Any) -> tuple[Mapping[str, Any], ...]:
    items = data.get("data") if isinstance(data, Mapping) else data
    return tuple(each for each in items if isinstance(each, Mapping)) if isinstance(items, list) else ()


def _number(value: Any) -> float:
    return float(value) if type(value) in (int, float) and 0 < value < 1e12 else 0.0


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""
