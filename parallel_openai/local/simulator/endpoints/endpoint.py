"""What an endpoint is to the server: how a body is read, and how it is answered. One entry each in `ENDPOINTS`."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from parallel_openai.local.simulator.settings import Settings


@dataclass(frozen=True)
class Asked:
    """A body that was found valid, and what the budgets need to know of it."""

    body: dict[str, Any]
    model: str
    prompt: str
    prompt_tokens: int
    max_output: int | None = None
    n: int = 1
    stream: bool = False


@dataclass(frozen=True)
class Answer:
    """The body of a good answer, the same as server-sent events, and what it used."""

    body: dict[str, Any]
    prompt_tokens: int
    completion_tokens: int
    events: Sequence[dict[str, Any]] = field(default=())


@dataclass(frozen=True)
class Endpoint:
    """One path that answers POST.

    Attributes:
        read: checks the body; raises `Refusal` as the API would.
        answer: makes the answer from the dice, which are the same for the same body; the last argument names what
            shall be wrong with the answer (`empty`, `length`, `refusal`, `content_filter`, `off_schema`), or is None.
    """

    path: str
    read: Callable[[dict[str, Any], Settings], Asked]
    answer: Callable[[Asked, Settings, random.Random, str | None], Answer]
