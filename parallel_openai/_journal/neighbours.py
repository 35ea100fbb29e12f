"""Finds journals in a run's folder that already answer its requests, though they have another name.

A journal is named after the model and a digest of the prompt as written, and the same requests can be written in many
ways: as a template, a function or a column. Journals may be many and large, so only a few of the requests are looked
for, which takes one to four milliseconds per megabyte; those that have some of them are read in full.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from parallel_openai._disk.file_ownership import check_own
from parallel_openai._journal.known_results import KnownResults
from parallel_openai._journal.lines import read_entries
from parallel_openai._journal.origins import Origin
from parallel_openai._json import dumps
from parallel_openai._records import APIRequest, Result
from parallel_openai.errors import JournalError

#: Bytes searched at a time.
_CHUNK = 2**20
#: Bytes searched in all: so many per row of the run, which takes no longer than to send it, and no fewer than these.
_PER_ROW, _AT_LEAST = 2**20, 2**28
#: At most this many lines at the beginning of a journal, such as those of a batch's state, say nothing of its origin.
_MOST_SILENT = 1000
_KEY = re.compile(rb',\{"key":"([0-9a-f]{32})","status":"succeeded"')
_LONGEST_MARK = 100  # bytes
#: In the place of the model's name in a journal's, where the rows name their models themselves.
OF_ANY_MODEL = "requests"
_DIGEST = re.compile(r"-[0-9a-f]{12}\.jsonl")


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


def neighbours_of(
    own: Path, known: KnownResults, some: Iterable[APIRequest], origin: Origin, *, rows: int
) -> Iterator[Path | None]:
    """Yield the journals that answer some of these requests, of those not in `known`; None now and then in between.

    Args:
        own: the run's journal.
        some: a sample of the run's requests.
        rows: how many the run has. Few rows are not worth a long search.
    """
    others = others_beside(own)
    wanted = [each for each in some if each.key not in known] if others else []
    yield from _neighbours_among(others, wanted, origin, max(_AT_LEAST, rows * _PER_ROW)) if wanted else ()


def others_beside(own: Path) -> list[Path]:
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


def _neighbours_among(
    paths: Iterable[Path], requests: Iterable[APIRequest], origin: Origin, max_bytes: int
) -> Iterator[Path | None]:
    keys = {request.key.encode() for request in requests}
    hits: dict[Path, int] = {}
    for path in paths:
        yield None
        found: set[bytes] = set()
        try:
            check_own(path)
            if _origin_of(path) == origin:
                for each in islice(_keys_in(path), max(0, max_bytes // _CHUNK)):
                    found |= keys & each
                    max_bytes -= _CHUNK
                    yield None
        except (JournalError, OSError):  # what is wrong with it does not concern this run
            continue
        if found:
            hits[path] = len(found)
    yield from sorted(hits, key=lambda path: -hits[path])


def _origin_of(path: Path) -> Origin | None:
    """The origin of a journal's first answer or failure, or None."""
    entries = (entry for _, entry in islice(read_entries(path), _MOST_SILENT))
    return next((entry.origin for entry in entries if entry is not None and entry.body), None)


def _keys_in(path: Path) -> Iterator[set[bytes]]:
    """The keys of the answers in each chunk of a journal."""
    with open(path, "rb", buffering=0) as file:
        rest = b""
        while chunk := file.read(_CHUNK):
            yield set(_KEY.findall(rest + chunk))
            rest = chunk[-_LONGEST_MARK:]
