"""Locks for files of results, so that each has a single writer."""

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

#: Errors of a file system without locks, or with none available.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
#: Seconds in which a dead holder's lock is detected.
_TAKE_OVER = 0.5
#: The prefix of a lock file's content.
_HOLDER = "process"
#: What to do about an error of the system.
_ADVICE = {
    errno.EACCES: "This user may not write there: change the permissions, or choose another path.",
    errno.EPERM: "This user may not write there: change the permissions, or choose another path.",
    errno.EROFS: "Choose a path on another file system.",
    errno.ENOSPC: "Make room there, or choose a path on another disk.",
    errno.EDQUOT: "Make room there, or choose a path on another disk.",
}


def advice(error: OSError) -> str:
    """What to do about a file that cannot be written.

    >>> advice(OSError(errno.EROFS, "Read-only file system"))
    'Choose a path on another file system.'
    """
    return _ADVICE.get(error.errno or 0, "Choose another path for it.")


def acquire(lock_file: Path) -> filelock.BaseFileLock:
    """Acquire a lock file, which the system releases when its holder dies. If the file system has no locks, use a
    file beside it that names its holder; the next process to come detects a dead one.

    Raises:
        filelock.Timeout: another process holds it.
        OSError: it cannot be created.
    """
    held: filelock.BaseFileLock = filelock.FileLock(lock_file, timeout=0, mode=0o600, fallback_to_soft=False)
    try:
        held.acquire()
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        marker = _holder_of(lock_file)
        held = filelock.SoftFileLock(marker, timeout=_TAKE_OVER, poll_interval=_TAKE_OVER / 10, mode=0o600)
        _remove_zombies(marker)
        held.acquire()
    return held


def _remove_zombies(marker: Path) -> None:
    """Remove the marker of a dead holder that its parent has not reaped, as in a container without an init process.

    filelock takes it for alive.
    """
    try:
        before = marker.stat()
        pid, host = marker.read_text("utf-8").splitlines()[:2]
        state = Path("/proc", pid, "stat").read_text("ascii", "replace").rpartition(")")[2].split()[0]
        name, namespace = socket.gethostname(), f"{Path('/proc/self/ns/pid').stat().st_ino:x}"
        is_local = host == name or (host.startswith(name) and host.endswith(namespace))  # filelock's formats
        if state == "Z" and is_local and marker.stat().st_ino == before.st_ino:
            marker.unlink()
    except (OSError, ValueError, IndexError):
        pass  # there is no marker, or no /proc, where filelock itself detects dead holders


def _holder_of(lock_file: Path) -> Path:
    return lock_file.with_name(lock_file.name + ".holder")


class Lock:
    """An exclusive lock on a file, which need not exist. Its folder is created."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise JournalError(f"The folder {path.parent} cannot be made: {error.strerror}. {advice(error)}") from error
        self._path = Path(os.path.realpath(path))  # the same lock for every name of the file
        self._lock_file = self._path.with_name(self._path.name + ".lock")
        for path in (self._lock_file, _holder_of(self._lock_file)):
            check_own(path, "Remove it, or choose another path.")
        _check_ours(self._lock_file)
        #: Whether there was no lock file yet.
        self.is_first = not os.path.exists(self._lock_file)
        self._held = self._acquire()
        self._identity = _identity(self._lock_file)

    def is_in_place(self) -> bool:
        """Whether the lock file is still at its path; True if that cannot be checked."""
        try:
            return _identity(self._lock_file) == self._identity
        except OSError:
            return True

    def release(self) -> None:
        self._held.release()

    def abandon(self) -> None:
        """Release the lock and remove its file, after the locked file turned out not to be ours."""
        self.release()
        if self.is_first:
            self._lock_file.unlink(missing_ok=True)

    def _acquire(self) -> filelock.BaseFileLock:
        try:
            held = acquire(self._lock_file)
        except filelock.Timeout:
            if not os.path.exists(self._lock_file):  # not held, but it cannot be created
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
        self._lock_file = Path(held.lock_file)
        if self._lock_file.suffix == ".lock":
            self._write_holder()
        return held

    def _write_holder(self) -> None:
        try:
            self._lock_file.write_text(f"{_HOLDER} {os.getpid()} on {socket.gethostname()}", "utf-8")
        except OSError:
            pass  # Windows denies it for a locked file; only the next process's message has less detail

    def _holder(self) -> str:
        marker = _holder_of(self._lock_file)
        try:
            if not marker.exists():
                return self._lock_file.read_text("utf-8") or "another run"
            lines, age = marker.read_text("utf-8").splitlines(), time.time() - marker.stat().st_mtime
        except OSError:
            return "another run"
        who = f"process {lines[0]} on {lines[1]}" if len(lines) > 1 else "another run"
        since = f"{age / 3600:.0f} hours" if age > 7200 else f"{max(age, 0) / 60:.0f} minutes"
        return f"{who}, since {since} (if that is dead, remove the file {marker})"


def _check_ours(lock_file: Path) -> None:
    """Check that a lock file, which gets overwritten, contains only a holder's name, or its start after a full disk."""
    try:
        with open(lock_file, "rb") as file:
            content = file.read(len(_HOLDER)).decode("latin-1")
    except OSError:  # it does not exist, or Windows denies reading a locked file
        return
    if not _HOLDER.startswith(content):
        raise JournalError(
            f"{lock_file} is not a lock file and would be overwritten. Remove it, or choose another path."
        )


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def lock_open_file(file: int, path: Path) -> None:
    """Lock an open file itself too, in case its lock file was deleted or another process uses a hard link to it."""
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
        return  # the file system has no such locks, so the lock file has to do
    try:
        with open(path, "rb") as reader:
            reader.read(1)
    except OSError:  # over SMB a lock excludes readers too
        unlock_open_file(file)


def unlock_open_file(file: int) -> None:
    """Unlock explicitly, not just by closing, since a process forked meanwhile keeps the file open."""
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_UN)
        except OSError:
            pass
