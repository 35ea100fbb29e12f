"""Which lines of a requests file have results already, in a few bytes for each."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from parallel_openai._files.requests_file import not_json
from parallel_openai._journal.answer_counts import AnswerCounts
from parallel_openai._journal.digest_index import DigestTable, digest_of
from parallel_openai._journal.entry import JournalEntry
from parallel_openai._journal.lines import likely_lines, read_entries
from parallel_openai._journal.origins import Origin, Origins, writer
from parallel_openai._json import alike, canonical, dumps, dumps_strictly
from parallel_openai._records import without_tier
from parallel_openai._requests.endpoints import is_simulated, path_answering
from parallel_openai.errors import InvalidInputError

#: `answered`: there is an answer to the same request with other metadata, which another line may have or still take.
LineState = Literal["good", "answered", "failed", "new"]
#: Instead of the endpoint of a failure, which does not contain it.
_ANY = ""
#: Lines that are read before other tasks of the loop get a turn.
_LINES_PER_TURN = 1000


class KnownLines:
    """The number of successful answers to each request line in the results, and the lines that only failed.

    Each line has an answer of its own: equal requests with different metadata are distinct.

    >>> known = KnownLines()
    >>> known.put({"model": "gpt-5-mini", "n": 1}, {"row": 1}, "embeddings", good=True)
    >>> known.take({"n": 1, "model": "gpt-5-mini"}, {"row": 1}, "responses")
    'new'
    >>> known.take({"n": 1, "model": "gpt-5-mini"}, {"row": 2}, "embeddings")
    'answered'
    >>> [known.take({"n": 1, "model": "gpt-5-mini"}, {"row": 1}, "embeddings") for _ in range(2)]
    ['good', 'answered']
    """

    def __init__(self, path: Path = Path(), *, simulated: bool = True, place: str | None = None) -> None:
        self.damaged_lines = 0
        self.by_others: Counter[str] = Counter()  # the number of answers written by other users, by user
        self.path, self._simulated, self._place = path, simulated, place
        self._finished = AnswerCounts()
        self._with_metadata = DigestTable()  # the requests that are answered with some metadata; each number is 1
        self._of_unknown_origin = 0

    @classmethod
    async def load(cls, path: Path, *, simulated: bool, place: str | None) -> KnownLines:
        """Read a results file. The loop is not blocked.

        Args:
            simulated: whether the simulator's answers count.
            place: the server whose answers count; None: any.
        """
        known, origins = cls(path, simulated=simulated, place=place), Origins(path)
        for number, (offset, entry) in enumerate(read_entries(path)):
            if number % _LINES_PER_TURN == 0:
                await asyncio.sleep(0)
                if number == _LINES_PER_TURN:
                    known._reserve(likely_lines(path, number, offset))
            known._note(entry, origins.of(offset))
        if known._of_unknown_origin:
            raise InvalidInputError(
                f"{path} holds {known._of_unknown_origin:,} answers that do not say which server gave them: another "
                "program wrote them, or an earlier version of this one. If they are answers to these requests, pass "
                "resume_from_anywhere=True (--resume_from_anywhere); otherwise choose another file for the results."
            )
        return known

    def _note(self, entry: JournalEntry | None, origin: Origin | None) -> None:
        if entry is None:
            self.damaged_lines += 1
            return
        body, answer, metadata, record = entry
        good = isinstance(answer, dict)
        if not self._counts(body, answer):
            return
        path = path_answering(body, answer) if good else _ANY
        try:
            digests = _digests(body, metadata, path)
        except ValueError:  # not one of our requests, which could not have been sent
            self.damaged_lines += 1
            return
        origin = origin if record is None else entry.origin
        if good and self._is_from_elsewhere(origin):
            self._of_unknown_origin += origin is None
            return
        self._put(digests, good=good)
        if good and origin is not None and origin.writer != writer():
            self.by_others[origin.writer] += 1

    def _counts(self, body: Mapping[str, Any], answer: Any) -> bool:
        """Whether a line is a result: an empty body records the state of a batch."""
        return bool(body) and (self._simulated or not is_simulated(answer))

    def _is_from_elsewhere(self, origin: Origin | None) -> bool:
        return self._place is not None and (origin is None or origin.place != self._place)

    def put(self, body: Mapping[str, Any], metadata: Any, path: str, *, good: bool) -> None:
        self._put(_digests(body, metadata, path), good=good)

    def _reserve(self, lines: int) -> None:
        self._finished.reserve(lines)
        if len(self._with_metadata):
            self._with_metadata.reserve(lines)

    def _put(self, digests: tuple[int, int], *, good: bool) -> None:
        exact, without_metadata = digests
        self._finished.put(exact, good=good)
        if good and exact != without_metadata:
            self._with_metadata.add(without_metadata, 1)

    def __len__(self) -> int:
        """The number of different lines with a result."""
        return len(self._finished)

    def take(self, body: Mapping[str, Any], metadata: Any, path: str) -> LineState:
        """The state of a line; `good` uses up one of its answers.

        Raises:
            ValueError: the body cannot be sent as JSON.
        """
        if not len(self):
            return "new"
        exact, without_metadata = _digests(body, metadata, path)
        if self._finished.take(exact):
            return "good"
        if self._finished.count(without_metadata) or self._with_metadata[without_metadata]:
            return "answered"
        return "failed" if self._finished.has_failed(_digests(body, metadata, _ANY)[0]) else "new"

    def left_over(self) -> Iterator[tuple[int, int] | None]:
        """The answers that no line has taken: for each, where its line begins, and a digest of the request without
        metadata; now and then None, for other tasks of the loop."""
        origins = Origins(self.path)
        for number, (offset, entry) in enumerate(read_entries(self.path)):
            if number % _LINES_PER_TURN == 0:
                yield None
            if entry is None or not entry.is_good or not self._counts(entry.body, entry.answer):
                continue
            if self._is_from_elsewhere(origins.of(offset) if entry.record is None else entry.origin):
                continue
            path = path_answering(entry.body, entry.answer)
            with suppress(ValueError):  # not one of our requests, which could not have been sent
                exact, without_metadata = _digests(entry.body, entry.metadata, path)
                if self._finished.take(exact):
                    yield offset, without_metadata


def digest_without_metadata(body: Mapping[str, Any], path: str) -> int:
    """As `KnownLines.left_over` gives it.

    Raises:
        ValueError: the body cannot be sent as JSON.
    """
    return _digests(body, None, path)[1]


def _digests(body: Mapping[str, Any], metadata: Any, path: str) -> tuple[int, int]:
    """Digests of body, metadata and endpoint, and of body and endpoint alone, independent of the order of keys and of
    the service tier.

    Raises:
        ValueError: the body cannot be sent as JSON.
    """
    plain = without_tier(body)
    try:
        asked = alike(canonical((plain, path)))
    except TypeError:
        asked = b"\n".join((_canonical(plain), path.encode()))
    digest = digest_of(asked)
    if metadata is None:
        return digest, digest
    try:
        beside = alike(canonical(metadata))
    except TypeError:  # metadata, which is not sent, may hold what JSON cannot express
        beside = dumps(metadata, sort_keys=True)
    return digest ^ digest_of(b"metadata" + beside), digest


def _canonical(body: Mapping[str, Any]) -> bytes:
    try:
        return alike(dumps_strictly(body, sort_keys=True))
    except TypeError as error:
        raise not_json(error) from None


#: Before the first run.
NOTHING_KNOWN = KnownLines()
