"""The door to Ray: a cluster that is there or begun here, and the actor in it that keeps an account's one limit."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from parallel_openai import errors
from parallel_openai._client.client import Client
from parallel_openai._limits.limiter import Limiter
from parallel_openai._printable import printable
from parallel_openai._ray.shared_account import Account, Given, Grant, Limits, Report
from parallel_openai._ray.shared_budget import NOTHING, Amount, BorrowedFunds, Lender, Share
from parallel_openai.errors import InvalidInputError, MissingDependencyError, RunStoppedError

NAMESPACE = "parallel_openai"
#: Workers where no number is given: one for each processor of the cluster, up to these.
MOST_WORKERS = 8
#: Seconds between two tries to reach the account's actor where it has just died, and how many there are: a cluster may
#: take a minute to see that a machine is gone, and names the actor that was there until then.
AGAIN_AFTER = 0.2
TRIES = 450


def find_ray() -> Any:
    """The module `ray`, connected to the cluster of `RAY_ADDRESS`, to the one that runs here, or to one begun here."""
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError.of("lane='ray' and process_dataset need", "ray[data]", error) from error
    if not ray.is_initialized():
        _connect(ray)
    return ray


def _connect(ray: Any) -> None:
    # Ray would otherwise tell its makers of its use, which is not for us to decide.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"logging_level": "warning", "log_to_driver": False}
    try:
        ray.init("auto", **quiet)
    except ConnectionError:  # none is running: one on this machine, for this process
        # It listens on all of the machine's addresses, whatever it is told; its token, which it asks for unless
        # RAY_AUTH_MODE says otherwise, keeps others out.
        ray.init("local", include_dashboard=False, **quiet)


def count_workers(ray: Any, workers: Any, client: Client) -> int:
    """How many workers there are to be, each of which may have one request on its way at least."""
    if workers is True or workers is None:
        workers = max(1, min(MOST_WORKERS, int(ray.cluster_resources().get("CPU", 1))))
    if not isinstance(workers, int) or workers < 1:
        raise InvalidInputError(
            f"The number of workers must be a whole number above 0, or True for a fitting one, not {workers!r}."
        )
    return min(workers, client.account()["options"]["max_concurrent_requests"] or workers)


class SealedClient:
    """What makes a client, with its key: for the way to a worker, and shown to nobody."""

    def __init__(self, account: Mapping[str, Any]) -> None:
        self._account = dict(account)

    def open(self) -> dict[str, Any]:
        return self._account

    def __repr__(self) -> str:
        return "SealedClient(...)"


def seal(client: Client, workers: int) -> SealedClient:
    """What each of so many workers needs of the client."""
    account = client.account()
    options = dict(account["options"])
    if not isinstance(options["ssl"], bool):
        raise InvalidInputError(
            "Client(ssl=...) with a context of your own cannot be sent to other machines. Set SSL_CERT_FILE on them."
        )
    if options["max_concurrent_requests"] is not None:
        options["max_concurrent_requests"] //= workers
    return SealedClient({**account, "options": options})


def account_name(client: Client) -> str:
    """The same for all clients of an account, and telling nothing of its key."""
    text = repr((client.place, sorted(client.account()["headers"].items())))
    return f"account-{blake2b(text.encode(), digest_size=8).hexdigest()}"


#: What all workers of a run counted, each model's limits as they are known, and why the run stopped.
Totals = tuple[Counter[str], dict[str | None, Limits], tuple[str, str] | None]


class AccountActor:
    """The actor: the account's books, and a place where workers find what they need and leave what they count."""

    def __init__(self, max_requests_per_minute: float | None, max_tokens_per_minute: float | None) -> None:
        self._given = Given(max_requests_per_minute, max_tokens_per_minute, time.monotonic())
        self._models: dict[str | None, Account] = {}
        self._sealed: dict[str, SealedClient] = {}
        self._counts: dict[str, dict[str, Counter[str]]] = {}
        self._stops: dict[str, tuple[str, str]] = {}
        self._lenders: dict[str, Lender] = {}
        self._ended: set[str] = set()

    def lease(self, model: str | None, worker: str, requests: int, tokens: float, report: Report) -> Grant:
        if model not in self._models:
            self._models[model] = Account(clock=time.monotonic, given=self._given)
        return self._models[model].lease(worker, requests, tokens, report)

    def unseal(self, run: str) -> SealedClient | None:
        return self._sealed.get(run)

    def open_budget(self, run: str, left: Amount, workers: int) -> None:
        """What a run of so many workers may spend."""
        self._lenders[run] = Lender(left, workers)

    def lend(self, run: str, wanted: Amount) -> Amount:
        """Nothing too where nobody knows any more what a run has spent."""
        return self._lenders[run].lend(wanted) if run in self._lenders else NOTHING

    def give_back(self, run: str, amount: Amount) -> None:
        if run in self._lenders:
            self._lenders[run].give_back(amount)

    def budget_left(self, run: str) -> Amount:
        return self._lenders[run].left if run in self._lenders else NOTHING

    def count(self, run: str, worker: str, counts: Counter[str]) -> tuple[str, str] | None:
        """Take a worker's counts; gives why the run is to stop, if it is."""
        if run in self._ended:
            return "RunStoppedError", "The run has ended."
        self._counts.setdefault(run, {})[worker] = counts
        return self._stops.get(run)

    def stop(self, run: str, error: str, sentence: str) -> None:
        """The run is to stop, with this error."""
        self._stops.setdefault(run, (error, sentence))

    def look(self, run: str, sealed: SealedClient, stop: tuple[str, str] | None) -> Totals:
        """How a run stands. An actor that takes another's place learns by this, too, what the workers are to open and
        whether they are to stop."""
        self._sealed[run] = sealed
        if stop is not None:
            self.stop(run, *stop)
        total: Counter[str] = Counter()
        for counts in self._counts.get(run, {}).values():
            total.update(counts)
        return total, {model: each.limits for model, each in self._models.items()}, self._stops.get(run)

    def end(self, run: str) -> None:
        """Forget a run, and what was sealed for it; a worker that is left over hears of it."""
        self._ended.add(run)
        for book in (self._sealed, self._counts, self._stops, self._lenders):
            book.pop(run, None)


