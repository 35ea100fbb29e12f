"""What a file of results says of the lines of a file of requests, in a few bytes for each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from parallel_openai.batch.faces import identity_in_files
from parallel_openai.engine.digests import digest_of
from parallel_openai.engine.finished import FinishedRequests
from parallel_openai.engine.lines import Entry, likely_lines, read_entries
from parallel_openai.files.source import no_json
from parallel_openai.jsonl import alike, canonical, dumps, dumps_strictly
from parallel_openai.records import request_key
from parallel_openai.requests.endpoints import is_simulated

#: What names a line: its body and its metadata. The same request for two different rows is two.
Digest = Callable[[Mapping[str, Any], Any], int]
Standing = Literal["good", "failed", "new"]
#: Lines that are read before other work of the loop gets its turn.
_AT_ONCE = 1000


class KnownLines:
    """How often each line of the requests has a good answer in the results, and which ones have only failed.

    Args:
        digest: what names a line.

    >>> known = KnownLines(content_digest)
    >>> known.put({"model": "gpt-5-mini", "n": 1}, None, good=True)
    >>> known.take({"n": 1, "model": "gpt-5-mini"}, None), known.take({"n": 1, "model": "gpt-5-mini"}, None)
    ('good', 'new')
    """

    def __init__(self, digest: Digest) -> None:
        self.finished = FinishedRequests()
        self.damaged_lines = 0
        self._digest = digest

    @classmethod
    async def load(cls, path: Path, digest: Digest, *, simulated: bool) -> KnownLines:
        """What a file of results holds; with `simulated`, the simulator's answers count. The loop stays free."""
        known = cls(digest)
        for number, (offset, entry) in enumerate(read_entries(path)):
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
                if number == _AT_ONCE:
                    known.finished.expect(likely_lines(path, number, offset))
            known._note(entry, simulated=simulated)
        return known

    def _note(self, entry: Entry | None, *, simulated: bool) -> None:
        if entry is None:
            self.damaged_lines += 1
            return
        body, answer = entry[0], entry[1]
        good = isinstance(answer, dict)
        if not body or (good and not simulated and is_simulated(answer)):  # an empty one tells of a batch
            return
        try:
            self.put(body, entry[2] if len(entry) > 2 else None, good=good)
        except ValueError:  # no request of ours: it could not have been sent
            self.damaged_lines += 1

    def put(self, body: Mapping[str, Any], metadata: Any, *, good: bool) -> None:
        """Note an answer or a failure.

        Raises:
            ValueError: the body is none that could be sent.
        """
        self.finished.put(self._digest(body, metadata), good=good)

    def take(self, body: Mapping[str, Any], metadata: Any) -> Standing:
        """How a line stands; `good` uses one of its answers up.

        Raises:
            ValueError: the body is none that could be sent.
        """
        if not self.finished:
            return "new"
        digest = self._digest(body, metadata)
        if self.finished.take(digest):
            return "good"
        return "failed" if self.finished.has_failed(digest) else "new"


def content_digest(body: Mapping[str, Any], metadata: Any) -> int:
    """What is sent and what travels beside it, in whatever order the fields stand.

    Raises:
        ValueError: the body is none that could be sent.
    """
    try:
        return digest_of(alike(canonical((body, metadata))))
    except TypeError:  # a row's own metadata may hold what the API would not take
        return digest_of(_canonical(body) + b"\n" + dumps(metadata, sort_keys=True))


def key_digest(path: str) -> Digest:
    """The same by the name that a request has among batches, which takes longer to make."""

    def digest(body: Mapping[str, Any], metadata: Any) -> int:
        return digest_of(identity_in_files(request_key(path, _canonical(body)), metadata))

    return digest


def _canonical(body: Mapping[str, Any]) -> bytes:
    try:
        return alike(dumps_strictly(body, sort_keys=True))
    except TypeError as error:
        raise no_json(error) from None


#: Before the first run.
NOTHING_KNOWN = KnownLines(content_digest)
