"""The lanes of a run, and the options of the Batch API's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from parallel_openai._arguments import check_count
from parallel_openai._run.lane import RayLane
from parallel_openai.errors import InvalidInputError

#: The Batch API's limits for one input file.
MAX_REQUESTS = 50_000
MAX_BYTES = 200 * 10**6


@dataclass(frozen=True)
class BatchLane:
    """How a run goes through the Batch API: half the price, within a day. Pass it as `lane=`, like `"batch"`.

    Attributes:
        rounds: how often a row is submitted at most, if it expired or failed in earlier batches.
        then: what happens to a row after that: `fail`, or `online`: it is sent online, at the usual price.
        wait: whether the call waits for the batches. False: it submits them and returns, with the rows `cancelled`
            and `error_code` `in_batch`; the same call later resumes from there.
        max_requests: the most requests in one batch; OpenAI allows 50,000.
        max_bytes: the most bytes in one batch's file; OpenAI allows 200,000,000.
        max_queued_tokens: the most prompt tokens in one batch; None: no limit. OpenAI limits the tokens queued for a
            model. That limit is learned from its first refusal, so this option only avoids that one.
        poll_seconds: the most seconds between two checks of a batch; at first they are more frequent.

    Raises:
        InvalidInputError: a number is out of range.

    >>> BatchLane(rounds=1, then="online").then
    'online'
    >>> BatchLane(rounds=0)
    Traceback (most recent call last):
        ...
    parallel_openai.errors.InvalidInputError: rounds must be a whole number above 0, not 0.
    """

    rounds: int = 3
    then: Literal["fail", "online"] = "fail"
    wait: bool = True
    max_requests: int = MAX_REQUESTS
    max_bytes: int = MAX_BYTES
    max_queued_tokens: int | None = None
    poll_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name in ("rounds", "max_requests", "max_bytes", "max_queued_tokens"):
            if name != "max_queued_tokens" or self.max_queued_tokens is not None:
                check_count(getattr(self, name), name)
        if isinstance(self.poll_seconds, bool) or not self.poll_seconds > 0:
            raise InvalidInputError(f"poll_seconds must be a number above 0, not {self.poll_seconds!r}.")
        if self.then not in ("fail", "online"):
            raise InvalidInputError(f"then must be 'fail' or 'online', not {self.then!r}.")


Lane = Literal["online", "batch", "flex", "ray"] | BatchLane | RayLane
_NAMES = ("online", "batch", "flex", "ray")


def check_lane(
    lane: Any, params: Mapping[str, Any], deadline: float | None, repair: bool | int, resubmit: bool
) -> BatchLane | None:
    """The options of a run through the Batch API; None for another lane.

    >>> check_lane("batch", {}, None, False, False).rounds
    3
    >>> check_lane("slow", {}, None, False, False)
    Traceback (most recent call last):
        ...
    parallel_openai.errors.InvalidInputError: No lane is called 'slow': it is online, batch, flex or ray.
    """
    if not isinstance(lane, (BatchLane, RayLane)) and lane not in _NAMES:
        raise InvalidInputError(f"No lane is called {lane!r:.200}: it is online, batch, flex or ray.")
    if lane in ("online", "ray") or isinstance(lane, RayLane):
        return None
    if "service_tier" in params:
        raise InvalidInputError(f"service_tier={params['service_tier']!r} and lane= both choose how to send; give one.")
    if lane == "flex":
        return None
    if deadline is not None:
        raise InvalidInputError(
            "The Batch API, which answers within a day, does not support deadline=. Interrupt the call when it has "
            "lasted long enough, or pass lane=BatchLane(wait=False); the same call later resumes from there."
        )
    if repair:
        raise InvalidInputError(
            "The Batch API, which answers within a day, does not support repair=. Leave it out, and run the same call "
            "with lane='online' and repair= afterwards: it sends only the rows without a valid answer."
        )
    if resubmit:
        raise InvalidInputError(
            "resubmit=True sends requests in batches again, and lane='batch' waits for the batches: give one of them. "
            "To start over, cancel the running batches with po.cancel_batches()."
        )
    return lane if isinstance(lane, BatchLane) else BatchLane()


def sure_tier(lane: Lane) -> str | None:
    """The tier at whose price every answer is billed; None if some may be billed at the usual one."""
    if isinstance(lane, BatchLane):
        return "batch" if lane.then == "fail" else None
    return "batch" if lane == "batch" else None
