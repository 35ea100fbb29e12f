"""What lies where nobody named a place, as in the working folder, may have come with somebody else's project."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from parallel_openai.errors import JournalError

_LINKS = 0x400  # of Windows: a junction, or another thing that leads elsewhere


def check_own(place: Path, advice: str = "Remove it, or choose a place of your own with save_to=.") -> None:
    """See that what lies at a place, if anything does, is a file or folder, no link, and this user's.

    Raises:
        JournalError: it leads elsewhere, belongs to somebody else, or is a pipe, which would be waited for without end.
    """
    try:
        about = os.lstat(place)
    except OSError:  # what else is wrong is said where it is opened
        return
    if stat.S_ISLNK(about.st_mode) or getattr(about, "st_file_attributes", 0) & _LINKS:
        raise JournalError(f"{place} is a link, so what is written there would be written elsewhere. {advice}")
    if not (stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode)):
        raise JournalError(f"{place} is no ordinary file. {advice}")
    if hasattr(os, "getuid") and about.st_uid != os.getuid():
        raise JournalError(f"{place} belongs to another user (number {about.st_uid}). {advice}")


def keep_private(file: int) -> None:
    """Take the rights of everybody away from an open file that anybody may read, as git makes them all; a group that
    was let in stays in."""
    about = os.fstat(file)
    if hasattr(os, "fchmod") and about.st_mode & 0o004 and about.st_uid == os.getuid():
        os.fchmod(file, 0o600)
