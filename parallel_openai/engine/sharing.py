"""One account, several processes on this machine: each takes an equal part of the limits while it runs.

A process that runs holds a locked file in a common folder. Whoever counts the files that are locked knows among how
many the limits are to be divided; the system unlocks the file of a process that dies, however it dies, and so its part
comes back to the others.
"""

from __future__ import annotations

import asyncio
import getpass
import re
import tempfile
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import filelock

from parallel_openai.engine.limiter import Limiter
from parallel_openai.engine.locking import take
from parallel_openai.engine.own_files import check_own
from parallel_openai.errors import InvalidInputError

#: Seconds between two counts. One who joins waits a little longer, until the others have seen it.
COUNT_EVERY = 1.0


class SharedAccount:
    """A name under which processes share an account's limits.

    Args:
        name: the same in all of them; letters, digits, `-`, `_` and `.`.
        folder: where the files lie; None: a folder of this user's among the temporary files.

    >>> import asyncio, tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> one, other = SharedAccount("lab", folder=folder), SharedAccount("lab", folder=folder)
    >>> asyncio.run(one.join()); one.count()
    1
    >>> asyncio.run(other.join()); one.count(), other.count()
    (2, 2)
    >>> other.leave(); one.count()
    1
    >>> one.leave()
    """

    def __init__(self, name: str, *, folder: Path | None = None) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]{1,80}", name) or name.strip(".") == "":
            raise InvalidInputError(f"shared must be a name of letters, digits, '-', '_' and '.', not {name!r}.")
        common = folder or Path(tempfile.gettempdir()) / f"parallel_openai-{getpass.getuser()}"
        self._folder = common / name
        self._made = [self._folder] if folder is not None else [common, self._folder]
        self._lock: filelock.BaseFileLock | None = None
        self._lease: Path | None = None
        self._runs = 0

    async def join(self) -> None:
        """Take part. Returns when the others have had the time to see it, and at once where there are none."""
        self._runs += 1
        if self._runs > 1:
            return
        for folder in self._made:  # anybody may have been here before, where everybody's temporary files are
            check_own(folder, "Only its owner's runs can share an account there; set TMPDIR to another folder.")
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        while self._lock is None:
            self._lease = self._folder / f"{uuid.uuid4().hex}.lease"
            self._lock = _locked(self._lease)
        if self.count() > 1:
            await asyncio.sleep(1.2 * COUNT_EVERY)

    def leave(self) -> None:
        """Take part no more; the others get this one's share at their next count."""
        self._runs -= 1
        if self._runs == 0 and self._lock is not None:
            self._lock.release()
            if self._lease is not None:
                _remove(self._lease)
            self._lock = self._lease = None

    def count(self) -> int:
        """How many take part now, this one included. What dead ones left behind is cleared away."""
        return 1 + sum(_is_held(lease) for lease in self._folder.glob("*.lease") if lease != self._lease)


@asynccontextmanager
async def taking_part(account: SharedAccount | None, limiter: Limiter) -> AsyncIterator[None]:
    """Keep the limiter to this process's part of the account, if it is shared."""
    if account is None:
        yield
        return

    async def keep_to_our_part() -> None:
        while True:
            limiter.set_share(1 / account.count())
            await asyncio.sleep(COUNT_EVERY)

    await account.join()
    limiter.set_share(1 / account.count())
    keeping = asyncio.ensure_future(keep_to_our_part())
    try:
        yield
    finally:
        keeping.cancel()
        account.leave()


def _locked(lease: Path) -> filelock.BaseFileLock | None:
    try:
        return take(lease)
    except filelock.Timeout:  # somebody counted between the making of the file and its locking
        return None


def _is_held(lease: Path) -> bool:
    try:
        lock = take(lease)
    except (filelock.Timeout, OSError):
        return True
    lock.release()
    _remove(lease)
    return False


def _remove(lease: Path) -> None:
    try:
        lease.unlink()
    except OSError:
        pass  # another one who counted was quicker
