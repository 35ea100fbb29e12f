"""A stand-in for Ray: actors in this process and in virtual time, whose workers may die."""

from __future__ import annotations

import asyncio
import copy
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from yarl import URL

from parallel_openai._http.transport_per_loop import Connections
from parallel_openai._journal.origins import Origin
from parallel_openai._ray import worker as workers
from parallel_openai._ray.cluster import SealedClient
from parallel_openai._ray.shared_budget import Share
from parallel_openai._ray.worker import Worker
from tests.simulation.network import Network
from tests.simulation.server import SENDER, Answer, Server

#: Seconds within which an answer that came to a worker reaches the run; with the worker it is lost.
MOMENT = 0.3


class ActorDied(Exception):
    """In the place of `ray.exceptions.RayActorError`."""


class Cluster:
    """What the package asks of the module `ray`, on one loop.

    Args:
        server: where the workers send to.
        timeout: of their requests.
    """

    def __init__(self, server: Server, timeout: float) -> None:
        self.server, self.timeout = server, timeout
        self.named: dict[str, Actor] = {}
        self.workers: list[Actor] = []

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> Mapping[str, float]:
        return {"CPU": 2.0}

    def remote(self, **_: object) -> Callable[[type], Kind]:
        return lambda kind: Kind(self, kind)

    def get(self, answer: asyncio.Future[Any]) -> Any:
        return answer.result()

    def kill(self, actor: Actor) -> None:
        actor.die()

    def lose_one(self) -> None:
        """A machine of the cluster fails."""
        alive = [each for each in self.workers if not each.is_dead]
        if not alive:
            return
        alive[0].die()
        books = self.server.books
        books.taken_again = self.server.number  # what it had counted is not told
        for bill in books.bills:
            if bill.outcome == "delivered" and bill.due > self.server.now() - MOMENT:
                bill.outcome = "lost"
        self.server.tell("a worker dies")

    @contextmanager
    def in_place(self) -> Iterator[None]:
        exceptions = ModuleType("ray.exceptions")
        exceptions.RayActorError = ActorDied  # type: ignore[attr-defined]
        ours: dict[str, Any] = {"ray": self, "ray.exceptions": exceptions}
        before = {name: sys.modules[name] for name in ours if name in sys.modules}
        name_of_worker = workers.worker_name
        sys.modules.update(ours)
        try:
            yield
        finally:
            workers.worker_name = name_of_worker
            for name in ours:
                del sys.modules[name]
            sys.modules.update(before)


class Kind:
    """A class whose instances are actors."""

    def __init__(self, cluster: Cluster, kind: type, name: str | None = None) -> None:
        self._cluster, self._kind, self._name = cluster, kind, name

    def options(self, *, name: str, **_: object) -> Kind:
        return Kind(self._cluster, self._kind, name)

    def remote(self, *args: Any) -> Actor:
        if self._name in self._cluster.named:
            return self._cluster.named[self._name]
        args = tuple(map(copy.copy, args))  # as they travel
        if self._kind is Worker:
            actor = Actor(MortalWorker(*args))
            actor.it.join(self._cluster, f"worker-{len(self._cluster.workers)}")
            self._cluster.workers.append(actor)
            return actor
        actor = Actor(self._kind(*args))
        if self._name is not None:
            self._cluster.named[self._name] = actor
        return actor


class Answered(asyncio.Future[Any]):
    """What a call of a method gives at once, as a reference of Ray's does."""

    def future(self) -> asyncio.Future[Any]:
        return self


class Actor:
    """Its methods are called by `actor.method.remote(...)`, which gives a future."""

    def __init__(self, it: Any) -> None:
        self.it, self.is_dead = it, False
        self._calls: dict[asyncio.Future[Any], asyncio.Future[Any] | None] = {}

    def __getattr__(self, name: str) -> Any:
        return _Method(self, name)

    def call(self, name: str, args: tuple[Any, ...]) -> asyncio.Future[Any]:
        answer = Answered(loop=asyncio.get_running_loop())
        if self.is_dead:
            answer.set_exception(ActorDied())
            return answer
        given = getattr(self.it, name)(*args)
        if not inspect.isawaitable(given):
            answer.set_result(given)
            return answer
        at_work = asyncio.ensure_future(given)
        self._calls[answer] = at_work
        at_work.add_done_callback(lambda _: self._hand_over(answer, at_work))
        return answer

    def _hand_over(self, answer: asyncio.Future[Any], at_work: asyncio.Future[Any]) -> None:
        self._calls.pop(answer, None)
        error = None if at_work.cancelled() else at_work.exception()
        if answer.done() or at_work.cancelled():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(at_work.result())

    def die(self) -> None:
        if self.is_dead:
            return
        self.is_dead = True
        for answer, at_work in list(self._calls.items()):
            if not answer.done():
                answer.set_exception(ActorDied())
            if at_work is not None:
                at_work.cancel()
        if isinstance(self.it, MortalWorker):
            self.it.die()


class _Method:
    def __init__(self, actor: Actor, name: str) -> None:
        self._actor, self._name = actor, name

    def remote(self, *args: Any) -> asyncio.Future[Any]:
        return self._actor.call(self._name, args)


class MortalWorker(Worker):
    """A worker that sends to the life's server, and whose requests die with it."""

    def join(self, cluster: Cluster, name: str) -> None:
        self._cluster, self._name = cluster, name
        self._sending: set[asyncio.Task[Any]] = set()

    async def open(
        self, sealed: SealedClient, share: Share | None, undelivered: Path, origin: Origin | None, known: int = 0
    ) -> str:
        workers.worker_name = lambda: self._name
        name = await super().open(sealed, share, undelivered, origin, known)  # without a turn of the loop
        cluster, sending = self._cluster, self._sending
        self._client.clock = cluster.server.now
        self._client._server.connections = Connections(lambda: _WorkersNetwork(cluster, self._name, sending))
        return name

    def die(self) -> None:
        for each in self._sending:
            each.cancel()
        if hasattr(self, "_running"):
            self._running.cancel()


class _WorkersNetwork(Network):
    def __init__(self, cluster: Cluster, name: str, sending: set[asyncio.Task[Any]]) -> None:
        super().__init__(cluster.server, cluster.timeout)
        self._name, self._sending = name, sending

    async def _by_session(  # type: ignore[override]
        self, method: str, url: URL, body: bytes | None, into: Any, options: Mapping[str, Any]
    ) -> Answer:
        me = asyncio.current_task()
        assert me is not None
        self._sending.add(me)
        SENDER.set(self._name)
        try:
            return await super()._by_session(method, url, body, into, options)
        finally:
            self._sending.discard(me)
