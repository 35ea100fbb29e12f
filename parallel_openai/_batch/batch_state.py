"""The state of each part of a run, kept in the journal: a line before and after each step that must not be lost.

Such a line is `[{}, null, {"batch": {...}}]`: a request without a body, which readers of answers skip.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from parallel_openai._batch.server_batch import ServerBatch, plain_id
from parallel_openai._journal.entry import make_line
from parallel_openai._journal.journal import Journal
from parallel_openai._journal.lines import open_to_read
from parallel_openai._json import dumps, loads
from parallel_openai.errors import RunStoppedError

_PREFIX = b'[{},null,{"batch":'


@dataclass(frozen=True)
class Failure:
    """The failures of a part since its last good check."""

    error: RunStoppedError  # the last one
    checks: int  # how many checks failed
    began: float  # when the first one did, on the monotonic clock
    due: float  # when to check again
    is_over: bool  # whether it is not checked again in this call


@dataclass
class Part:
    """One input file of a run, and the batch that answers it. The fields up to `was_read` are kept in the journal."""

    name: str  # names its files on disk and at the server; unique among all runs
    model: str
    path: str  # the endpoint, below the base URL
    requests: int
    bytes: int
    tokens: int  # prompt tokens, by our count
    round: int  # the number of the submission of its rows, from 1
    planned_at: float  # seconds since the epoch
    record: bool
    file_id: str | None = None
    batch_id: str | None = None
    submission: int = 0  # how often the part itself was submitted, including refusals because of a full queue
    creating_at: float = 0.0  # when a batch for it was last requested; 0: never
    former: list[str] = field(default_factory=list)  # ids of batches of the part that the server refused
    answer_bytes: int = 0  # the most bytes of its answers together; 0: unknown
    has_metadata: bool = True  # whether any of its rows has metadata, which the server does not get
    writer: str = ""  # who planned it
    place: str = ""  # the server that it is for
    was_read: bool = False  # whether its answers were read before, maybe not all
    earlier: bool = field(default=False, init=False)  # whether an earlier call planned it
    offset: int = field(default=0, init=False)  # where an earlier call's plan begins in the journal
    not_before: float = field(default=0.0, init=False)  # the earliest time to submit it, on the monotonic clock
    batch: ServerBatch | None = field(default=None, init=False)  # its batch, as last seen
    failure: Failure | None = field(default=None, init=False)  # None after a good check
    answered: set[str] = field(default_factory=set, init=False)  # the rows whose answers were read, by custom_id

    @property
    def is_over(self) -> bool:
        """Whether it is no longer checked in this call."""
        return self.failure is not None and self.failure.is_over

    @property
    def status(self) -> str | None:
        """The status of its batch, as last seen."""
        return None if self.batch is None else self.batch.status


_MAX_NUMBER = 10**15
_MAX_TIME = 10**11  # seconds since the epoch
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("model", "path", "writer", "place"), (str,)),
    **dict.fromkeys(("requests", "bytes", "tokens", "round", "submission", "answer_bytes"), (int,)),
    **dict.fromkeys(("planned_at", "creating_at"), (int, float)),
    **dict.fromkeys(("record", "has_metadata", "was_read"), (bool,)),
    "former": (list,),
}
_KEPT = tuple(each.name for each in fields(Part) if each.init)
_ENDS = frozenset({"collected", "dropped"})


def planned(part: Part) -> bytes:
    """The journal line for a part whose files are complete."""
    return _line({"event": "planned", **{name: value for name in _KEPT if (value := getattr(part, name)) is not None}})


def step(part: Part, event: str, **changes: Any) -> bytes:
    """The journal line for a step of a part.

    It is `uploaded`, `creating`, `created` or `refused`; `collecting` before its answers, and then `collected` or, if
    more are expected, `incomplete`; or `dropped`.
    """
    return _line({"event": event, "name": part.name, **changes})


def write(journal: Journal, lines: Iterable[bytes]) -> None:
    """Append lines to the journal atomically: after a crash, all of them are there or none.

    Raises:
        JournalWriteError: writing failed.
    """
    for line in lines:
        journal.append(line)
    journal.flush()


def live_parts(journal: Path) -> list[Part]:
    """The parts whose answers are not all in the journal, in order. The journal may be in use."""
    parts: dict[str, Part] = {}
    if not journal.exists():
        return []
    offsets, offset = dict[str, int](), 0
    with open_to_read(journal) as file:
        for line in file:
            if line.startswith(_PREFIX):
                _replay(parts, line)
                if parts:
                    offsets.setdefault(next(reversed(parts)), offset)
            offset += len(line)
    for part in parts.values():
        part.earlier, part.offset = True, offsets[part.name]
    return list(parts.values())


def answers_by_part(journal: Path) -> Iterator[tuple[str, bytes]]:
    """The lines that were read from a batch's files, each after the name of its part."""
    name: str | None = None
    with open_to_read(journal) as file:
        for line in file:
            if line.startswith(_PREFIX):
                with suppress(ValueError, TypeError, KeyError):  # a damaged line
                    state = loads(line)[2]["batch"]
                    name = state["name"] if state["event"] == "collecting" else None
            elif name is not None:
                yield name, line


def _replay(parts: dict[str, Part], line: bytes) -> None:
    try:
        state = loads(line)[2]["batch"]
        name, event = state["name"], state["event"]
        changes = {key: value for key, value in state.items() if key in _KEPT}
        if event == "planned":
            parts[name] = _checked(Part(**changes))
        elif event in _ENDS:
            parts.pop(name, None)
        elif name in parts:
            parts[name] = _checked(replace(parts[name], **changes))
    except (ValueError, TypeError, KeyError, IndexError):
        return  # a damaged line; what it recorded is also in the server's list


def _checked(part: Part) -> Part:
    """Validate a part read from a journal, whose content is not trusted.

    Raises:
        TypeError: a field has an invalid value.
    """
    for name, types in _TYPES.items():
        value = getattr(part, name)
        limit = _MAX_TIME if float in types else _MAX_NUMBER
        if type(value) not in types or (int in types and not 0 <= value < limit):
            raise TypeError(f"{name} of a part is {value!r:.100}")
    ids = (each for each in (part.file_id, part.batch_id, *part.former) if each is not None)
    if not _is_plain(part.name) or None in map(plain_id, ids):
        raise TypeError("a part has an invalid name or id")
    return part


def _is_plain(name: Any) -> bool:
    """Whether a file of this name stays in the part's own folder: a journal's content is not trusted."""
    return isinstance(name, str) and name not in ("", ".", "..") and not any(mark in name for mark in "/\\:\0")


def _line(state: dict[str, Any]) -> bytes:
    return make_line(b"{}", b"null", dumps({"batch": state}))
