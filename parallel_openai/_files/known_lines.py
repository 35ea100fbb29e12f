"""Which lines of a requests file have results already, in a few bytes for each."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from parallel_openai._files.requests_file import not_json
from parallel_openai._journal.answer_counts import AnswerCounts
from parallel_openai._journal.digest_index import digest_of
from parallel_openai._journal.entry import JournalEntry
from parallel_openai._journal.lines import likely_lines, read_entries
from parallel_openai._journal.origins import Origin, Origins, writer
from parallel_openai._json import alike, canonical, dumps, dumps_strictly
from parallel_openai._records import without_tier
from parallel_openai._requests.endpoints import is_simulated, path_answering
from parallel_openai.errors import InvalidInputError

LineState = Literal["good", "failed", "new"]
#: Instead of the endpoint of a failure, which does not contain it.
_ANY = ""
#: Lines that are read before other tasks of the loop get a turn.
_LINES_PER_TURN = 1000


class KnownLines:
    """The number of successful answers to each request line in the results, and the lines that only failed.

    Equal requests with different metadata are distinct.

    >>> known = KnownLines()
    >>> known.finished.put(content_digest({"model": "gpt-5-mini", "n": 1}, None, "embeddings"), good=True)
    >>> known.take({"n": 1, "model": "gpt-5-mini"}, None, "responses")
    'new'
    >>> [known.take({"n": 1, "model": "gpt-5-mini"}, None, "embeddings") for _ in range(2)]
    ['good', 'new']
    """

    def __init__(self) -> None:
        self.finished = AnswerCounts()
        self.damaged_lines = 0
        self.by_others: Counter[str] = Counter()  # the number of answers written by other users, by user
        self._of_unknown_origin = 0

    @classmethod
    async def load(cls, path: Path, *, simulated: bool, place: str | None) -> KnownLines:
        """Read a results file. The loop is not blocked.

        Args:
            simulated: whether the simulator's answers count.
            place: the server whose answers count; None: any.
        """
        known, origins = cls(), Origins(path)
        for number, (offset, entry) in enumerate(read_entries(path)):
            if number % _LINES_PER_TURN == 0:
                await asyncio.sleep(0)
                if number == _LINES_PER_TURN:
                    known.finished.reserve(likely_lines(path, number, offset))
            known._note(entry, origins.of(offset), place, simulated=simulated)
        if known._of_unknown_origin:
            raise InvalidInputError(
                f"{path} holds {known._of_unknown_origin:,} answers that do not say which server gave them: another "
                "program wrote them, or an earlier version of this one. If they are answers to these requests, pass "
                "resume_from_anywhere=True (--resume_from_anywhere); otherwise choose another file for the results."
            )
        return known

    def _note(self, entry: JournalEntry | None, origin: Origin | None, place: str | None, *, simulated: bool) -> None:
        if entry is None:
            self.damaged_lines += 1
            return
        body, answer, metadata, record = entry
        good = isinstance(answer, dict)
        if not body or (good and not simulated and is_simulated(answer)):  # an empty body records the state of a batch
            return
        path = path_answering(body, answer) if good else _ANY
        try:
            digest = content_digest(body, metadata, path)
        except ValueError:  # not one of our requests, which could not have been sent
            self.damaged_lines += 1
            return
        origin = origin if record is None else entry.origin
        if good and place is not None and (origin is None or origin.place != place):
            self._of_unknown_origin += origin is None
            return
        self.finished.put(digest, good=good)
        if good and origin is not None and origin.writer != writer():
            self.by_others[origin.writer] += 1

    def take(self, body: Mapping[str, Any], metadata: Any, path: str) -> LineState:
        """The state of a line; `good` uses up one of its answers.

        Raises:
            ValueError: the body cannot be sent as JSON.
        """
        if not self.finished:
            return "new"
        if self.finished.take(content_digest(body, metadata, path)):
            return "good"
        return "failed" if self.finished.has_failed(content_digest(body, metadata, _ANY)) else "new"


def content_digest(body: Mapping[str, Any], metadata: Any, path: str) -> int:
    """A digest of body, metadata and endpoint, independent of the order of keys and of the service tier.

    Raises:
        ValueError: the body cannot be sent as JSON.
    """
    try:
        return digest_of(alike(canonical((without_tier(body), metadata, path))))
    except TypeError:  # metadata, which is not sent, may hold what JSON cannot express
        return digest_of(b"\n".join((_canonical(body), dumps(metadata, sort_keys=True), path.encode())))


def _canonical(body: Mapping[str, Any]) -> bytes:
    try:
        return alike(dumps_strictly(without_tier(body), sort_keys=True))
    except TypeError as error:
        raise not_json(error) from None


#: Before the first run.
NOTHING_KNOWN = KnownLines()
