"""A whole number for each of millions of digests, in a few bytes."""

from __future__ import annotations

from array import array

#: Hexadecimal digits that are kept of a digest. Among a million of them, two are alike once in 37 million tables.
DIGITS = 16
_SMALLEST = 1024


class DigestTable:
    """Numbers above 0 by hexadecimal digests, in 20 to 50 bytes each; a dict of texts takes 200.

    Only the first 64 bits of a digest count. Where a wrong number would hurt, what it leads to tells whose it is.

    Args:
        room: how many are expected; it grows beyond that by itself.

    >>> table = DigestTable()
    >>> table["00112233445566778899aabbccddeeff"] = 7
    >>> table["00112233445566778899aabbccddeeff"], table["ffeeddccbbaa99887766554433221100"], len(table)
    (7, 0, 1)
    """

    __slots__ = ("_count", "_keys", "_most", "_numbers")

    def __init__(self, room: int = 0) -> None:
        self._make(1 << max(_SMALLEST, room * 3 // 2).bit_length())

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, digest: str | bytes) -> int:
        """The number; 0 where there is none."""
        try:
            key = int(digest[:DIGITS], 16)
        except ValueError:  # no digest at all
            return 0
        keys, numbers = self._keys, self._numbers
        mask = len(keys) - 1
        place = key & mask
        while number := numbers[place]:
            if keys[place] == key:
                return number
            place = (place + 1) & mask
        return 0

    def __setitem__(self, digest: str | bytes, number: int) -> None:
        key = int(digest[:DIGITS], 16)
        if key < 0:
            raise ValueError(f"{digest!r} is no digest.")
        if self._count >= self._most:
            self._grow()
        self._put(key, number)

    def copy(self) -> DigestTable:
        """Another one with the same numbers."""
        other = DigestTable.__new__(DigestTable)
        other._count, other._most = self._count, self._most
        other._keys, other._numbers = self._keys[:], self._numbers[:]
        return other

    def _put(self, key: int, number: int) -> None:
        keys, numbers = self._keys, self._numbers
        mask = len(keys) - 1
        place = key & mask
        while numbers[place]:
            if keys[place] == key:
                numbers[place] = number
                return
            place = (place + 1) & mask
        keys[place], numbers[place] = key, number
        self._count += 1

    def _make(self, size: int) -> None:
        self._count = 0
        self._most = size * 3 // 4
        self._keys, self._numbers = array("Q", bytes(8 * size)), array("Q", bytes(8 * size))

    def _grow(self) -> None:
        keys, numbers = self._keys, self._numbers
        self._make(2 * len(keys))
        for key, number in zip(keys, numbers, strict=True):
            if number:
                self._put(key, number)
