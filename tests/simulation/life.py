"""What a seed draws: the question, the account, what goes wrong, and how each call of it ends."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, Literal

Verb = Literal["process", "label", "embed", "file"]
#: What the server or the network does to a request. Those of the second line come after the work was done and billed.
BEFORE_WORK = ("500", "502", "503", "429", "529", "reset", "refused")
AFTER_WORK = ("lost", "hang", "cut_off", "html", "nothing", "truncated", "off_label", "no_usage", "late_headers")
STOPS = ("cancel", "cancel_twice", "deadline", "kill", "full_disk", "suspend")
#: Tokens that an answer may have.
CAP = 40
LABELS = ("pro", "con", "neither")


@dataclass(frozen=True)
class Call:
    """One call: what ends it early, when, and whether the server is kind.

    Attributes:
        stop: one of `STOPS`, or None.
        at: seconds after which it comes; of a kill the loop's turn, of a full disk the bytes that it still takes.
        faults: the probability of each fault.
        down: from when to when the server answers 503 to all, in seconds since the call began.
    """

    stop: str | None = None
    at: float = 0.0
    faults: dict[str, float] = field(default_factory=dict)
    down: tuple[float, float] | None = None


@dataclass(frozen=True)
class Life:
    """One question, asked until it is answered."""

    seed: int
    verb: Verb
    texts: list[str | None]
    samples: int = 1
    repair: bool = False
    limits: dict[str, Any] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    latency: float = 0.5
    sigma: float = 0.4
    budget: dict[str, Any] = field(default_factory=dict)
    second: Literal["same client", "same journal"] | None = None
    torn: bool = False
    calls: list[Call] = field(default_factory=list)


def draw(seed: int) -> Life:
    """The life of a seed.

    >>> draw(7) == draw(7)
    True
    """
    lot = random.Random(seed)
    verb: Verb = lot.choice(("process", "process", "label", "embed", "file"))
    is_chat = verb in ("process", "label")
    calls = [_call(lot, last=number > 2) for number in range(lot.choice((0, 1, 1, 2, 2)))]
    return Life(
        seed=seed,
        verb=verb,
        texts=_texts(lot),
        samples=lot.choice((1, 1, 1, 2, 3)) if is_chat else 1,
        repair=is_chat and lot.random() < 0.3,
        limits=_limits(lot),
        given={"max_concurrent_requests": lot.choice((1, 3, 20, 200))} if lot.random() < 0.7 else {},
        latency=lot.choice((0.05, 0.5, 2.0)),
        sigma=lot.choice((0.0, 0.4, 1.5)),
        budget=_budget(lot) if verb != "file" or lot.random() < 0.5 else {},
        second=lot.choice((None, None, None, None, "same client", "same journal")) if is_chat else None,
        torn=lot.random() < 0.3,
        calls=calls,
    )


def _texts(lot: random.Random) -> list[str | None]:
    rows = lot.choice((1, 3, 12, 30, 60))
    kinds = lot.choice((rows, max(1, rows // 2)))  # half of them ask what others do
    texts: list[str | None] = [
        f"Row {lot.randrange(kinds)} of {kinds}{lot.choice(('', ' ', '.'))}" for _ in range(rows)
    ]
    for _ in range(lot.choice((0, 0, 1, 3))):
        texts[lot.randrange(rows)] = lot.choice(
            (None, "huge " * 400, "half an emoji \U0001f642", "line\nbreak", "{braces}")
        )
    return texts


def _limits(lot: random.Random) -> dict[str, Any]:
    """Of the account, as the simulator's settings name them."""
    if lot.random() < 0.3:
        return {"max_requests_per_minute": None}
    return {
        "max_requests_per_minute": lot.choice((60, 600, 3000)),
        "max_tokens_per_minute": lot.choice((None, 20_000, 200_000)),
        "burst_seconds": lot.choice((60.0, 60.0, 1.0)),
        "start_level": lot.choice((1.0, 1.0, 0.0)),
        "window": lot.choice(("bucket", "bucket", "sliding", "fixed")),
        "headers": lot.choice(("enforced", "enforced", "minute", "none")),
        "retry_after": lot.choice(("seconds", "exact", "none")),
        "charge_refused": lot.random() < 0.3,
    }


def _budget(lot: random.Random) -> dict[str, Any]:
    chosen = lot.random()
    if chosen < 0.15:
        return {"budget_tokens": lot.choice((200, 1000, 5000))}
    return {"budget_usd": lot.choice((0.00005, 0.0005))} if chosen < 0.3 else {}


def _call(lot: random.Random, *, last: bool) -> Call:
    faults = {
        name: lot.choice((0.02, 0.1, 0.3))
        for name in (*BEFORE_WORK, *AFTER_WORK)
        if lot.random() < lot.choice((0.0, 0.1, 0.3))
    }
    stop = lot.choice((None, *STOPS))
    at: float = lot.choice((0.0, 0.3, 1.0, 3.0, 20.0)) * lot.random()
    if stop == "kill":
        at = int(lot.choice((30, 100, 400, 2000)) * lot.random()) + 1
    elif stop == "full_disk":
        at = int(lot.choice((0, 500, 3000, 20_000)) * lot.random())
    down = (start := 10 * lot.random(), start + lot.choice((5, 60, 200))) if lot.random() < 0.15 else None
    return Call(stop, at, faults, down)
