"""A request on its way through the engine."""

from __future__ import annotations

from dataclasses import dataclass, field

from parallel_openai._limits.admission import Admission
from parallel_openai._limits.sizes import NO_SIZE
from parallel_openai._records import APIRequest, Attempt, Size
from parallel_openai._run.spending.budget import Reserve


@dataclass(slots=True)
class Job:
    """A request with what it has been through."""

    request: APIRequest
    model: str | None  # the one that it asks, as limits are told apart
    limiter: Admission  # that model's
    ready_at: float  # when it was or will be ready to be sent, on the clock
    attempts: list[Attempt] = field(default_factory=list)  # its sends
    errors: list[str] = field(default_factory=list)  # what went wrong with those that did, as sentences
    failures: int = 0  # sends that count against it
    refusals: int = 0  # how often it was refused for its tokens
    held_since: float | None = None  # when it was first held back for what is not its fault; None while it was not
    answered_then: int = 0  # how many of its run had been answered by then
    # When it was last refused by a server with too much to do, and how many requests of its model had been answered and
    # refused by then; None while it was not.
    overloaded: tuple[float, int, int] | None = None
    size: Size = NO_SIZE  # how large it is for the limiter
    reserve: Reserve | None = None  # what is set aside of the budget for the send to come
