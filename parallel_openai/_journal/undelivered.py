"""Keeps a worker's answers until they are in the run's journal, in one `<journal>.worker-...` file for each worker.

A worker writes each answer there as it comes. If the run's process is killed, the next run moves them to its journal.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from parallel_openai._disk.file_ownership import check_own
from parallel_openai._journal.entry import JournalEntry
from parallel_openai._journal.journal import Journal
from parallel_openai._journal.lines import read_lines

_WORKER = re.compile(r"\.worker-[0-9a-f]{12}")


def new_undelivered(journal: Path) -> Path:
    """Create the file for a new worker and return its path. On a full disk it is not created: the run's own write fails
    then, and reports it."""
    real = _real(journal)
    path = real.with_name(f"{real.name}.worker-{uuid.uuid4().hex[:12]}")
    with suppress(OSError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    return path


def remove_if_empty(path: Path) -> None:
    with suppress(OSError):
        if not path.stat().st_size:
            path.unlink()


def undelivered_lines(path: Path) -> Iterator[bytes]:
    """The lines in a worker's file, without their newlines. Torn and damaged ones are left out."""
    if path.exists():
        check_own(path, "Remove it, and run the same again.")
        whole = read_lines(path, lambda line: None if JournalEntry.read(line) is None else line.rstrip(b"\n"))
        yield from (line for _, line in whole if line is not None)


def take_in_undelivered(journal: Journal) -> None:
    """Move what the workers of a killed run had not delivered into the journal.

    Raises:
        JournalWriteError: the disk refuses.
    """
    real = _real(journal.path)
    name = real.name
    names = (each for each in os.listdir(real.parent) if each.startswith(name) and _WORKER.fullmatch(each, len(name)))
    for path in map(real.with_name, sorted(names)):
        journal.complete(undelivered_lines(path))
        path.unlink()


def _real(journal: Path) -> Path:
    return Path(os.path.realpath(journal))


class Undelivered:
    """A worker's own file. If the worker cannot see it, as on another machine, or the disk is full, nothing is kept."""

    def __init__(self, path: Path) -> None:
        self._new: list[bytes] = []  # since the last delivery
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0))
        except OSError:
            self._file = -1

    def add(self, line: bytes) -> None:
        self._new.append(line)
        self._append(line + b"\n")

    def deliver(self) -> None:
        """Called when the answers added since the last call are sent to the run: those of earlier calls are in its
        journal by now, and are dropped."""
        if self._file >= 0:
            os.ftruncate(self._file, 0)
        self._append(b"".join(line + b"\n" for line in self._new))
        self._new.clear()

    def _append(self, block: bytes) -> None:
        if self._file < 0 or not block:
            return
        with suppress(OSError):
            if os.write(self._file, block) == len(block):
                return
        os.close(self._file)
        self._file = -1
