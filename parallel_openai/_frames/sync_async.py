"""Makes a verb and its awaitable twin from one function that plans the call: one signature, one docstring."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, Protocol, TypeVar

from parallel_openai._frames.defensive_copy import on_copies, own_copies

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

_AWAITED = """`{name}` for code that awaits; the caller's loop stays free meanwhile.

    If its task is cancelled, it sends nothing more, takes in the answers on their way, which are paid for (up to 10 s;
    a second cancellation leaves at once), and ends in CancelledError; what was finished is in the journal.

    {doc}"""


class Call(Protocol[R_co]):
    """A call whose arguments are checked and whose requests are planned."""

    def execute(self) -> R_co: ...

    async def aexecute(self) -> R_co: ...


def blocking(plan: Callable[P, Call[R]]) -> Callable[P, R]:
    """The verb that runs what a function plans, with copies of its arguments."""

    @functools.wraps(plan)
    def verb(*args: P.args, **kwargs: P.kwargs) -> R:
        return on_copies(plan)(*args, **kwargs).execute()

    verb.__signature__ = _signature(plan)  # type: ignore[attr-defined]
    return verb


def awaitable(verb: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]:
    """The twin of a verb of `blocking`: it copies its arguments when it is called, and plans when it is awaited."""
    plan: Callable[P, Call[R]] = verb.__wrapped__  # type: ignore[attr-defined]

    @functools.wraps(verb)
    def twin(*args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        return _run(plan, *own_copies(args, kwargs))

    twin.__name__ = twin.__qualname__ = f"a{verb.__name__}"
    twin.__doc__ = _AWAITED.format(name=verb.__name__, doc=verb.__doc__)
    if hasattr(inspect, "markcoroutinefunction"):  # from Python 3.12 on
        inspect.markcoroutinefunction(twin)
    return twin


async def _run(plan: Callable[..., Call[R]], args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
    return await plan(*args, **kwargs).aexecute()


def _signature(plan: Callable[..., Any]) -> inspect.Signature:
    """The plan's signature, with what the call returns instead of the call."""
    signature = inspect.signature(plan)
    returned = str(signature.return_annotation)
    return signature.replace(return_annotation=returned.removeprefix("Call[").removesuffix("]"))
