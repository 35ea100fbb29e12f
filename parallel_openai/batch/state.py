"""What has become of each part of a run, kept in the journal: a line before and after each step that must not be lost.

Such a line is `[{}, null, {"batch": {...}}]`: a request without a body, so those who read answers pass it over.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from parallel_openai.engine.journal import Journal
from parallel_openai.engine.lines import make_line
from parallel_openai.jsonl import dumps, loads

_BEGINS = b'[{},null,{"batch":'


@dataclass
class Part:
    """One input file of a run, and the batch that answers it.

    Attributes:
        name: of the files on the disk and at the server, different from those of all other runs.
        path: the endpoint's, below the base URL.
        tokens: of the prompts, by our count.
        round: which submission it is for its rows; the first is 1.
        submission: how often the part itself was submitted, refusals of the queue included.
        planned_at: seconds since 1970.
        creating_at: when its batch was last asked for; 0: never.
        earlier: it was planned by an earlier call, so the server may know more of it than we do.
        not_before: when to submit it, on the monotonic clock.
    """

    name: str
    model: str
    path: str
    requests: int
    bytes: int
    tokens: int
    round: int
    planned_at: float
    record: bool
    file_id: str | None = None
    batch_id: str | None = None
    submission: int = 0
    creating_at: float = 0.0
    earlier: bool = False
    not_before: float = 0.0


_FIELDS = frozenset(each.name for each in fields(Part))
_ENDS = frozenset({"collected", "dropped"})


def planned(part: Part) -> bytes:
    """The line for a part that is whole on the disk."""
    return _line({"event": "planned", **{name: value for name, value in asdict(part).items() if value is not None}})


def step(part: Part, event: str, **changes: Any) -> bytes:
    """The line for a step of a part: `uploaded`, `creating`, `created`, `refused`, `collected` or `dropped`."""
    return _line({"event": event, "name": part.name, **changes})


def write(journal: Journal, lines: Iterable[bytes]) -> None:
    """Put lines into the journal together, at once: all of them are there after a crash, or none.

    Raises:
        JournalWriteError: the disk refuses.
    """
    for line in lines:
        journal.append(line)
    journal.flush()


def live_parts(journal: Path) -> list[Part]:
    """The parts whose answers are not all in the journal, as they were planned. It may be read while in use."""
    parts: dict[str, Part] = {}
    if not journal.exists():
        return []
    with open(journal, "rb") as file:
        for line in file:
            if line.startswith(_BEGINS):
                _replay(parts, line)
    return list(parts.values())


def _replay(parts: dict[str, Part], line: bytes) -> None:
    try:
        about = loads(line)[2]["batch"]
        name, event = about["name"], about["event"]
        changes = {key: value for key, value in about.items() if key in _FIELDS}
        if not _is_plain(name):
            return
        if event == "planned":
            parts[name] = Part(**{**changes, "earlier": True})
        elif event in _ENDS:
            parts.pop(name, None)
        elif name in parts:
            parts[name] = replace(parts[name], **changes)
    except (ValueError, TypeError, KeyError, IndexError):
        return  # a damaged line; the server's own list tells what it told


def _is_plain(name: Any) -> bool:
    """Whether it stays in the run's own folder as a file's name: a journal may come from a stranger."""
    return isinstance(name, str) and name not in ("", ".", "..") and not any(mark in name for mark in "/\\:\0")


def _line(about: dict[str, Any]) -> bytes:
    return make_line(b"{}", b"null", dumps({"batch": about}))
