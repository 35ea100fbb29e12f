"""What a file of results says of the lines of a file of requests, in a few bytes for each."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from parallel_openai._batch.manage import identity_in_files
from parallel_openai._files.requests_file import no_json
from parallel_openai._journal.answer_counts import AnswerCounts
from parallel_openai._journal.digest_index import digest_of
from parallel_openai._journal.entry import JournalEntry
from parallel_openai._journal.lines import likely_lines, read_entries
from parallel_openai._journal.origins import Origin, Origins, writer
from parallel_openai._json import alike, canonical, dumps, dumps_strictly
from parallel_openai._records import request_key
from parallel_openai._requests.endpoints import is_simulated, path_answering
from parallel_openai.errors import InvalidInputError

#: What names a line: its body, its metadata and its endpoint. The same request for two different rows is two.
Digest = Callable[[Mapping[str, Any], Any, str], int]
Standing = Literal["good", "failed", "new"]
#: In the place of the endpoint of a failure, which does not tell it.
_ANY = ""
#: Lines that are read before other work of the loop gets its turn.
_AT_ONCE = 1000


class KnownLines:
    """How often each line of the requests has a good answer in the results, and which ones have only failed.

    Args:
        digest: what names a line.

    Attributes:
        by_others: the answers that others wrote than who runs this, by whom.

    >>> known = KnownLines(content_digest)
    >>> known.finished.put(content_digest({"model": "gpt-5-mini", "n": 1}, None, "embeddings"), good=True)
    >>> known.take({"n": 1, "model": "gpt-5-mini"}, None, "responses")
    'new'
    >>> [known.take({"n": 1, "model": "gpt-5-mini"}, None, "embeddings") for _ in range(2)]
    ['good', 'new']
    """

    def __init__(self, digest: Digest) -> None:
        self.finished = AnswerCounts()
        self.damaged_lines = 0
        self.by_others: Counter[str] = Counter()
        self._of_unknown_origin = 0
        self._digest = digest

    @classmethod
    async def load(cls, path: Path, digest: Digest, *, simulated: bool, place: str | None) -> KnownLines:
        """What a file of results holds that came from a place, or from anywhere (None). The loop stays free.

        Args:
            simulated: whether the simulator's answers count.

        Raises:
            InvalidInputError: it holds answers that do not say where they came from.
        """
        known, origins = cls(digest), Origins(path)
        for number, (offset, entry) in enumerate(read_entries(path)):
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
                if number == _AT_ONCE:
                    known.finished.expect(likely_lines(path, number, offset))
            known._note(entry, origins.of(offset), place, simulated=simulated)
        if known._of_unknown_origin:
            raise InvalidInputError(
                f"{path} holds {known._of_unknown_origin:,} answers that do not say which server gave them: another "
                "program wrote them, or an earlier version of this one. If they are answers to these requests, say "
                "resume_from_anywhere=True (--resume_from_anywhere); otherwise choose another file for the results."
            )
        return known

    def _note(self, entry: JournalEntry | None, origin: Origin | None, place: str | None, *, simulated: bool) -> None:
        if entry is None:
            self.damaged_lines += 1
            return
        body, answer, metadata, record = entry
        good = isinstance(answer, dict)
        if not body or (good and not simulated and is_simulated(answer)):  # an empty one tells of a batch
            return
        path = path_answering(body, answer) if good else _ANY
        try:
            digest = self._digest(_without_lane(body, entry.key, path), metadata, path)
        except ValueError:  # no request of ours: it could not have been sent
            self.damaged_lines += 1
            return
        origin = origin if record is None else entry.origin
        if good and place is not None and (origin is None or origin.place != place):
            self._of_unknown_origin += origin is None
            return
        self.finished.put(digest, good=good)
        if good and origin is not None and origin.writer != writer():
            self.by_others[origin.writer] += 1

    def take(self, body: Mapping[str, Any], metadata: Any, path: str) -> Standing:
        """How a line stands; `good` uses one of its answers up.

        Raises:
            ValueError: the body is none that could be sent.
        """
        if not self.finished:
            return "new"
        if self.finished.take(self._digest(body, metadata, path)):
            return "good"
        return "failed" if self.finished.has_failed(self._digest(body, metadata, _ANY)) else "new"


def content_digest(body: Mapping[str, Any], metadata: Any, path: str) -> int:
    """What is sent, what travels beside it and where it goes, in whatever order the fields stand.

    Raises:
        ValueError: the body is none that could be sent.
    """
    try:
        return digest_of(alike(canonical((body, metadata, path))))
    except TypeError:  # a row's own metadata may hold what the API would not take
        return digest_of(b"\n".join((_canonical(body), dumps(metadata, sort_keys=True), path.encode())))


def key_digest(body: Mapping[str, Any], metadata: Any, path: str) -> int:
    """The same by the name that a request has among batches, which takes longer to make."""
    return digest_of(identity_in_files(request_key(path, _canonical(body)), metadata))


def _without_lane(body: Mapping[str, Any], key: str | None, path: str) -> Mapping[str, Any]:
    """What a frame's line asks, without the tier of `lane="flex"`, which its key leaves out."""
    if key is None or "service_tier" not in body:
        return body
    bare = {name: value for name, value in body.items() if name != "service_tier"}
    return bare if request_key(path, _canonical(bare)) == key else body


def _canonical(body: Mapping[str, Any]) -> bytes:
    try:
        return alike(dumps_strictly(body, sort_keys=True))
    except TypeError as error:
        raise no_json(error) from None


#: Before the first run.
NOTHING_KNOWN = KnownLines(content_digest)
