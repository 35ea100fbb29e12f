"""A whole number for each of millions of digests, in a few bytes."""

from __future__ import annotations

import sys
from array import array
from hashlib import blake2b

#: Bits that are kept of a digest. Among a million of them, two are alike once in 37 million tables.
BITS = 64
_MOST = (1 << BITS) - 1
_HASHES_ARE_SHORT = sys.hash_info.width < BITS
_SMALLEST = 1024


class DigestTable:
    """Numbers above 0 by digests of 64 bits, in 20 to 50 bytes each; a dict of strings takes 200.

    Two keys may share a digest, so check what the number leads to if a wrong one would do harm.

    >>> table = DigestTable()
    >>> table[0x0011223344556677] = 7
    >>> table[0x0011223344556677], table[0xFFEEDDCCBBAA9988], len(table)
    (7, 0, 1)
    """

    __slots__ = ("_count", "_keys", "_mask", "_most", "_numbers")

    def __init__(self) -> None:
        self._make(_SMALLEST)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, digest: int) -> int:
        """The number; 0 if the digest is unknown."""
        return self._numbers[self._slot(digest)]

    def __setitem__(self, digest: int, number: int) -> None:
        if self.add(digest, number):
            self._numbers[self._slot(digest)] = number

    def add(self, digest: int, number: int) -> int:
        """Add a new digest and return 0; the number of a known digest is kept and returned."""
        if self._count >= self._most:
            self._grow()
        slot = self._slot(digest)
        if known := self._numbers[slot]:
            return known
        self._keys[slot], self._numbers[slot] = digest, number
        self._count += 1
        return 0

    def lower(self, digest: int, by: int, *, least: int) -> int:
        """Subtract from the number, unless it is below `least`. Returns what it was; 0 if the digest is unknown."""
        slot = self._slot(digest)
        number = self._numbers[slot]
        if number >= max(least, 1):
            self._numbers[slot] = number - by
        return number

    def expect(self, room: int) -> None:
        """Make room for so many in all, since growing bit by bit takes as long again as filling it."""
        while self._most < room:
            self._grow()

    def copy(self) -> DigestTable:
        """Another one with the same numbers."""
        other = DigestTable.__new__(DigestTable)
        other._count, other._most, other._mask = self._count, self._most, self._mask
        other._keys, other._numbers = self._keys[:], self._numbers[:]
        return other

    def _slot(self, digest: int) -> int:
        """Where the digest is, or where it would be put."""
        keys, numbers, mask = self._keys, self._numbers, self._mask
        slot = digest & mask
        while numbers[slot] and keys[slot] != digest:
            slot = (slot + 1) & mask
        return slot

    def _make(self, size: int) -> None:
        self._count = 0
        self._mask = size - 1
        self._most = size * 3 // 4
        self._keys, self._numbers = array("Q", [0]) * size, array("Q", [0]) * size

    def _grow(self) -> None:
        known, count = zip(self._keys, self._numbers, strict=True), self._count
        self._make(2 * len(self._keys))
        for digest, number in known:
            if number:
                slot = self._slot(digest)
                self._keys[slot], self._numbers[slot] = digest, number
        self._count = count


def digest_of_key(key: str | bytes) -> int:
    """The first bits of a request's key, which is a digest in hexadecimal digits already.

    Raises:
        ValueError: it is none.

    >>> digest_of_key("00112233445566778899aabbccddeeff") == 0x0011223344556677
    True
    """
    digest = int(key[: BITS // 4], 16)
    if digest < 0:
        raise ValueError(f"{key!r} is no digest.")
    return digest


def digest_of(content: str | bytes) -> int:
    """A digest for use within this process, since another one may give another. It takes a tenth of a real one's time.

    >>> digest_of(b"hello") == digest_of(b"hello") != digest_of(b"hallo")
    True
    """
    if _HASHES_ARE_SHORT:  # pragma: no cover - a Python of 32 bits, whose hashes meet too often
        text = content.encode() if isinstance(content, str) else content
        return int.from_bytes(blake2b(text, digest_size=BITS // 8).digest(), "big")
    return hash(content) & _MOST
