"""The failures of single parts: how often each is checked again, and the message about it."""

from __future__ import annotations

import time
from collections.abc import Callable

from parallel_openai._batch.batch_state import Failure, Part
from parallel_openai.errors import BatchError, PermissionDeniedError, RunStoppedError


class LostError(BatchError):
    """The part's batch or files no longer exist, according to the server or the disk."""


class UnavailableError(BatchError):
    """The server failed for the moment, after all attempts."""


class IncompleteError(BatchError):
    """A batch has ended, but its files do not contain all its rows."""


#: Errors of a single part, which say nothing about the others.
PART_ERRORS = (LostError, UnavailableError, IncompleteError, PermissionDeniedError)
#: Checks of a batch that the server does not know, and of one whose files are incomplete. The waits in between double,
#: up to `poll_seconds`, so the latter takes some ten minutes with the default of 60 s.
MAX_LOST_CHECKS, MAX_INCOMPLETE_CHECKS = 3, 16


class PartFailures:
    """Decides when a part whose check failed is checked again.

    Args:
        poll_seconds: the longest wait between two checks.
        max_wait: seconds to keep retrying while the server is unavailable.
        wait: False: give up after three checks in any case.
    """

    def __init__(
        self, poll_seconds: float, max_wait: float, *, wait: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._poll_seconds, self._max_wait, self._wait, self._clock = poll_seconds, max_wait, wait, clock

    def add(self, part: Part, error: RunStoppedError, *, final: bool = False) -> None:
        """Record a failure and decide when to check the part again, if at all."""
        now = self._clock()
        checks, began = (0, now) if part.failure is None else (part.failure.checks, part.failure.began)
        # An unavailable server is retried by time alone, not by number of checks.
        checks += not self._wait or not isinstance(error, UnavailableError)
        wait = min(self._poll_seconds, 2.0 ** max(0, checks - 1))
        part.failure = Failure(error, checks, began, now + wait, final or self._is_enough(error, checks, began))

    def is_due(self, part: Part) -> bool:
        return part.failure is None or not (part.failure.is_over or self._clock() < part.failure.due)

    def _is_enough(self, error: RunStoppedError, checks: int, began: float) -> bool:
        if isinstance(error, (LostError, PermissionDeniedError)) or not self._wait:
            return checks >= MAX_LOST_CHECKS
        if isinstance(error, IncompleteError):
            return checks >= MAX_INCOMPLETE_CHECKS
        return not isinstance(error, UnavailableError) or self._clock() - began > self._max_wait


def advice_on(part: Part, journal: object) -> str | None:
    """What is wrong with a part and what to do; None if nothing is or it is checked again in this call."""
    if part.failure is None or not part.failure.is_over:
        return None
    why = f"{str(part.failure.error).removesuffix('.')}."
    return (
        f"{why} It is not checked again in this call, but by the next. po.collect_batches({str(journal)!r}, "
        f"forget={part.batch_id or part.name!r}) gives it up; its {part.requests:,} rows may then be sent, and billed, "
        "again."
    )
