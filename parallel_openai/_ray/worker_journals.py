"""The journals of a run of many workers: a folder on storage that all machines see, with a file for each attempt.

A partition is a block of rows. Whoever works on it writes `part-<partition>.<attempt>.jsonl`, and reads all that
earlier attempts at the same partition left. What earlier runs left, however their rows were divided, is known by an
index.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from parallel_openai._journal.digest_index import digest_of_key
from parallel_openai._journal.known_results import KnownResults, Standing
from parallel_openai._journal.lines import read_entries, read_entry_at
from parallel_openai._records import APIRequest, Result
from parallel_openai._requests.endpoints import is_simulated

#: Rows that name a partition.
NAMED_BY = 8
Numbers = npt.NDArray[np.uint64]


def partition_name(rows: pd.DataFrame) -> str:
    """A name for a block of rows, the same whenever the same block is worked on again. No function of the caller's is
    called for it, since that may take long, or wait for the engine.

    >>> partition_name(pd.DataFrame({"text": ["a", "b"]})) == partition_name(pd.DataFrame({"text": ["a", "b"]}))
    True
    """
    first = rows.head(NAMED_BY).to_dict("list")
    return blake2b(f"{len(rows)} {first!r}".encode("utf-8", "backslashreplace"), digest_size=8).hexdigest()


def new_part(folder: Path, partition: str) -> Path:
    """The file of a new attempt at a partition."""
    return folder / f"part-{partition}.{uuid.uuid4().hex[:12]}.jsonl"


def parts_of(folder: Path, partition: str) -> list[Path]:
    """The files that the attempts at a partition have left."""
    return sorted(folder.glob(f"part-{partition}.*.jsonl"))


def scan(paths: list[str], first: int, failures: bool, simulated: bool) -> tuple[Numbers, Numbers, Numbers]:
    """What files hold: the heads of the keys, the files' numbers from `first` on, and the offsets."""
    failed: list[tuple[int, int, int]] = []
    good: list[tuple[int, int, int]] = []
    for number, path in enumerate(paths, first):
        for offset, entry in read_entries(path):
            key = None if entry is None else entry.key
            if entry is None or key is None:
                continue
            try:
                place = (digest_of_key(key), number, offset)
            except ValueError:  # a damaged line's
                continue
            if not entry.is_good:
                failed.append(place)
            elif simulated or not is_simulated(entry.answer):
                good.append(place)
    found = [*(failed if failures else ()), *good]  # of equal keys the last one counts
    table = np.array(found, dtype=np.uint64).reshape(len(found), 3)
    return table[:, 0], table[:, 1], table[:, 2]


@dataclass(frozen=True)
class Index:
    """Where each answer stands in many files; 24 bytes for each, which the workers of a machine share."""

    paths: list[str]
    heads: Numbers
    files: Numbers
    offsets: Numbers

    @classmethod
    def of(cls, paths: list[str], scans: Iterable[tuple[Numbers, Numbers, Numbers]]) -> Index:
        heads, files, offsets = (np.concatenate(column) for column in zip(*scans, strict=True))
        order = np.argsort(heads, kind="stable")
        return cls(paths, heads[order], files[order], offsets[order])

    def place(self, key: str) -> tuple[str, int] | None:
        """The file and the offset of the line that is likely the key's, or None."""
        head = digest_of_key(key)
        at = int(np.searchsorted(self.heads, np.uint64(head), side="right")) - 1
        if at < 0 or int(self.heads[at]) != head:
            return None
        return self.paths[int(self.files[at])], int(self.offsets[at])


@dataclass
class KnownParts(KnownResults):
    """What a partition's earlier attempts and earlier runs hold."""

    parts: list[KnownResults]
    index: Index | None = None
    _files: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.damaged_lines = sum(part.damaged_lines for part in self.parts)

    def __contains__(self, key: str) -> bool:
        return any(key in part for part in self.parts) or (self.index is not None and self.index.place(key) is not None)

    def __len__(self) -> int:
        return sum(map(len, self.parts)) + (len(self.index.heads) if self.index is not None else 0)

    def standing(self, key: str) -> Standing:
        return "finished" if key in self else "in vain" if self.was_asked(key) else "new"

    def was_asked(self, key: str) -> bool:
        return any(part.was_asked(key) for part in self.parts) or key in self

    def get(self, request: APIRequest) -> Result | None:
        for part in self.parts:
            if request.key in part:
                return part.get(request)
        place = self.index.place(request.key) if self.index is not None else None
        if place is None:
            return None
        path, offset = place
        if path not in self._files:
            self._files[path] = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        entry = read_entry_at(self._files[path], offset)
        if entry is None or entry.key != request.key or not entry.asks(request):
            return None
        return entry.result(request)

    def close(self) -> None:
        for part in self.parts:
            part.close()
        for file in self._files.values():
            os.close(file)
        self._files.clear()


def in_groups(paths: list[str], groups: int) -> Iterator[tuple[int, list[str]]]:
    """Neighbouring files together, in so many groups at the most, each with the number of its first.

    >>> list(in_groups(["a", "b", "c"], 2))
    [(0, ['a', 'b']), (2, ['c'])]
    """
    size = max(1, -(-len(paths) // groups))
    yield from ((start, paths[start : start + size]) for start in range(0, len(paths), size))
