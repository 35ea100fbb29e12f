"""The journals of a dataset's run: a folder on storage that all machines share, with a file for each attempt.

A partition is a block of rows. A worker writes its answers to `part-<partition>.<attempt>.jsonl`, and reads the files
of earlier attempts at the same partition. An index covers what earlier runs left, whose rows may have been divided
otherwise.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from parallel_openai._disk.file_ownership import check_own
from parallel_openai._journal.digest_index import digest_of_key
from parallel_openai._journal.known_results import KnownResults, Status
from parallel_openai._journal.lines import read_entries, read_entry_at
from parallel_openai._records import APIRequest, Result
from parallel_openai._requests.endpoints import is_simulated
from parallel_openai.errors import JournalError

#: A partition is named by this many of its first rows.
NAMED_BY = 8
#: What a run removes at its end, and only itself makes.
_LEFTOVER = re.compile(r"\.run-[0-9a-f]{12}(-deaths|-[0-9a-f]{32})?|part-[0-9a-f]{16}\.[0-9a-f]{12}\.jsonl\.lock")
Numbers = npt.NDArray[np.uint64]


def partition_name(rows: pd.DataFrame) -> str:
    """A name for a block of rows, the same whenever the same block is worked on again.

    It does not depend on the prompts: making them calls the caller's functions, which may take long or wait for Ray.

    >>> partition_name(pd.DataFrame({"text": ["a", "b"]})) == partition_name(pd.DataFrame({"text": ["a", "b"]}))
    True
    """
    first = rows.head(NAMED_BY).to_dict("list")
    return blake2b(f"{len(rows)} {first!r}".encode("utf-8", "backslashreplace"), digest_size=8).hexdigest()


def new_part(folder: Path, partition: str) -> Path:
    """The file of a new attempt at a partition."""
    return folder / f"part-{partition}.{uuid.uuid4().hex[:12]}.jsonl"


def parts_of(folder: Path, partition: str) -> list[Path]:
    """The files of earlier attempts at a partition."""
    return sorted(folder.glob(f"part-{partition}.*.jsonl"))


def remove_leftovers(folder: Path) -> None:
    """Remove the markers, notes and locks of runs that were killed. The caller holds the folder's lock."""
    for path in [path for path in folder.iterdir() if _LEFTOVER.fullmatch(path.name)]:
        with suppress(JournalError, OSError):  # it is not this user's
            check_own(path)
            path.unlink()


def scan(paths: list[str], first: int, failures: bool, simulated: bool) -> tuple[Numbers, Numbers, Numbers]:
    """For each answer in files: the head of its key, the number of its file (counted from `first`), and its offset."""
    failed: list[tuple[int, int, int]] = []
    good: list[tuple[int, int, int]] = []
    for number, path in enumerate(paths, first):
        for offset, entry in read_entries(path):
            key = None if entry is None else entry.key
            if entry is None or key is None:
                continue
            try:
                row = (digest_of_key(key), number, offset)
            except ValueError:  # a damaged line's
                continue
            if not entry.is_good:
                failed.append(row)
            elif simulated or not is_simulated(entry.answer):
                good.append(row)
    found = [*(failed if failures else ()), *good]  # for equal keys the last entry counts, so a success wins
    table = np.array(found, dtype=np.uint64).reshape(len(found), 3)
    return table[:, 0], table[:, 1], table[:, 2]


@dataclass(frozen=True)
class Index:
    """Where each answer is in many files, in 24 bytes for each. The workers of a machine share its memory."""

    paths: list[str]
    heads: Numbers
    files: Numbers
    offsets: Numbers

    @classmethod
    def of(cls, paths: list[str], scans: Iterable[tuple[Numbers, Numbers, Numbers]]) -> Index:
        heads, files, offsets = (np.concatenate(column) for column in zip(*scans, strict=True))
        order = np.argsort(heads, kind="stable")
        return cls(paths, heads[order], files[order], offsets[order])

    def find(self, key: str) -> tuple[str, int] | None:
        """The file and offset of the line that probably has the key, or None. Only the key's head is compared."""
        head = digest_of_key(key)
        at = int(np.searchsorted(self.heads, np.uint64(head), side="right")) - 1
        if at < 0 or int(self.heads[at]) != head:
            return None
        return self.paths[int(self.files[at])], int(self.offsets[at])


@dataclass
class KnownParts(KnownResults):
    """The answers in earlier attempts at a partition and, by the index, in earlier runs."""

    parts: list[KnownResults]
    index: Index | None = None
    _files: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.damaged_lines = sum(part.damaged_lines for part in self.parts)

    def __contains__(self, key: str) -> bool:
        return any(key in part for part in self.parts) or (self.index is not None and self.index.find(key) is not None)

    def __len__(self) -> int:
        return sum(map(len, self.parts)) + (len(self.index.heads) if self.index is not None else 0)

    def status(self, key: str) -> Status:
        return "finished" if key in self else "failed" if self.was_tried(key) else "new"

    def was_tried(self, key: str) -> bool:
        return any(part.was_tried(key) for part in self.parts) or key in self

    def get(self, request: APIRequest) -> Result | None:
        for part in self.parts:
            if request.key in part:
                return part.get(request)
        found = self.index.find(request.key) if self.index is not None else None
        if found is None:
            return None
        path, offset = found
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
    """Divide files into at most `groups` groups of neighbours, each with the number of its first file.

    >>> list(in_groups(["a", "b", "c"], 2))
    [(0, ['a', 'b']), (2, ['c'])]
    """
    size = max(1, -(-len(paths) // groups))
    yield from ((start, paths[start : start + size]) for start in range(0, len(paths), size))
