"""Checks of files at default paths, such as in the working folder, which may come from someone else's project."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from parallel_openai.errors import JournalError

_REPARSE_POINT = 0x400  # on Windows: a junction or another kind of link


def check_own(place: Path, advice: str = "Remove it, or choose a place of your own with save_to=.") -> None:
    """Check that a path, if it exists, is a file or folder of this user.

    Raises:
        JournalError: it is a link, belongs to another user, or is a pipe, say, which would block.
    """
    try:
        about = os.lstat(place)
    except OSError:  # other errors are reported when it is opened
        return
    if stat.S_ISLNK(about.st_mode) or getattr(about, "st_file_attributes", 0) & _REPARSE_POINT:
        raise JournalError(f"{place} is a link, so data would be written elsewhere. {advice}")
    if not (stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode)):
        raise JournalError(f"{place} is no ordinary file. {advice}")
    if hasattr(os, "getuid") and about.st_uid != os.getuid():
        raise JournalError(f"{place} belongs to another user (number {about.st_uid}). {advice}")


def keep_private(file: int) -> None:
    """Remove all permissions but the owner's from an open file that others can read, as git creates files. One that
    only a group can read keeps its permissions."""
    about = os.fstat(file)
    if hasattr(os, "fchmod") and about.st_mode & 0o004 and about.st_uid == os.getuid():
        os.fchmod(file, 0o600)
