"""The answers in a results file that no line of the requests file has: lines that ask the same with other metadata take
them, so that nothing is paid anew if only the metadata was changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from parallel_openai._files.known_lines import KnownLines, LineState, digest_without_metadata
from parallel_openai._journal.answer_counts import AnswerCounts
from parallel_openai._journal.digest_index import DigestTable, digest_of
from parallel_openai._journal.entry import make_line
from parallel_openai._journal.lines import open_to_read, read_entry_at
from parallel_openai._json import dumps


class LeftOver:
    """Such answers; in memory is only where they are.

    Args:
        known: what is left of the results after all lines were looked up.
        keep: receives the line of a taken answer, with the metadata of the line that took it.
    """

    def __init__(self, known: KnownLines, keep: Callable[[bytes], None]) -> None:
        self._known, self._keep = known, keep
        self._counts = AnswerCounts()
        self._offsets = DigestTable()  # by the request and the number of the answer; the offset plus 1

    def find(self) -> Iterator[None]:
        """Find them; yields now and then, for other tasks of the loop."""
        for found in self._known.left_over():
            if found is None:
                yield None
                continue
            offset, request = found
            self._counts.put(request, good=True)
            self._offsets[self._number(request)] = offset + 1

    def take(self, body: Mapping[str, Any], metadata: Any, path: str) -> LineState:
        """As `KnownLines.take`, of a line without an answer of its own."""
        request = digest_without_metadata(body, path)
        number = self._number(request)
        if not self._counts.take(request):
            return "new"
        with open_to_read(self._known.path) as file:
            entry = read_entry_at(file.fileno(), self._offsets[number] - 1)
        if entry is None:  # the file was changed meanwhile
            return "new"
        rest = () if metadata is None else (dumps(metadata),)
        self._keep(make_line(dumps(body), dumps(entry.answer), *rest))
        return "good"

    def _number(self, request: int) -> int:
        """A digest for the last of the request's answers."""
        return digest_of(b"%d %d" % (request, self._counts.count(request)))
