"""Divides an account's limits equally among the processes on this machine that use it at the moment.

Each running process holds a locked file in a common folder, so the number of locked files says among how many to
divide. If a process dies, the system unlocks its file, and its part returns to the others. Limits given by the caller
are divided among all processes; a model's own limits, among the processes that use the model, each of which has a
marker file beside its lock. A process without a marker yet counts as a user of every model.
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

#: Seconds between two counts. A process that joins waits a little longer, until the others have counted it.
COUNT_EVERY = 1.0


class SharedAccount:
    """A name under which processes share an account's limits.

    Args:
        name: the same in all of them; letters, digits, `-`, `_` and `.`.
        folder: the folder for the files. None is a folder of this user's in the system's temporary folder.

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
        """Take part. Returns once the others have had time to count this process, at once if there are none."""
        self._runs += 1
        if self._runs > 1:
            return
        for folder in self._made:  # the temporary folder is shared, so another user may have made it
            check_own(folder, "Only its owner's runs can share an account there; set TMPDIR to another folder.")
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        while self._lock is None:
            self._me = uuid.uuid4().hex
            self._lock = _locked(self._folder / f"{self._me}.lease")
        if self.count() > 1:
            await asyncio.sleep(1.2 * COUNT_EVERY)

    def use(self, model: str | None) -> bool:
        """Share a model's limits too, if this process takes part. Returns whether that is new."""
        if self._lock is None or model in self.models:
            return False
        self.models.append(model)
        self._mark(self._me, model).touch(mode=0o600)
        return True

    def leave(self) -> None:
        """Stop taking part. The others get this process's share at their next count."""
        self._runs -= 1
        if self._runs == 0 and self._lock is not None:
            self._lock.release()
            self._lock = None
            self.models.clear()
            self._clear_away(self._me)

    def count(self) -> int:
        """How many processes take part, this one included. Files of dead ones are removed."""
        return 1 + len(self._others())

    def count_users(self, model: str | None) -> int:
        """How many of them may be using a model, this one included."""
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
        for path in (self._folder / f"{member}.lease", *self._marks_of(member)):
            try:
                path.unlink()
            except OSError:
                pass  # another process has removed it

    def _mark(self, member: str, model: str | None) -> Path:
        digest = blake2b(repr(model).encode(), digest_size=8).hexdigest()
        return self._folder / f"{member}.{digest}.model"

    def _marks_of(self, member: str) -> list[Path]:
        return list(self._folder.glob(f"{member}.*.model"))


@asynccontextmanager
async def taking_part(account: SharedAccount | None, limiters: ModelLimiters) -> AsyncIterator[None]:
    """Keep the limiters within this process's part of the account, if it is shared."""
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
        if len(account.models) > 1 and users > 1:  # give the others time to count us for this model too
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
    except filelock.Timeout:  # another process was counting between the file's creation and its locking
        return None
