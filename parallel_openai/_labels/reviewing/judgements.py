"""The file of a review: one line per choice, on disk before the next row is shown."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parallel_openai._disk.file_ownership import keep_private
from parallel_openai._disk.locking import advice
from parallel_openai._json import dumps, loads, values_in
from parallel_openai.errors import JournalError

_BEGINS = b'{"request_key":'


@dataclass(frozen=True, slots=True)
class Judgement:
    """A reviewer's choice for a row."""

    # The label as a string, a list if rows have several, or None for a choice that was undone.
    label: str | list[str] | None
    note: str = ""  # the reviewer's note


class Judgements:
    """Append-only JSON lines; of several lines about a row the last one counts.

    Raises:
        JournalError: it cannot be read, or is not a file of corrections.

    >>> corrections = Judgements("example.review.jsonl")
    >>> corrections.add("a key", Judgement("positive"), model_said="negative")
    >>> Judgements("example.review.jsonl").get("a key")
    Judgement(label='positive', note='')
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.damaged_lines = 0
        self._by_key: dict[str, Judgement] = {}
        self._lines: dict[str, bytes] = {}  # the last one for each row
        self._size = 0
        self._torn = False
        if self.path.exists() and not self.path.is_file():  # reading a pipe would block
            raise JournalError(f"The path for corrections {self.path} is no ordinary file. Choose another: save_to=.")
        try:
            content = self.path.read_bytes() if self.path.exists() else b""
        except OSError as error:
            raise JournalError(f"The corrections in {self.path} cannot be read: {error.strerror}.") from error
        self._read(content)
        if not self._by_key and not content.lstrip().startswith(_BEGINS[: len(content.lstrip())]):
            raise JournalError(
                f"{self.path} is not a file of corrections, so nothing is written to it. Choose another with save_to=."
            )

    def get(self, key: str) -> Judgement | None:
        """The current judgement of a row; None without one or if it was undone."""
        correction = self._by_key.get(key)
        return correction if correction is not None and correction.label is not None else None

    def note(self, key: str) -> str:
        correction = self._by_key.get(key)
        return correction.note if correction is not None else ""

    def add(self, key: str, correction: Judgement, *, model_said: Any = None) -> None:
        """Append a correction, which is on disk when this returns.

        Raises:
            JournalError: it cannot be written; nothing has changed.
        """
        line = {
            "request_key": key,
            "label": model_said,
            "label_reviewed": correction.label,
            "note": correction.note,
            "at": round(time.time(), 3),
        }
        text = dumps(line) + b"\n"
        self._append(text)
        self._lines[key] = text
        self._by_key[key] = correction

    def _append(self, line: bytes) -> None:
        if self._torn:  # a crash left half a line; start a new one
            line = b"\n" + line
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # 0600: people's judgements are private.
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                keep_private(descriptor)
                if os.fstat(descriptor).st_size < self._size:  # deleted or truncated meanwhile: write all again
                    line = b"\n" + b"".join(self._lines.values()) + line
                written = os.write(descriptor, line)
                os.fsync(descriptor)
                self._size = os.fstat(descriptor).st_size
            finally:
                os.close(descriptor)
        except OSError as error:
            raise JournalError(
                f"The correction cannot be written to {self.path}: {error.strerror}. {advice(error)}"
            ) from error
        self._torn = written < len(line)
        if self._torn:
            raise JournalError(f"The correction cannot be written to {self.path}: the disk is full.")

    def _read(self, content: bytes) -> None:
        self._size = len(content)
        self._torn = bool(content) and not content.endswith(b"\n")
        for line in content.splitlines():
            for part in values_in(line) if b"}{" in line else [line]:
                if part.strip():
                    self._take(part)

    def _take(self, line: bytes) -> None:
        try:
            entry = loads(line)
        except ValueError:
            entry = None
        key = entry.get("request_key") if isinstance(entry, dict) else None
        if not isinstance(key, str):
            self.damaged_lines += 1
            return
        self._lines[key] = line + b"\n"
        label, note = entry.get("label_reviewed"), entry.get("note")
        if isinstance(label, list):
            label = [str(each) for each in label]
        elif label is not None:
            label = str(label)
        self._by_key[key] = Judgement(label, note if isinstance(note, str) else "")
