"""One file, one writer: who holds a file of results, and what the next one to come is told."""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from pathlib import Path

import filelock

from parallel_openai._disk.file_ownership import check_own
from parallel_openai.errors import JournalError, JournalLockedError

if sys.platform != "win32":
    import fcntl

#: What a file system says that has no locks, or none at the moment.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
#: Seconds in which a dead holder is found out.
_TAKE_OVER = 0.5
#: What a lock file begins with.
_HOLDER = "process"
#: What to do about what the system says.
_ADVICE = {
    errno.EACCES: "This user may not write there: change its rights, or choose another path.",
    errno.EPERM: "This user may not write there: change its rights, or choose another path.",
    errno.EROFS: "It can only be read from: choose a path on another file system.",
    errno.ENOSPC: "Make room there, or choose a path on another disk.",
    errno.EDQUOT: "Make room there, or choose a path on another disk.",
}


def advice(error: OSError) -> str:
    """What to do where a file cannot be written.

    >>> advice(OSError(errno.EROFS, "Read-only file system"))
    'It can only be read from: choose a path on another file system.'
    """
    return _ADVICE.get(error.errno or 0, "Choose another path for it.")


def take(place: Path) -> filelock.BaseFileLock:
    """Hold a lock file, which the system unlocks when its holder dies. Where the system has no such locks, it is a file
    beside it that names the holder, and a holder that is dead is found out when the next one comes.

    Raises:
        filelock.Timeout: somebody holds it.
        OSError: it cannot be made.
    """
    held: filelock.BaseFileLock = filelock.FileLock(place, timeout=0, mode=0o600, fallback_to_soft=False)
    try:
        held.acquire()
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        marker = _holder_of(place)
        held = filelock.SoftFileLock(marker, timeout=_TAKE_OVER, poll_interval=_TAKE_OVER / 10, mode=0o600)
        _remove_zombies(marker)
        held.acquire()
    return held


def _remove_zombies(marker: Path) -> None:
    """Take away what a dead holder left whose parent has not looked after it, as in a container without an init.

    To filelock it is alive.
    """
    try:
        before = marker.stat()
        pid, host = marker.read_text("utf-8").splitlines()[:2]
        state = Path("/proc", pid, "stat").read_text("ascii", "replace").rpartition(")")[2].split()[0]
        name, namespace = socket.gethostname(), f"{Path('/proc/self/ns/pid').stat().st_ino:x}"
        is_here = host == name or (host.startswith(name) and host.endswith(namespace))  # as filelock writes them
        if state == "Z" and is_here and marker.stat().st_ino == before.st_ino:
            marker.unlink()
    except (OSError, ValueError, IndexError):
        pass  # there is none, or it is another system, which filelock knows


def _holder_of(place: Path) -> Path:
    return place.with_name(place.name + ".holder")


class Lock:
    """Holds a file that need not exist yet, until it is released. Its folder is made.

    Raises:
        JournalLockedError: somebody holds it; the message says who.
        JournalError: nothing can be written there.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise JournalError(f"The folder {path.parent} cannot be made: {error.strerror}. {advice(error)}") from error
        self._path = Path(os.path.realpath(path))  # however the file is called, it has one lock
        self._place = self._path.with_name(self._path.name + ".lock")
        for beside in (self._place, _holder_of(self._place)):  # which nobody named, and which are written
            check_own(beside, "Remove it, or choose another path.")
        _check_ours(self._place)
        #: Whether no run of ours was here before, as far as can be seen.
        self.is_first = not os.path.exists(self._place)
        self._held = self._acquire()
        self._identity = _identity(self._place)

    def is_in_place(self) -> bool:
        """Whether the lock file is still where others look for it, as far as can be told."""
        try:
            return _identity(self._place) == self._identity
        except OSError:
            return True

    def release(self) -> None:
        self._held.release()

    def abandon(self) -> None:
        """Release it and leave nothing behind, where the file turned out to be somebody else's."""
        self.release()
        if self.is_first:
            self._place.unlink(missing_ok=True)

    def _acquire(self) -> filelock.BaseFileLock:
        try:
            held = take(self._place)
        except filelock.Timeout:
            if not os.path.exists(self._place):  # it is not held, it cannot be made
                raise JournalError(
                    f"{self._path} cannot be locked: nothing can be written in {self._path.parent}. "
                    "Choose another path."
                ) from None
            raise JournalLockedError(
                f"{self._path} is being written by {self._holder()}. Wait for it or stop it; to have both, "
                "give this run a save path of its own."
            ) from None
        except OSError as error:
            raise JournalError(f"{self._path} cannot be locked: {error.strerror}. {advice(error)}") from error
        self._place = Path(held.lock_file)
        if self._place.suffix == ".lock":
            self._leave_name()
        return held

    def _leave_name(self) -> None:
        try:
            self._place.write_text(f"{_HOLDER} {os.getpid()} on {socket.gethostname()}", "utf-8")
        except OSError:
            pass  # Windows keeps a locked file shut; only the message to the next one to come is poorer for it

    def _holder(self) -> str:
        marker = _holder_of(self._place)
        try:
            if not marker.exists():
                return self._place.read_text("utf-8") or "another run"
            lines, age = marker.read_text("utf-8").splitlines(), time.time() - marker.stat().st_mtime
        except OSError:
            return "another run"
        who = f"process {lines[0]} on {lines[1]}" if len(lines) > 1 else "another run"
        since = f"{age / 3600:.0f} hours" if age > 7200 else f"{max(age, 0) / 60:.0f} minutes"
        return f"{who}, since {since} (if that is dead, remove the file {marker})"


def _check_ours(place: Path) -> None:
    """See that a lock file, which is written over, holds nothing but a holder's name, or what a full disk took of it.

    Raises:
        JournalError: it holds something else.
    """
    try:
        with open(place, "rb") as file:
            held = file.read(len(_HOLDER)).decode("latin-1")
    except OSError:  # there is none; or Windows keeps a locked file shut
        return
    if not _HOLDER.startswith(held):
        raise JournalError(f"{place} is no lock file, and would be written over. Remove it, or choose another path.")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        about = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return about.st_dev, about.st_ino


def hold(file: int, path: Path) -> None:
    """Hold an open file itself too, so that nobody else comes in when its lock file was deleted, or by a hard link.

    Raises:
        JournalLockedError: somebody holds it.
    """
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise JournalLockedError(
            f"{path} is being written by another run, under another name or with its lock file deleted. Wait for it or "
            "stop it; to have both, give this run a save path of its own."
        ) from None
    except OSError:
        return  # where there are no such locks, the file beside it has to do
    try:
        with open(path, "rb") as reader:
            reader.read(1)
    except OSError:  # over SMB a lock keeps readers out too
        let_go(file)


def let_go(file: int) -> None:
    """Said and not left to the closing, since a process that was forked meanwhile keeps the file open."""
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_UN)
        except OSError:
            pass
