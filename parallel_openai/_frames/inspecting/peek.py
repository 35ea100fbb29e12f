"""`peek`: show the latest answers of a running call."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from parallel_openai._arguments import check_count, check_file, path_of
from parallel_openai._frames.inspecting.journal_frame import frame_of, sent_at
from parallel_openai._frames.journal_path import JOURNAL_FOLDER
from parallel_openai._journal.entry import JournalEntry
from parallel_openai._journal.lines import check_version
from parallel_openai._json import dumps
from parallel_openai._requests.endpoints import endpoint, path_answering
from parallel_openai.errors import InvalidInputError, JournalError

#: Bytes to read first from the end of the file; more if its lines are longer.
BLOCK = 1 << 16
COLUMNS = ("prompt", "answer", "status", "error", "at")


def peek(path: str | os.PathLike[str] | None = None, rows: int = 10) -> pd.DataFrame:
    """Return the latest answers of a run, newest first, such as from another kernel or terminal while it is running.

    Only the end of the file is read, which is fast with millions of answers too; `read_journal` reads all of them.

    Args:
        path: the run's journal; None: the one in `.parallel_openai/` that was modified last.
        rows: how many answers.

    Returns:
        A frame with `prompt` (the last message), `answer`, `status`, `error` and `at` (UTC);
        `attrs["journal"]` is the file.

    Raises:
        InvalidInputError: there is no journal.
        JournalError: it cannot be read.

    >>> import parallel_openai as po
    >>> df = pd.DataFrame({"text": ["Arrived early.", "It leaks."]})
    >>> with po.local.simulator.serve() as server:
    ...     out = po.process_dataframe(df, "text", model="gpt-5-mini", client=po.Client(server.base_url),
    ...                                progress=False)
    >>> sorted(po.peek()["prompt"])
    ['Arrived early.', 'It leaks.']
    """
    check_count(rows, "rows")
    file = path_of(path, "path") if path is not None else _latest()
    check_file(file, "journal")
    try:
        entries = _last_entries(file, rows)
    except OSError as error:
        raise JournalError(f"The journal {file} cannot be read: {error.strerror}.") from error
    for entry in entries:
        check_version(file, entry)
    out = frame_of([_cells(entry) for entry in entries], COLUMNS)
    out.attrs["journal"] = str(file)
    return out


def _latest() -> Path:
    folder = Path(JOURNAL_FOLDER)
    journals = [each for each in folder.glob("*.jsonl") if each.is_file() and not each.name.endswith(".review.jsonl")]
    if not journals:
        raise InvalidInputError(
            f"There is no journal in {folder.absolute()} yet. If the run has a save_to=, pass that path to peek."
        )
    return max(journals, key=lambda each: each.stat().st_mtime)


def _last_entries(path: Path, count: int) -> list[JournalEntry]:
    """The last entries of a file, newest first; lines that are no entries (torn lines, notes) are skipped."""
    size, length = path.stat().st_size, BLOCK
    with open(path, "rb") as file:
        while True:
            start = max(0, size - length)
            file.seek(start)
            lines = file.read(size - start).split(b"\n")
            if start:
                del lines[0]  # incomplete
            entries = [entry for line in reversed(lines) if (entry := JournalEntry.read(line)) is not None]
            if len(entries) >= count or not start:
                return entries[:count]
            length *= 4


def _cells(entry: JournalEntry) -> dict[str, Any]:
    body, answer = entry.body, entry.answer
    cells = {"prompt": _last_text(body), "answer": None, "status": "failed", "error": None, "at": sent_at(entry)}
    if not entry.is_good:
        return {**cells, "error": entry.error}
    read = endpoint(path_answering(body, answer)).read(answer)
    text = read.text if read.text is not None or read.value is None else dumps(read.value).decode()
    return {**cells, "answer": text, "status": "failed" if read.error_code else "succeeded", "error": read.error}


def _last_text(body: Any) -> str | None:
    if not isinstance(body, Mapping):
        return None
    content = body.get("messages") or body.get("input") or body.get("prompt")
    while isinstance(content, list) and content:
        content = content[-1]
        if isinstance(content, Mapping):
            content = content.get("content") or content.get("text")
    return content if isinstance(content, str) else None