@dataclass
class AccountHandle:
    """A process's way to the account's actor. Where the actor has died, a new one takes its place."""

    name: str
    limits: Limits
    _actor: Any = field(default=None, repr=False)

    def find(self) -> Any:
        """The actor, which is begun here if there is none."""
        if self._actor is None:
            import ray

            actor = ray.remote(num_cpus=0)(AccountActor)
            named = actor.options(name=self.name, namespace=NAMESPACE, get_if_exists=True)
            self._actor = named.remote(*self.limits)
        return self._actor

    def ask(self, method: str, *args: Any) -> Any:
        """What a method of the actor returns, or of the one that takes its place if it has died.

        Raises:
            RunStoppedError: there is none, for longer than a cluster takes to notice a death.
        """
        import ray
        from ray.exceptions import RayActorError

        for _ in range(TRIES):
            try:
                return ray.get(getattr(self.find(), method).remote(*args))
            except RayActorError as error:
                why = self.let_go(error)
                time.sleep(AGAIN_AFTER)
        raise why

    async def aask(self, method: str, *args: Any) -> Any:
        """`ask` for a caller on a loop."""
        from ray.exceptions import RayActorError

        for _ in range(TRIES):
            try:
                return await getattr(self.find(), method).remote(*args)
            except RayActorError as error:
                why = self.let_go(error)
                await asyncio.sleep(AGAIN_AFTER)
        raise why

    def borrowed(self, share: Share) -> BorrowedFunds:
        """A worker's part of a run's funds. If the actor has died, nobody knows what is left, so nothing is lent."""
        import ray
        from ray.exceptions import RayActorError

        def lend(wanted: Amount) -> Amount:
            try:
                given: Amount = ray.get(self.find().lend.remote(share.run, wanted))
            except RayActorError as error:
                self.let_go(error)
                return NOTHING
            return given

        def give_back(amount: Amount) -> None:
            with suppress(RayActorError):
                ray.get(self.find().give_back.remote(share.run, amount))

        return BorrowedFunds(share.limits, lend, give_back)

    def let_go(self, error: Exception) -> RunStoppedError:
        """Look for the actor again next time; returns what to say if there is none by then."""
        self._actor = None
        return RunStoppedError(f"The actor that keeps the account's limit cannot be reached: {cause_of(error)}")

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "limits": self.limits, "_actor": None}


def learn_limits(limiter: Limiter, limits: Limits, now: float) -> None:
    """Take over a model's limits as the cluster knows them."""
    for bucket, limit in zip((limiter.requests, limiter.tokens), limits, strict=True):
        if limit is not None and limit != bucket.limit:
            bucket.set_limit(limit, now)


def error_of(stop: tuple[str, str], partial: Any = None) -> Exception:
    """The error that a worker told of by its name and sentence.

    >>> error_of(("AuthenticationError", "The key is wrong."))
    AuthenticationError('The key is wrong.')
    """
    name, sentence = stop
    kind = getattr(errors, name, RuntimeError)
    error: Exception = kind(sentence)
    if partial is not None and hasattr(error, "partial"):
        error.partial = partial
    return error


def cause_of(error: BaseException) -> str:
    """What was at the root of an error of Ray's, in one line."""
    while isinstance(cause := getattr(error, "cause", None) or error.__cause__, Exception):
        error = cause
    return printable(f"{type(error).__name__}: {error}".splitlines()[0])


def worker_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"
