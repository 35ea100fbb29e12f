"""Keeps track of the failures of single parts: how often each is retried, and the message about it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from parallel_openai._batch.batch_state import Part
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


@dataclass
class _Failure:
    error: RunStoppedError
    checks: int
    began: float
    due: float
    is_over: bool = False  # not retried in this call


class PartFailures:
    """The parts whose last check failed.

    Args:
        poll_seconds: the longest wait between two checks.
        max_wait: seconds to keep retrying while the server is unavailable.
        wait: False: give up after three checks in any case.
    """

    def __init__(
        self, poll_seconds: float, max_wait: float, *, wait: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._poll_seconds, self._max_wait, self._wait, self._clock = poll_seconds, max_wait, wait, clock
        self._failures: dict[str, _Failure] = {}

    def add(self, part: Part, error: RunStoppedError, *, final: bool = False) -> None:
        """Record a failure and decide when to check the part again, if at all."""
        now = self._clock()
        before = self._failures.get(part.name) or _Failure(error, 0, now, now)
        # An unavailable server is retried by time alone, not by number of checks.
        checks = before.checks + (not self._wait or not isinstance(error, UnavailableError))
        wait = min(self._poll_seconds, 2.0 ** max(0, checks - 1))
        is_over = final or self._is_enough(error, checks, before.began)
        self._failures[part.name] = _Failure(error, checks, before.began, now + wait, is_over)

    def checks(self, part: Part) -> int:
        return self._failures[part.name].checks if part.name in self._failures else 0

    def has_failed(self, part: Part) -> bool:
        return part.name in self._failures

    def is_due(self, part: Part) -> bool:
        failure = self._failures.get(part.name)
        return failure is None or not (failure.is_over or self._clock() < failure.due)

    def is_over(self, part: Part) -> bool:
        """Whether the part is no longer checked in this call."""
        return part.name in self._failures and self._failures[part.name].is_over

    def clear(self, part: Part) -> None:
        self._failures.pop(part.name, None)

    def error(self, part: Part) -> RunStoppedError | None:
        return self._failures[part.name].error if part.name in self._failures else None

    def sentence(self, part: Part, journal: object) -> str | None:
        """What is wrong with a part and what to do; None if nothing is or it is still being retried."""
        error, name = self.error(part), part.batch_id or part.name
        if error is None or not self.is_over(part):
            return None
        why = str(error) if str(error).endswith(".") else f"{error}."
        return (
            f"{why} It is not checked again in this call, but by the next. po.collect_batches({str(journal)!r}, "
            f"forget={name!r}) gives it up; its {part.requests:,} rows may then be sent, and billed, again."
        )

    def _is_enough(self, error: RunStoppedError, checks: int, began: float) -> bool:
        if isinstance(error, (LostError, PermissionDeniedError)) or not self._wait:
            return checks >= MAX_LOST_CHECKS
        if isinstance(error, IncompleteError):
            return checks >= MAX_INCOMPLETE_CHECKS
        return not isinstance(error, UnavailableError) or self._clock() - began > self._max_wait
