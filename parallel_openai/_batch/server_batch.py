"""A batch as the server's JSON tells of it, whatever that holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

#: How a batch may have come to its end. OpenAI's `failed` is mostly a refusal of the input file.
ENDED = frozenset({"completed", "expired", "cancelled", "failed"})
_LONGEST_ID = 500


class Counts(NamedTuple):
    """How many rows a batch has, and what became of them."""

    total: int
    completed: int
    failed: int


@dataclass(frozen=True, slots=True)
class ServerBatch:
    """A batch as the server shows it; None or nothing for what it does not say, or says in a way that is no sense.

    Attributes:
        id: its name at the server.
        status: the server's word for how it stands.
        input_file_id, output_file_id, error_file_id: its files.
        created_at: seconds since 1970.
        seconds: from there to its end.
        counts: of its rows.
        has_begun: it went beyond the check of its input file.
        errors: why it failed.
        mark: what we called it.
    """

    id: str | None
    status: str
    input_file_id: str | None
    output_file_id: str | None
    error_file_id: str | None
    created_at: float
    seconds: float
    counts: Counts | None
    has_begun: bool
    errors: tuple[Mapping[str, Any], ...]
    mark: str | None

    @classmethod
    def of(cls, told: Mapping[str, Any], mark: str) -> ServerBatch:
        """As it is told; `mark` is the name of our entry in the metadata."""
        created = _number(told.get("created_at"))
        ends = (_number(told.get(f"{name}_at")) for name in ("completed", "expired", "cancelled", "failed"))
        metadata = told.get("metadata")
        named = metadata.get(mark) if isinstance(metadata, Mapping) else None
        return cls(
            id=plain_id(told.get("id")),
            status=_text(told.get("status")),
            input_file_id=plain_id(told.get("input_file_id")),
            output_file_id=plain_id(told.get("output_file_id")),
            error_file_id=plain_id(told.get("error_file_id")),
            created_at=created,
            seconds=max(0.0, next(filter(None, ends), created) - created),
            counts=_counts(told.get("request_counts")),
            has_begun=_number(told.get("in_progress_at")) > 0,
            errors=_errors(told.get("errors")),
            mark=_text(named) or None,
        )

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED

    @property
    def is_refused(self) -> bool:
        """Whether it failed before any of its rows was answered, as far as it says."""
        if self.status != "failed" or self.output_file_id or self.error_file_id:
            return False
        return not self.counts.completed if self.counts is not None else bool(self.errors) and not self.has_begun

    def why(self) -> str:
        """Why it failed, as far as the server says."""
        said = (f"{each.get('message')} ({each.get('code')})" for each in self.errors[:3])
        return "; ".join(said) or "it does not say why"

    def at_fault(self) -> dict[int, Mapping[str, Any]]:
        """What is wrong with lines of the input file, by their numbers from 1 on, wherever the server begins."""
        found = {line: each for each in self.errors if type(line := each.get("line")) is int}
        return {line + 1: each for line, each in found.items()} if 0 in found else found


def plain_id(value: Any) -> str | None:
    """The id, if it can be one: it is put into a URL's path, and comes from a server or out of a file.

    >>> plain_id("file-abc"), plain_id(".."), plain_id(7)
    ('file-abc', None, None)
    """
    is_plain = isinstance(value, str) and value.isprintable() and value not in ("", ".", "..")
    return value if is_plain and len(value) <= _LONGEST_ID else None


def _counts(told: Any) -> Counts | None:
    if not isinstance(told, Mapping):
        return None
    numbers = [each for name in Counts._fields if type(each := told.get(name)) is int and each >= 0]
    return Counts(*numbers) if len(numbers) == 3 else None


def _errors(told: Any) -> tuple[Mapping[str, Any], ...]:
    listed = told.get("data") if isinstance(told, Mapping) else told
    return tuple(each for each in listed if isinstance(each, Mapping)) if isinstance(listed, list) else ()


def _number(value: Any) -> float:
    return float(value) if type(value) in (int, float) and 0 < value < 1e12 else 0.0


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
