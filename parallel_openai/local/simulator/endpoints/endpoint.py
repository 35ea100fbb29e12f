"""What the server needs of an endpoint: how to parse a body and how to answer it. Each is listed in `ENDPOINTS`."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from parallel_openai.local.simulator.settings import Settings


@dataclass(frozen=True)
class ParsedBody:
    """A valid body, with what the budgets need of it."""

    body: dict[str, Any]
    model: str
    prompt: str
    prompt_tokens: int
    max_output: int | None = None
    n: int = 1
    stream: bool = False


@dataclass(frozen=True)
class Answer:
    """The body of a successful answer, the same as server-sent events, and its usage."""

    body: dict[str, Any]
    prompt_tokens: int
    completion_tokens: int
    events: Sequence[dict[str, Any]] = field(default=())


@dataclass(frozen=True)
class Endpoint:
    """One path that accepts POST."""

    path: str
    read: Callable[[dict[str, Any], Settings], ParsedBody]  # validates the body; raises `Refusal`
    # Makes the answer with a generator seeded from the body; the last argument is a flaw to give the answer (`empty`,
    # `length`, `refusal`, `content_filter`, `off_schema`), or None.
    answer: Callable[[ParsedBody, Settings, random.Random, str | None], Answer]


def service_tier(body: dict[str, Any]) -> str:
    tier = body.get("service_tier")
    return tier if tier in ("flex", "priority") else "default"
