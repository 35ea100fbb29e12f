"""Connects to a Ray cluster, and runs the actor in it that keeps an account's limit for all workers."""

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
#: If no number of workers is given, there is one for each processor of the cluster, up to this many.
MOST_WORKERS = 8
#: Seconds between tries to reach the account's actor after its death, and the number of tries. A cluster may take a
#: minute to notice that a machine is gone, and until then still names the actor that was on it.
AGAIN_AFTER = 0.2
TRIES = 450


def find_ray() -> Any:
    """The module `ray`, connected to the cluster at `RAY_ADDRESS`, to one running here, or else to a new local one."""
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError.of("lane='ray' and process_dataset need", "ray[data]", error) from error
    if not ray.is_initialized():
        _connect(ray)
    return ray


def _connect(ray: Any) -> None:
    # Ray would otherwise send usage statistics to its makers, which is not for us to decide.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"logging_level": "warning", "log_to_driver": False}
    try:
        ray.init("auto", **quiet)
    except ConnectionError:  # none is running: one on this machine, for this process
        # It always listens on all of the machine's addresses. Its token, required unless RAY_AUTH_MODE says otherwise,
        # keeps others out.
        ray.init("local", include_dashboard=False, **quiet)


def count_workers(ray: Any, workers: Any, client: Client) -> int:
    """The number of workers, so that each may have at least one request in flight."""
    if workers is True or workers is None:
        workers = max(1, min(MOST_WORKERS, int(ray.cluster_resources().get("CPU", 1))))
    if not isinstance(workers, int) or workers < 1:
        raise InvalidInputError(
            f"The number of workers must be a whole number above 0, or True for a fitting one, not {workers!r}."
        )
    return min(workers, client.account()["options"]["max_concurrent_requests"] or workers)


class SealedClient:
    """What a worker needs to make the client, its key included, without showing it in `repr`."""

    def __init__(self, account: Mapping[str, Any]) -> None:
        self._account = dict(account)

    def open(self) -> dict[str, Any]:
        return self._account

    def __repr__(self) -> str:
        return "SealedClient(...)"


def seal(client: Client, workers: int) -> SealedClient:
    """Seal a client for each of `workers` workers, with its share of the concurrent requests."""
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
    """A name that is the same for all clients of an account, and does not reveal its key."""
    text = repr((client.place, sorted(client.account()["headers"].items())))
    return f"account-{blake2b(text.encode(), digest_size=8).hexdigest()}"


#: The sum of the workers' counters, each model's known limits, and the error (name and message) that stops the run.
Totals = tuple[Counter[str], dict[str | None, Limits], tuple[str, str] | None]


class AccountActor:
    """An account's actor: grants slots and budget, and passes clients, counters and stops between runs and workers."""

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
        """Set what a run of `workers` workers may spend."""
        self._lenders[run] = Lender(left, workers)

    def lend(self, run: str, wanted: Amount) -> Amount:
        """Lend to a worker. Nothing is lent if the run's budget is unknown, as after an earlier actor died."""
        return self._lenders[run].lend(wanted) if run in self._lenders else NOTHING

    def give_back(self, run: str, amount: Amount) -> None:
        if run in self._lenders:
            self._lenders[run].give_back(amount)

    def budget_left(self, run: str) -> Amount:
        return self._lenders[run].left if run in self._lenders else NOTHING

    def count(self, run: str, worker: str, counts: Counter[str]) -> tuple[str, str] | None:
        """Store a worker's counters. Returns the error that stops the run, if any."""
        if run in self._ended:
            return "RunStoppedError", "The run has ended."
        self._counts.setdefault(run, {})[worker] = counts
        return self._stops.get(run)

    def stop(self, run: str, error: str, sentence: str) -> None:
        """Stop a run with an error, given by its class name and message; the first one counts."""
        self._stops.setdefault(run, (error, sentence))

    def look(self, run: str, sealed: SealedClient, stop: tuple[str, str] | None) -> Totals:
        """A run's totals. The call also brings a new actor the client and the stop that its predecessor knew."""
        self._sealed[run] = sealed
        if stop is not None:
            self.stop(run, *stop)
        total: Counter[str] = Counter()
        for counts in self._counts.get(run, {}).values():
            total.update(counts)
        return total, {model: each.limits for model, each in self._models.items()}, self._stops.get(run)

    def end(self, run: str) -> None:
        """Forget a run and its client. Workers that are still running are told to stop at their next count."""
        self._ended.add(run)
        for book in (self._sealed, self._counts, self._stops, self._lenders):
            book.pop(run, None)


