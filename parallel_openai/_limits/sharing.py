"""One account, several processes on this machine: each takes an equal part of the limits while it runs.

A process that runs holds a locked file in a common folder. Whoever counts the files that are locked knows among how
many the limits are to be divided; the system unlocks the file of a process that dies, however it dies, and so its part
comes back to the others. What a caller gave is divided among all; a model's own limit among those who use that model,
which a file beside the locked one tells. Who has told of no model yet may be about to use any.
"""

from __future__ import annotations

import asyncio
import getpass
import re
import tempfile
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import blake2b
from pathlib import Path

import filelock

from parallel_openai._disk.file_ownership import check_own
from parallel_openai._disk.locking import acquire
from parallel_openai._limits.limiter import Limiter
from parallel_openai._limits.model_limiters import ModelLimiters
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
    >>> one.use("small"), other.use("large"); one.count_users("small"), other.count_users("large")
    (True, True)
    (1, 1)
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
        self._me = ""
        self._lock: filelock.BaseFileLock | None = None
        self._runs = 0
        self.models: list[str | None] = []

    async def join(self) -> None:
        """Take part. Returns when the others have had the time to see it, and at once where there are none."""
        self._runs += 1
        if self._runs > 1:
            return
        for folder in self._made:  # anybody may have been here before, where everybody's temporary files are
            check_own(folder, "Only its owner's runs can share an account there; set TMPDIR to another folder.")
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        while self._lock is None:
            self._me = uuid.uuid4().hex
            self._lock = _locked(self._folder / f"{self._me}.lease")
        if self.count() > 1:
            await asyncio.sleep(1.2 * COUNT_EVERY)

    def use(self, model: str | None) -> bool:
        """Take part in a model's limits too, as long as this takes part at all; gives whether that is new."""
        if self._lock is None or model in self.models:
            return False
        self.models.append(model)
        self._mark(self._me, model).touch(mode=0o600)
        return True

    def leave(self) -> None:
        """Take part no more; the others get this one's share at their next count."""
        self._runs -= 1
        if self._runs == 0 and self._lock is not None:
            self._lock.release()
            self._lock = None
            self.models.clear()
            self._clear_away(self._me)

    def count(self) -> int:
        """How many take part now, this one included. What dead ones left behind is cleared away."""
        return 1 + len(self._others())

    def count_users(self, model: str | None) -> int:
        """How many of them may use that model now, this one included."""
        return 1 + sum(self._mark(each, model).exists() or not self._marks_of(each) for each in self._others())

    def _others(self) -> list[str]:
        members = [lease.stem for lease in self._folder.glob("*.lease")]
        return [each for each in members if each != self._me and self._is_alive(each)]

    def _is_alive(self, member: str) -> bool:
        try:
            lock = acquire(self._folder / f"{member}.lease")
        except (filelock.Timeout, OSError):
            return True
        lock.release()
        self._clear_away(member)
        return False

    def _clear_away(self, member: str) -> None:
        for left in (self._folder / f"{member}.lease", *self._marks_of(member)):
            try:
                left.unlink()
            except OSError:
                pass  # another one who counted was quicker

    def _mark(self, member: str, model: str | None) -> Path:
        digest = blake2b(repr(model).encode(), digest_size=8).hexdigest()
        return self._folder / f"{member}.{digest}.model"

    def _marks_of(self, member: str) -> list[Path]:
        return list(self._folder.glob(f"{member}.*.model"))


@asynccontextmanager
async def taking_part(account: SharedAccount | None, limiters: ModelLimiters) -> AsyncIterator[None]:
    """Keep the limiters to this process's part of the account, if it is shared."""
    if account is None:
        yield
        return

    def divide() -> None:
        limiters.set_share(1 / account.count())
        for model in account.models:
            limiters.of(model).set_share(1 / account.count_users(model))

    def begin(model: str | None, limiter: Limiter) -> None:
        if not account.use(model):
            return
        users = account.count_users(model)
        limiter.set_share(1 / users)
        if len(account.models) > 1 and users > 1:  # until the first was told, the others counted us for any
            limiter.requests.hold(limiter.clock() + 1.2 * COUNT_EVERY)

    async def keep_to_our_part() -> None:
        while True:
            divide()
            await asyncio.sleep(COUNT_EVERY)

    await account.join()
    divide()
    limiters.on_use = begin
    keeping = asyncio.ensure_future(keep_to_our_part())
    try:
        yield
    finally:
        keeping.cancel()
        account.leave()


def _locked(lease: Path) -> filelock.BaseFileLock | None:
    try:
        return acquire(lease)
    except filelock.Timeout:  # somebody counted between the making of the file and its locking
        return None
