"""What a seed determines: the requests, the account, the faults, and how each call ends."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Verb = Literal["process", "label", "embed", "file"]
Endpoint = Literal["chat.completions", "responses", "completions", "embeddings"]
Lane = Literal["online", "flex", "batch", "ray"]
#: What a call does: ask, waiting for batches or not; or ask at once although batches are under way; or take in or
#: cancel what is in batches.
Way = Literal["ask", "submit", "online", "collect", "cancel"]

#: What the network does to a request; before anything was answered, it says that nobody is there.
BROKEN = ("reset", "refused", "dns", "tls", "connect_timeout")
#: Of one row; and of all, as those of a row are too where they come again and again.
FINAL = ("400", "413", "422", "404", "401", "403", "quota")
BEFORE_WORK = (
    *BROKEN,
    *("408", "409", "423", "424", "425", "429", "498", "499", "500", "502", "503", "504", "520", "524", "529"),
    *("slow_down", "unavailable"),
    *FINAL,
)
#: What it does after the work was done and billed.
AFTER_WORK = (
    *("lost", "hang", "cut_off", "html", "nothing", "error_in_200", "unfinished", "slow"),
    *("truncated", "off_label", "refusal", "filtered", "no_usage", "no_logprobs"),
    *("late_headers", "stale_headers", "no_headers"),
)
#: And what only those lives meet that draw more: answers that tell a limit of 0, as where there is none; a refusal that
#: says when to come again; and rows that break the server each time.
ZERO_LIMITS, LATER, BREAKS = "zero_limits", "later", "breaks"
#: Seconds that `LATER` says.
SECONDS_LATER = 7.0
ROW_FAULTS = (
    *("row_500", "row_429", "row_missing", "row_in_no_words", "row_odd", "row_twice"),
    *("truncated", "off_label", "no_usage", "nothing", "refusal", "filtered"),
    *("expires", "fails", "line_at_fault"),
)
STOPS = ("cancel", "cancel_twice", "deadline", "kill", "full_disk", "suspend")
#: Tokens that an answer may have.
CAP = 40
LABELS = ("pro", "con", "neither")


@dataclass(frozen=True)
class Call:
    """One call: what it does, what ends it early, when, and whether the server is kind.

    Attributes:
        stop: one of `STOPS`, or `kill_at_work`, or None.
        at: seconds after which it comes; of a kill the loop's turn, or after how many works of the Batch API it comes
            before the answer does; of a full disk the bytes that it still takes.
        faults: the probability of each fault.
        down: from when to when the server refuses all, in seconds since the call began.
        wall: when the wall's clock is set, in seconds since the call began, and by how many.
        freed: when a full disk has room again, in seconds since the call began.
        down_as: how the server refuses while it is down: an HTTP status, or one of `BROKEN`.
        samples: as many as the life's or fewer; None: as many.
        deaths: when a worker of the cluster dies, in seconds since the call began.
    """

    stop: str | None = None
    at: float = 0.0
    faults: dict[str, float] = field(default_factory=dict)
    down: tuple[float, float] | None = None
    way: Way = "ask"
    wall: tuple[float, float] | None = None
    deaths: tuple[float, ...] = ()
    freed: float | None = None
    down_as: str = "503"
    samples: int | None = None


@dataclass(frozen=True)
class Batches:
    """How the Batch API is, and how it is used.

    Attributes:
        options: of the lane.
        validates, works, finalizes: seconds that a batch may stay in these states.
        queue: tokens that it holds; None: any number.
        list_delay: seconds until the list shows a new batch.
        lists_metadata: whether the list shows the batches' metadata.
        late_looks: looks at a batch that has ended which do not show its files.
        short_downloads: downloads of each file that end after half of its lines.
        row_faults: the probability of each of `ROW_FAULTS`, or that the server loses a batch or its output.
    """

    options: dict[str, Any] = field(default_factory=dict)
    validates: tuple[float, ...] = (1.0, 30.0)
    works: tuple[float, ...] = (20.0, 60.0)
    finalizes: tuple[float, ...] = (0.0, 60.0)
    queue: int | None = None
    list_delay: float = 0.0
    lists_metadata: bool = True
    late_looks: int = 0
    short_downloads: int = 0
    row_faults: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Life:
    """One question, asked until it is answered.

    Attributes:
        second: what else asks: another run beside it, or another model of the same comparison.
        torn: whether a kill takes the end of the journal along, or no more of it than the last line's end.
        shuffled: whether each call has the rows in another order.
        slots: how many requests the server takes at once; None: any number.
        full_as: the HTTP status with which it refuses more, and the seconds that it asks to wait, or None.
    """

    seed: int
    verb: Verb
    texts: list[str | None]
    endpoint: Endpoint = "chat.completions"
    lane: Lane = "online"
    batches: Batches = field(default_factory=Batches)
    samples: int = 1
    repair: bool = False
    logprobs: bool = False
    limits: dict[str, Any] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    latency: float = 0.5
    sigma: float = 0.4
    budget: dict[str, Any] = field(default_factory=dict)
    second: Literal["same client", "other model", "same journal", "compared"] | None = None
    torn: bool | Literal["newline"] = False
    shuffled: bool = False
    slots: int | None = None
    full_as: tuple[int, str | None] = (503, None)
    calls: list[Call] = field(default_factory=list)


def draw(seed: int) -> Life:
    """The life of a seed.

    >>> draw(7) == draw(7)
    True
    """
    lot = random.Random(seed)
    verb: Verb = lot.choice(("process", "process", "label", "embed", "file"))
    lane: Lane = lot.choice(("online", "online", "flex", "batch")) if verb != "embed" else "online"
    if verb == "file" and lane == "flex":
        lane = "online"
    endpoint = _endpoint(lot, verb, lane)
    is_answer = verb in ("process", "label") and endpoint != "embeddings"
    life = Life(
        seed=seed,
        verb=verb,
        texts=_texts(lot),
        endpoint=endpoint,
        lane=lane,
        batches=_batches(lot) if lane == "batch" else Batches(),
        samples=lot.choice((1, 1, 1, 2, 3)) if is_answer else 1,
        repair=is_answer and lane != "batch" and lot.random() < 0.3,
        logprobs=verb == "label" and lot.random() < 0.3,
        limits=_limits(lot),
        given={"max_concurrent_requests": lot.choice((1, 3, 20, 200))} if lot.random() < 0.7 else {},
        latency=lot.choice((0.05, 0.5, 2.0)),
        sigma=lot.choice((0.0, 0.4, 1.5, 2.5)),
        budget=_budget(lot) if verb != "file" or lot.random() < 0.5 else {},
        second=lot.choice((None,) * 6 + ("same client", "other model", "same journal")) if is_answer else None,
        torn=lot.random() < 0.3,
        calls=[_call(lot, lane) for _ in range(lot.choice((0, 1, 1, 2, 2)))],
    )
    life = _with_more(life) if seed % 5 in (0, 2) else life
    return _with_outages_and_slots(life) if seed % 9 == 4 else life


def _with_more(life: Life) -> Life:
    """What is drawn apart from the rest, so that the other seeds live the lives that they always did."""
    lot = random.Random(f"more than {life.seed}")
    compared = life.verb == "label" and life.lane == "online" and life.second is None and lot.random() < 0.4
    on_cluster = (life.verb, life.lane, life.second) in (("process", "online", None), ("label", "online", None))
    on_cluster = on_cluster and not compared and lot.random() < 0.5
    return replace(
        life,
        lane="ray" if on_cluster else life.lane,
        torn=lot.choice((life.torn, "newline")),
        shuffled=life.verb != "file" and lot.random() < 0.5,
        second="compared" if compared else life.second,
        calls=[
            replace(
                each,
                faults={**each.faults, **_more_faults(lot)},
                deaths=tuple(5 * lot.random() for _ in range(lot.choice((0, 1, 3)))) if on_cluster else (),
                freed=3 * lot.random() if each.stop == "full_disk" and life.second is None else None,
            )
            for each in life.calls
        ],
    )


def _with_outages_and_slots(life: Life) -> Life:
    """What is drawn apart once more: all kinds of outages, and slow answers among them; a server that takes so many at
    once; and calls that ask for fewer samples than the next."""
    lot = random.Random(f"outages and slots of {life.seed}")
    has_slots = life.lane != "batch" and lot.random() < 0.5
    samples = sorted(lot.choices(range(1, life.samples + 1), k=len(life.calls)))
    return replace(
        life,
        slots=lot.choice((1, 4, 30)) if has_slots else None,
        full_as=lot.choice(((503, None), (429, None), (429, "1"), (429, "20"))),
        calls=[
            replace(_call_with_outage(each, lot, has_slots=has_slots), samples=few)
            for each, few in zip(life.calls, samples, strict=True)
        ],
    )


def _call_with_outage(call: Call, lot: random.Random, *, has_slots: bool) -> Call:
    start = 10 * lot.random()
    faults = {**call.faults, **({"slow": 0.3} if lot.random() < 0.5 else {})}
    if has_slots:  # to which each answer says that one is free
        faults.pop(LATER, None)
    return replace(
        call,
        faults=faults,
        down=(start, start + lot.choice((5, 60, 200))) if lot.random() < 0.5 else call.down,
        down_as=lot.choice(("502", "503", "529", "408", "429", *BROKEN)),
    )


def _more_faults(lot: random.Random) -> dict[str, float]:
    return {name: lot.choice((0.1, 0.3)) for name in (ZERO_LIMITS, LATER, BREAKS) if lot.random() < 0.3}


def _endpoint(lot: random.Random, verb: Verb, lane: Lane) -> Endpoint:
    if verb == "embed" or (verb == "process" and lane == "batch" and lot.random() < 0.2):
        return "embeddings"
    others: tuple[Endpoint, ...] = ("responses",) if verb == "label" else ("responses", "completions")
    endpoint = lot.choice(others) if lot.random() < 0.3 else "chat.completions"
    # A line with an input goes to the embeddings, where no URL says otherwise.
    return "completions" if verb == "file" and endpoint == "responses" else endpoint


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


def _batches(lot: random.Random) -> Batches:
    faults = _faults(lot, ROW_FAULTS)
    for name in ("batch_lost", "output_lost"):
        if lot.random() < 0.05:
            faults[name] = 0.3
    works: tuple[float, ...] = lot.choice(((5.0,), (20.0, 60.0), (300.0,)))
    return Batches(
        options={
            "rounds": lot.choice((1, 2, 3)),
            "then": lot.choice(("fail", "fail", "online")),
            "max_requests": lot.choice((50_000, 50_000, 5)),
            "poll_seconds": lot.choice((1.0, 20.0, 60.0)),
        },
        works=works,
        queue=lot.choice((None, None, 500, 2000)),
        list_delay=lot.choice((0.0, 2.0, 8.0)),
        lists_metadata=lot.random() < 0.7,
        late_looks=lot.choice((0, 0, 2)),
        short_downloads=lot.choice((0, 0, 0, 1, 3)),
        row_faults=faults,
    )


def _faults(lot: random.Random, names: tuple[str, ...]) -> dict[str, float]:
    """Some of them; those that end a whole call come seldom."""
    chosen = lot.sample(names, lot.choice((0, 0, 1, 2, 4, 6)))
    seldom = ("401", "403", "404", "quota", "unavailable")
    return {name: lot.choice((0.01,) if name in seldom else (0.02, 0.1, 0.3)) for name in chosen}


def _call(lot: random.Random, lane: Lane) -> Call:
    stop = lot.choice((None, *STOPS))
    at: float = lot.choice((0.0, 0.3, 1.0, 3.0, 20.0)) * lot.random()
    if lane == "batch":
        at *= lot.choice((1, 1, 200))
        stop = None if stop == "deadline" else stop  # which no batch can keep
    if lane == "batch" and stop == "kill" and lot.random() < 0.5:
        stop, at = "kill_at_work", lot.choice((0, 1, 1, 2, 3, 5))
    elif stop == "kill":
        at = int(lot.choice((30, 100, 400, 2000)) * lot.random()) + 1
    elif stop == "full_disk":
        at = int(lot.choice((0, 500, 3000, 20_000)) * lot.random())
    down = (start := 10 * lot.random(), start + lot.choice((5, 60, 200))) if lot.random() < 0.15 else None
    wall = (5 * lot.random(), lot.choice((-86_400.0, -3600.0, 3600.0, 86_400.0))) if lot.random() < 0.15 else None
    ways: tuple[Way, ...] = ("ask", "ask", "submit", "submit", "online", "collect", "cancel")
    way = lot.choice(ways) if lane == "batch" else "ask"
    return Call(stop, at, {**_faults(lot, BEFORE_WORK), **_faults(lot, AFTER_WORK)}, down, way, wall)
