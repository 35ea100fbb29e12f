"""How many answers a results file holds for each request, for a file run, whose lines carry no keys."""

from __future__ import annotations

from parallel_openai._journal.digest_index import DigestTable


class AnswerCounts:
    """The number of answers to each request, and whether it has ever failed, in 20 to 50 bytes for each.

    Requests are identified by 64-bit digests, which the caller makes.
    >>> finished = AnswerCounts()
    >>> finished.put(1234, good=True)
    >>> finished.take(1234), finished.take(1234), finished.has_failed(1234)
    (True, False, False)
    """

    __slots__ = ("_table",)

    def __init__(self) -> None:
        # For each request, 2 * answers + 2, plus 1 while only failures came since the last answer; 0 means absent.
        self._table = DigestTable()

    def __len__(self) -> int:
        """The number of different requests."""
        return len(self._table)

    def reserve(self, room: int) -> None:
        """Make room for `room` requests in all."""
        self._table.reserve(room)

    def put(self, digest: int, *, good: bool) -> None:
        number = self._table.add(digest, 4 if good else 3)
        if number:
            self._table[digest] = (number | 1) + 1 if good else number | 1

    def count(self, digest: int) -> int:
        """How many answers the request has left."""
        return max(self._table[digest] // 2 - 1, 0)

    def take(self, digest: int) -> bool:
        """Use up one answer. Returns False if there is none."""
        return self._table.decrease(digest, 2, minimum=4) >= 4

    def has_failed(self, digest: int) -> bool:
        return bool(self._table[digest] & 1)