@dataclass
class AccountHandle:
    """Finds and calls an account's actor, and starts a new one if it has died."""

    name: str
    limits: Limits
    _actor: Any = field(default=None, repr=False)

    def find(self) -> Any:
        """The actor, started now if there is none."""
        if self._actor is None:
            import ray

            actor = ray.remote(num_cpus=0)(AccountActor)
            named = actor.options(name=self.name, namespace=NAMESPACE, get_if_exists=True)
            self._actor = named.remote(*self.limits)
        return self._actor

    def ask(self, method: str, *args: Any) -> Any:
        """Call a method of the actor, or of the new one if it has died.

        Raises:
            RunStoppedError: no actor could be reached for longer than a cluster takes to notice a death.
        """
        import ray
        from ray.exceptions import RayActorError

        for _ in range(TRIES):
            actor = self.find()
            try:
                return ray.get(getattr(actor, method).remote(*args))
            except RayActorError as error:
                why = self.let_go(actor, error)
                time.sleep(AGAIN_AFTER)
        raise why

    async def aask(self, method: str, *args: Any) -> Any:
        """As `ask`, for a caller in an event loop."""
        from ray.exceptions import RayActorError

        for _ in range(TRIES):
            actor = self.find()
            try:
                return await getattr(actor, method).remote(*args)
            except RayActorError as error:
                why = self.let_go(actor, error)
                await asyncio.sleep(AGAIN_AFTER)
        raise why

    def borrowed(self, share: Share) -> BorrowedFunds:
        """A worker's part of a run's funds. If the actor has died, what is left is unknown, so nothing is lent."""
        import ray
        from ray.exceptions import RayActorError

        def lend(wanted: Amount) -> Amount:
            actor = self.find()
            try:
                given: Amount = ray.get(actor.lend.remote(share.run, wanted))
            except RayActorError as error:
                self.let_go(actor, error)
                return NOTHING
            return given

        def give_back(amount: Amount) -> None:
            with suppress(RayActorError):
                ray.get(self.find().give_back.remote(share.run, amount))

        return BorrowedFunds(share.limits, lend, give_back)

    def let_go(self, actor: Any, error: Exception) -> RunStoppedError:
        """Forget the actor, so that the next call looks for it again. Returns the error to raise if all tries fail."""
        import ray
        from ray.exceptions import ActorDiedError

        if self._actor is actor:  # no other thread has found a new one
            self._actor = None
        if isinstance(error, ActorDiedError):
            # Who looked the name up while the actor died would get the dead one forever, unless Ray forgets it.
            ray.kill(actor)
        return RunStoppedError(f"The actor that keeps the account's limit cannot be reached: {cause_of(error)}")

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "limits": self.limits, "_actor": None}


def learn_limits(limiter: Limiter, limits: Limits, now: float) -> None:
    """Set a model's limits to those that the cluster knows."""
    for bucket, limit in zip((limiter.requests, limiter.tokens), limits, strict=True):
        if limit is not None and limit != bucket.limit:
            bucket.set_limit(limit, now)


def error_of(stop: tuple[str, str], partial: Any = None) -> Exception:
    """The error that a worker reported by its class name and message.

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
    """The root cause of one of Ray's errors, in one line."""
    while isinstance(cause := getattr(error, "cause", None) or error.__cause__, Exception):
        error = cause
    return printable(f"{type(error).__name__}: {error}".splitlines()[0])


def worker_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"
