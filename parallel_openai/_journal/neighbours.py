"""Finds journals in a run's folder that already answer its requests, though they have another name.

A journal is named after the model and a digest of the prompt as written, and the same requests can be written in many
ways: as a template, a function or a column. Journals may be many and large, so only a few of the requests are looked
for, in parts of each journal.
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

#: Bytes searched at the beginning of a journal, and as many again in its middle.
_SEARCHED = 2**20
#: At most this many journals are read in full, those with the most hits first.
_MAX_NEIGHBOURS = 3
_KEY = re.compile(rb',\{"key":"([0-9a-f]{32})","status":"succeeded"')
#: In the place of the model's name in a journal's, where the rows name their models themselves.
OF_ANY_MODEL = "requests"
_DIGEST = re.compile(r"-[0-9a-f]{12}\.jsonl")
#: The fields of a request that may differ from row to row.
_ROW_FIELDS = frozenset({"messages", "input", "prompt", "service_tier"})


class Neighbour(KnownResults):
    """The answers of another journal that came from the same server and were written by the same user."""

    origin: Origin  # the origin that answers must have
    keep: Callable[[bytes], None]  # receives the line of each answer that is used

    @classmethod
    async def read(cls, path: Path, origin: Origin, keep: Callable[[bytes], None], *, simulated: bool) -> Neighbour:
        neighbour = await cls.load(path, simulated=simulated)
        assert isinstance(neighbour, cls)
        return neighbour.trusting(origin, keep)

    def trusting(self, origin: Origin, keep: Callable[[bytes], None] = lambda _: None) -> Neighbour:
        self.origin, self.keep = origin, keep
        return self

    def get(self, request: APIRequest) -> Result | None:
        entry = self.entry(request.key)
        if entry is None or entry.origin != self.origin or not entry.asks(request):
            return None
        self.keep(dumps(tuple(entry)))
        return entry.result(request)


def neighbours_of(own: Path, known: KnownResults, some: Iterable[APIRequest], origin: Origin) -> Iterator[Path | None]:
    """Yield the journals that answer some of these requests, of those not in `known`; None now and then in between.

    Args:
        own: the run's journal.
        some: a sample of the run's requests.
    """
    others = _others_beside(own)
    wanted = [each for each in some if each.key not in known] if others else []
    yield from _neighbours_among(others, wanted, origin) if wanted else ()


def _others_beside(own: Path) -> list[Path]:
    """The other journals in the same folder that may be of the same model, the newest first; none if `own` has a name
    of the user's."""
    stem = _DIGEST.sub("", own.name)
    if stem == own.name or not own.parent.is_dir():
        return []
    with os.scandir(own.parent) as folder:
        found = [each for each in folder if each.name != own.name and _may_be_of(stem, each.name)]
        found = [each for each in found if each.is_file(follow_symlinks=False)]  # a link may be another user's trap
        return [Path(each.path) for each in sorted(found, key=lambda each: each.stat().st_mtime, reverse=True)]


def _may_be_of(stem: str, name: str) -> bool:
    """Whether a file is a journal of the same model, or of rows of which each names its own."""
    other = _DIGEST.sub("", name)
    return other != name and (other == stem or OF_ANY_MODEL in (stem, other))


def _neighbours_among(paths: Iterable[Path], requests: Iterable[APIRequest], origin: Origin) -> Iterator[Path | None]:
    keys = {request.key.encode() for request in requests}
    settings = {_settings(request.request_json) for request in requests}
    hits: dict[Path, int] = {}
    for path in paths:
        yield None
        try:
            check_own(path)
            if (count := _count_hits(path, keys, settings, origin)) > 0:
                hits[path] = count
        except (JournalError, OSError):  # what is wrong with it does not concern this run
            continue
    yield from sorted(hits, key=lambda path: -hits[path])[:_MAX_NEIGHBOURS]


def _count_hits(path: Path, keys: set[bytes], settings: set[bytes], origin: Origin) -> int:
    with open_to_read(path) as file:
        first = JournalEntry.read(file.readline())
        if first is None or first.origin != origin or _settings(first.body) not in settings:
            return 0
        size, found = os.fstat(file.fileno()).st_size, 0
        for start in dict.fromkeys((0, max(0, (size - _SEARCHED) // 2))):
            file.seek(start)
            found += len(keys.intersection(_KEY.findall(file.read(_SEARCHED))))
        return found


def _settings(body: Mapping[str, Any]) -> bytes:
    """A request's fields that all requests of a run share, as canonical JSON."""
    return alike(dumps({name: value for name, value in body.items() if name not in _ROW_FIELDS}, sort_keys=True))
