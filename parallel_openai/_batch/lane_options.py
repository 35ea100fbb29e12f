"""The ways to send a run, and what can be chosen about the Batch API's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from parallel_openai._arguments import check_count
from parallel_openai._run.lane import RayLane
from parallel_openai.errors import InvalidInputError

#: The Batch API's own bounds on a file.
MOST_REQUESTS = 50_000
MOST_BYTES = 200 * 10**6


@dataclass(frozen=True)
class BatchLane:
    """How a run goes through the Batch API: half the price, within a day. Pass it as `lane=`, like `"batch"`.

    Attributes:
        rounds: how often a row is submitted at the most, if the batches before expired or failed for it.
        then: what becomes of a row after that: `fail`, or `online`: it is sent the usual way, at the usual price.
        wait: whether the call waits for the batches. False: it submits them and returns, with the rows `cancelled`
            and `error_code` `in_batch`; the same call later goes on from there.
        max_requests: requests in one batch; OpenAI takes 50,000.
        max_bytes: bytes of one batch's file; OpenAI takes 200,000,000.
        max_queued_tokens: prompt tokens of one batch; None: as many as fit. OpenAI limits what may be queued for a
            model; if the limit is met it is learned, so this spares the first refusal only.
        poll_seconds: seconds between two looks at a batch, at the most; at first they are closer together.

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
    max_requests: int = MOST_REQUESTS
    max_bytes: int = MOST_BYTES
    max_queued_tokens: int | None = None
    poll_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name in ("rounds", "max_requests", "max_bytes", "max_queued_tokens"):
            value = getattr(self, name)
            if value is None and name == "max_queued_tokens":
                continue
            check_count(value, name)
        if isinstance(self.poll_seconds, bool) or not self.poll_seconds > 0:
            raise InvalidInputError(f"poll_seconds must be a number above 0, not {self.poll_seconds!r}.")
        if self.then not in ("fail", "online"):
            raise InvalidInputError(f"then must be 'fail' or 'online', not {self.then!r}.")


Lane = Literal["online", "batch", "flex", "ray"] | BatchLane | RayLane
_NAMES = ("online", "batch", "flex", "ray")


def check_lane(
    lane: Any, params: Mapping[str, Any], deadline: float | None, repair: bool | int, resubmit: bool
) -> BatchLane | None:
    """The options of a run through the Batch API; None where it goes another way.

    Raises:
        InvalidInputError: there is no such lane, or it cannot keep what is asked of it.

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
        raise InvalidInputError(f"service_tier={params['service_tier']!r} and lane= both say how to send; give one.")
    if lane == "flex":
        return None
    if deadline is not None:
        raise InvalidInputError(
            "deadline= cannot be kept by the Batch API, which answers within a day. Interrupt the call when it has "
            "lasted long enough, or pass lane=BatchLane(wait=False); the same call later goes on from there."
        )
    if repair:
        raise InvalidInputError(
            "repair= asks once more at once, and the Batch API answers within a day. Leave it out, and run the same "
            "call with lane='online' and repair= afterwards: it asks only for what has no good answer."
        )
    if resubmit:
        raise InvalidInputError(
            "resubmit=True sends at once what waits in a batch, and lane='batch' waits for it: give one of them. To "
            "begin anew, cancel what is under way with po.cancel_batches()."
        )
    return lane if isinstance(lane, BatchLane) else BatchLane()


def sure_tier(lane: Lane) -> str | None:
    """The tier at whose price every answer will come; None where some may come at the usual one."""
    if isinstance(lane, BatchLane):
        return "batch" if lane.then == "fail" else None
    return "batch" if lane == "batch" else None
