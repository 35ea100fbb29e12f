"""One file, one writer: who holds a file of results, and what the next one to come is told."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import filelock

from parallel_openai.errors import JournalError, JournalLockedError


def lock(path: Path) -> filelock.BaseFileLock:
    """Hold a file that need not exist yet; release it in the end. Its folder is made.

    Raises:
        JournalLockedError: somebody holds it; the message says who.
        JournalError: nothing can be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JournalError(f"The folder {path.parent} cannot be made: {error.strerror}.") from error
    path = Path(os.path.realpath(path))  # however the file is called, it has one lock
    place = path.with_name(path.name + ".lock")
    held = filelock.FileLock(place, timeout=0, mode=0o600)
    try:
        held.acquire()
    except filelock.Timeout:
        if not place.exists():  # it is not held, it cannot be made
            raise JournalError(f"{path} cannot be locked: nothing can be written in {path.parent}.") from None
        raise JournalLockedError(
            f"{path} is being written by {_holder(place)}. Wait for it or stop it; to have both, "
            "give this run a save path of its own."
        ) from None
    except OSError as error:
        raise JournalError(f"{path} cannot be locked: {error.strerror}.") from error
    _leave_name(place)
    return held


def _leave_name(place: Path) -> None:
    try:
        place.write_text(f"process {os.getpid()} on {socket.gethostname()}", "utf-8")
    except OSError:
        pass  # Windows keeps a locked file shut; only the message to the next one to come is poorer for it


def _holder(place: Path) -> str:
    try:
        return place.read_text("utf-8") or "another run"
    except OSError:
        return "another run"
