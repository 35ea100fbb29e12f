"""Checks who owns a file at a default path, such as in the working folder, since it may be someone else's."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from parallel_openai.errors import JournalError

_REPARSE_POINT = 0x400  # on Windows: a junction or another kind of link


def check_own(path: Path, advice: str = "Remove it, or choose a path of your own with save_to=.") -> None:
    """Check that a path, if it exists, is a file or folder of this user."""
    try:
        status = os.lstat(path)
    except OSError:  # other errors are reported when it is opened
        return
    if stat.S_ISLNK(status.st_mode) or getattr(status, "st_file_attributes", 0) & _REPARSE_POINT:
        raise JournalError(f"{path} is a link, so data would be written elsewhere. {advice}")
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise JournalError(f"{path} is no ordinary file. {advice}")
    if hasattr(os, "getuid") and status.st_uid != os.getuid():
        raise JournalError(f"{path} belongs to another user (number {status.st_uid}). {advice}")


def keep_private(file: int) -> None:
    """Remove all permissions but the owner's from an open file that others can read, as git creates files. One that
    only a group can read keeps its permissions."""
    status = os.fstat(file)
    if hasattr(os, "fchmod") and status.st_mode & 0o004 and status.st_uid == os.getuid():
        os.fchmod(file, 0o600)
