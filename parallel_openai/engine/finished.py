"""What a file of results says of requests that carry no key there: how often each has a good answer."""

from __future__ import annotations

from hashlib import blake2b

from parallel_openai.engine.digests import DIGITS, DigestTable


class FinishedRequests:
    """How often each request has a good answer, and which ones have only failed; in 20 to 50 bytes for each.

    >>> finished = FinishedRequests()
    >>> finished.put("hello", good=True)
    >>> finished.take("hello"), finished.take("hello"), finished.has_failed("hello")
    (True, False, False)
    """

    __slots__ = ("_table",)

    def __init__(self, table: DigestTable | None = None) -> None:
        # Twice the good answers, one more where it has only failed since, and 2 above, as 0 means that it is not there.
        self._table = DigestTable() if table is None else table

    def __len__(self) -> int:
        """How many different requests."""
        return len(self._table)

    def put(self, identity: str, *, good: bool) -> None:
        digest = _digest(identity)
        number = self._table[digest] or 2
        self._table[digest] = (number | 1) + 1 if good else number | 1

    def count(self, identity: str) -> int:
        """How many good answers it has."""
        return max(self._table[_digest(identity)] // 2 - 1, 0)

    def take(self, identity: str) -> bool:
        """Use one good answer up, if there is one."""
        digest = _digest(identity)
        number = self._table[digest]
        if number < 4:
            return False
        self._table[digest] = number - 2
        return True

    def has_failed(self, identity: str) -> bool:
        return bool(self._table[_digest(identity)] & 1)

    def copy(self) -> FinishedRequests:
        return FinishedRequests(self._table.copy())


def _digest(identity: str) -> str:
    return blake2b(identity.encode(), digest_size=DIGITS // 2).hexdigest()
