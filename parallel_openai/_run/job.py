"""A request on its way through the runner."""

from __future__ import annotations

from dataclasses import dataclass, field

from parallel_openai._limits.admission import Admission
from parallel_openai._limits.sizes import NO_SIZE
from parallel_openai._records import APIRequest, Attempt, Size
from parallel_openai._run.spending.funds import Reserve


@dataclass(slots=True, eq=False)
class Job:
    """A request and its history."""

    request: APIRequest
    model: str | None  # the name that its limits go by
    limiter: Admission
    ready_at: float  # when it was or will be ready to be sent, on the clock
    attempts: list[Attempt] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)  # a message for each failed attempt
    failures: int = 0  # attempts that count against it
    refusals: int = 0  # refusals for its tokens or for overload, which do not
    held_since: float | None = None  # when it was first held for a reason that is not its fault
    answered_then: int = 0  # how many requests of the run had been answered by then
    # When it was last refused for overload, and how many requests of its model had been answered and refused by then.
    overloaded: tuple[float, int, int] | None = None
    waits_for_full: bool = False  # for as long as an overloaded server said, which may just be full
    size: Size = NO_SIZE
    reserve: Reserve | None = None  # the part of the budget reserved for the next send
