"""Journals beside a run's own, of the same model and under another name, that hold answers to what it asks.

The name is made of what is asked as it is written, and the same requests may be written in many ways: as a template,
a function or a column. A few of the requests are looked for in a part of each journal, since many may be large.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from parallel_openai._disk.file_ownership import check_own
from parallel_openai._journal.entry import JournalEntry
from parallel_openai._journal.known_results import KnownResults
from parallel_openai._journal.lines import open_to_read
from parallel_openai._journal.origins import Origin
from parallel_openai._json import alike, dumps
from parallel_openai._records import APIRequest, Result
from parallel_openai.errors import JournalError

#: Of a journal, so many bytes at its beginning and as many in its middle are looked through.
_LOOKED_THROUGH = 2**20
#: So many are read as a whole, those with the most answers first.
_MOST = 3
_KEY = re.compile(rb',\{"key":"([0-9a-f]{32})","status":"succeeded"')
_DIGEST = re.compile(r"-[0-9a-f]{12}\.jsonl")
#: What a row may bring of its own.
_OF_ROWS = frozenset({"messages", "input", "prompt", "service_tier"})


class Neighbour(KnownResults):
    """The answers of such a journal: those that came from the same server, and that this user wrote."""

    origin: Origin  # where they must have come from
    keep: Callable[[bytes], None]  # takes the line of an answer that is made use of

    @classmethod
    async def read(cls, path: Path, origin: Origin, keep: Callable[[bytes], None], *, simulated: bool) -> Neighbour:
        neighbour = await cls.load(path, simulated=simulated)
        assert isinstance(neighbour, cls)
        return neighbour.believing(origin, keep)

    def believing(self, origin: Origin, keep: Callable[[bytes], None] = lambda _: None) -> Neighbour:
        self.origin, self.keep = origin, keep
        return self

    def get(self, request: APIRequest) -> Result | None:
        entry = self.entry(request.key)
        if entry is None or entry.origin != self.origin or not entry.asks(request):
            return None
        self.keep(dumps(tuple(entry)))
        return entry.result(request)


def neighbours_of(own: Path, known: KnownResults, some: Iterable[APIRequest], origin: Origin) -> Iterator[Path | None]:
    """The journals that hold answers to some of these requests which the own one does not know; None now and then,
    while they are looked for."""
    others = _others_beside(own)
    wanted = [each for each in some if each.key not in known] if others else []
    yield from _neighbours_among(others, wanted, origin) if wanted else ()


def _others_beside(own: Path) -> list[Path]:
    """The other journals of a model that lie beside one with a name of ours, the newest first."""
    stem = _DIGEST.sub("", own.name)
    if stem == own.name or not own.parent.is_dir():
        return []
    with os.scandir(own.parent) as folder:
        found = [each for each in folder if _DIGEST.sub("", each.name) == stem != each.name and each.name != own.name]
        found = [each for each in found if each.is_file(follow_symlinks=False)]  # somebody else may have put it there
        return [Path(each.path) for each in sorted(found, key=lambda each: each.stat().st_mtime, reverse=True)]


def _neighbours_among(paths: Iterable[Path], requests: Iterable[APIRequest], origin: Origin) -> Iterator[Path | None]:
    keys = {request.key.encode() for request in requests}
    settings = {_settings(request.request_json) for request in requests}
    hits: dict[Path, int] = {}
    for path in paths:
        yield None
        try:
            check_own(path)
            if (count := _answers_in(path, keys, settings, origin)) > 0:
                hits[path] = count
        except (JournalError, OSError):  # it is not this run's business what is wrong with it
            continue
    yield from sorted(hits, key=lambda path: -hits[path])[:_MOST]


def _answers_in(path: Path, keys: set[bytes], settings: set[bytes], origin: Origin) -> int:
    with open_to_read(path) as file:
        first = JournalEntry.read(file.readline())
        if first is None or first.origin != origin or _settings(first.body) not in settings:
            return 0
        size, found = os.fstat(file.fileno()).st_size, 0
        for start in dict.fromkeys((0, max(0, (size - _LOOKED_THROUGH) // 2))):
            file.seek(start)
            found += len(keys.intersection(_KEY.findall(file.read(_LOOKED_THROUGH))))
        return found


def _settings(body: Mapping[str, Any]) -> bytes:
    """What is the same for all requests of a run."""
    return alike(dumps({name: value for name, value in body.items() if name not in _OF_ROWS}, sort_keys=True))
