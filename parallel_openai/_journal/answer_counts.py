"""What a file of results says of requests that carry no key there: how often each has a good answer."""

from __future__ import annotations

from parallel_openai._journal.digest_index import DigestTable


class AnswerCounts:
    """How often each request has a good answer, and which ones have only failed; in 20 to 50 bytes for each.

    Requests go by digests of 64 bits, which the caller makes.
    >>> finished = AnswerCounts()
    >>> finished.put(1234, good=True)
    >>> finished.take(1234), finished.take(1234), finished.has_failed(1234)
    (True, False, False)
    """

    __slots__ = ("_table",)

    def __init__(self) -> None:
        # Twice the good answers, one more where it has only failed since, and 2 above, as 0 means that it is not there.
        self._table = DigestTable()

    def __len__(self) -> int:
        """How many different requests."""
        return len(self._table)

    def expect(self, room: int) -> None:
        """Make room for so many at once."""
        self._table.expect(room)

    def put(self, digest: int, *, good: bool) -> None:
        number = self._table.add(digest, 4 if good else 3)
        if number:
            self._table[digest] = (number | 1) + 1 if good else number | 1

    def count(self, digest: int) -> int:
        """How many good answers it has."""
        return max(self._table[digest] // 2 - 1, 0)

    def take(self, digest: int) -> bool:
        """Use one good answer up, if there is one."""
        return self._table.lower(digest, 2, least=4) >= 4

    def has_failed(self, digest: int) -> bool:
        return bool(self._table[digest] & 1)

    def copy(self) -> AnswerCounts:
        other = AnswerCounts()
        other._table = self._table.copy()
        return other
