"""What has become of each part of a run, kept in the journal: a line before and after each step that must not be lost.

Such a line is `[{}, null, {"batch": {...}}]`: a request without a body, so those who read answers pass it over.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from parallel_openai._batch.server_batch import plain_id
from parallel_openai._journal.journal import Journal
from parallel_openai._journal.lines import make_line, open_to_read
from parallel_openai._json import dumps, loads

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
        former: ids of batches of the part that the server refused.
        answer_bytes: how long its answers may be together; 0: unknown.
        has_metadata: whether its rows have some, which the server does not know.
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
    former: list[str] = field(default_factory=list)
    answer_bytes: int = 0
    has_metadata: bool = True


_LARGEST = 10**15
_LATEST = 10**11  # seconds since 1970
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("model", "path"), (str,)),
    **dict.fromkeys(("requests", "bytes", "tokens", "round", "submission", "answer_bytes"), (int,)),
    **dict.fromkeys(("planned_at", "creating_at"), (int, float)),
    **dict.fromkeys(("record", "earlier", "has_metadata"), (bool,)),
    "former": (list,),
}
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
    with open_to_read(journal) as file:
        for line in file:
            if line.startswith(_BEGINS):
                _replay(parts, line)
    return list(parts.values())


def _replay(parts: dict[str, Part], line: bytes) -> None:
    try:
        about = loads(line)[2]["batch"]
        name, event = about["name"], about["event"]
        changes = {key: value for key, value in about.items() if key in _FIELDS}
        if event == "planned":
            parts[name] = _checked(Part(**{**changes, "earlier": True, "not_before": 0.0}))
        elif event in _ENDS:
            parts.pop(name, None)
        elif name in parts:
            parts[name] = _checked(replace(parts[name], **changes))
    except (ValueError, TypeError, KeyError, IndexError):
        return  # a damaged line; the server's own list tells what it told


def _checked(part: Part) -> Part:
    """The same, of a part that was read from a file, which anybody may have written.

    Raises:
        TypeError: a field holds what it cannot.
    """
    for name, kinds in _KINDS.items():
        value = getattr(part, name)
        most = _LATEST if float in kinds else _LARGEST
        if type(value) not in kinds or (int in kinds and not 0 <= value < most):
            raise TypeError(f"{name} of a part is {value!r:.100}")
    ids = (each for each in (part.file_id, part.batch_id, *part.former) if each is not None)
    if not _is_plain(part.name) or None in map(plain_id, ids):
        raise TypeError("a name of a part is none")
    return part


def _is_plain(name: Any) -> bool:
    """Whether it stays in the run's own folder as a file's name: a journal may come from a stranger."""
    return isinstance(name, str) and name not in ("", ".", "..") and not any(mark in name for mark in "/\\:\0")


def _line(about: dict[str, Any]) -> bytes:
    return make_line(b"{}", b"null", dumps({"batch": about}))
