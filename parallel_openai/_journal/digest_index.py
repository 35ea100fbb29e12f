"""A compact hash table from 64-bit digests to integers, made for millions of entries."""

from __future__ import annotations

import sys
from array import array
from hashlib import blake2b

#: Bits kept of a digest. Of 37 million tables with a million digests each, one has a collision.
BITS = 64
_MASK = (1 << BITS) - 1
_HASHES_ARE_SHORT = sys.hash_info.width < BITS
_MIN_SIZE = 1024


class DigestTable:
    """Maps 64-bit digests to positive integers, in 20 to 50 bytes for each entry; a dict of strings takes 200.

    Two keys may share a digest. A caller to whom that matters checks what the number refers to.

    >>> table = DigestTable()
    >>> table[0x0011223344556677] = 7
    >>> table[0x0011223344556677], table[0xFFEEDDCCBBAA9988], len(table)
    (7, 0, 1)
    """

    __slots__ = ("_count", "_keys", "_mask", "_max_count", "_numbers")

    def __init__(self) -> None:
        self._allocate(_MIN_SIZE)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, digest: int) -> int:
        """The number, or 0 if there is none."""
        return self._numbers[self._slot(digest)]

    def __setitem__(self, digest: int, number: int) -> None:
        if self.add(digest, number):
            self._numbers[self._slot(digest)] = number

    def add(self, digest: int, number: int) -> int:
        """Insert a new digest and return 0. A number that is there already stays, and is returned."""
        if self._count >= self._max_count:
            self._grow()
        slot = self._slot(digest)
        if known := self._numbers[slot]:
            return known
        self._keys[slot], self._numbers[slot] = digest, number
        self._count += 1
        return 0

    def decrease(self, digest: int, by: int, *, minimum: int) -> int:
        """Subtract `by` from a number of at least `minimum`. Returns the number before, or 0 if there is none."""
        slot = self._slot(digest)
        number = self._numbers[slot]
        if number >= max(minimum, 1):
            self._numbers[slot] = number - by
        return number

    def reserve(self, room: int) -> None:
        """Make room for `room` entries in all. Growing step by step doubles the time to fill the table."""
        while self._max_count < room:
            self._grow()

    def _slot(self, digest: int) -> int:
        """The index of a digest, or where it would be inserted."""
        keys, numbers, mask = self._keys, self._numbers, self._mask
        slot = digest & mask
        while numbers[slot] and keys[slot] != digest:
            slot = (slot + 1) & mask
        return slot

    def _allocate(self, size: int) -> None:
        self._count = 0
        self._mask = size - 1
        self._max_count = size * 3 // 4
        self._keys, self._numbers = array("Q", [0]) * size, array("Q", [0]) * size

    def _grow(self) -> None:
        known, count = zip(self._keys, self._numbers, strict=True), self._count
        self._allocate(2 * len(self._keys))
        for digest, number in known:
            if number:
                slot = self._slot(digest)
                self._keys[slot], self._numbers[slot] = digest, number
        self._count = count


def digest_of_key(key: str | bytes) -> int:
    """The first 64 bits of a request's key, which is itself a hexadecimal digest.

    Raises:
        ValueError: it is not.

    >>> digest_of_key("00112233445566778899aabbccddeeff") == 0x0011223344556677
    True
    """
    digest = int(key[: BITS // 4], 16)
    if digest < 0:
        raise ValueError(f"{key!r} is no digest.")
    return digest


def digest_of(content: str | bytes) -> int:
    """A digest valid within this process only, made ten times as fast as a cryptographic one.

    >>> digest_of(b"hello") == digest_of(b"hello") != digest_of(b"hallo")
    True
    """
    if _HASHES_ARE_SHORT:  # pragma: no cover - a 32-bit Python, whose hashes collide too often
        text = content.encode() if isinstance(content, str) else content
        return int.from_bytes(blake2b(text, digest_size=BITS // 8).digest(), "big")
    return hash(content) & _MASK
