"""What goes wrong with one part of a run while the others go on: how often it is tried again, and what is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from parallel_openai._batch.batch_state import Part
from parallel_openai.errors import BatchError, PermissionDeniedError, RunStoppedError


class LostError(BatchError):
    """Of this part nothing more can be had, as far as the server or the disk says."""


class NotNowError(BatchError):
    """The server did not do it at the moment."""


class NotWholeError(BatchError):
    """A batch has ended, and its files do not say of all its rows what became of them."""


#: What concerns one part, while others may do well.
OF_A_PART = (LostError, NotNowError, NotWholeError, PermissionDeniedError)
#: Looks at a batch that the server does not know, and at one whose files are not whole. The waits in between double, up
#: to `poll_seconds`, so the latter is some ten minutes with the usual 60 s.
LOST_LOOKS, SHORT_LOOKS = 3, 16


@dataclass
class _Trouble:
    error: RunStoppedError
    looks: int
    began: float
    due: float
    is_over: bool = False  # it is not tried again in this call


class PartFailures:
    """The parts that something is wrong with.

    Args:
        poll_seconds: the longest wait between two looks.
        max_wait: seconds for what the server does not do at the moment.
        patient: False: three looks must do in any case.
    """

    def __init__(
        self, poll_seconds: float, max_wait: float, *, patient: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._poll_seconds, self._max_wait, self._patient, self._clock = poll_seconds, max_wait, patient, clock
        self._of: dict[str, _Trouble] = {}

    def add(self, part: Part, error: RunStoppedError, *, final: bool = False) -> None:
        """Something went wrong: it is looked at again later, or was looked at often enough."""
        now = self._clock()
        before = self._of.get(part.name) or _Trouble(error, 0, now, now)
        # What the server does not do at the moment is measured by time alone.
        looks = before.looks + (self._patient is False or not isinstance(error, NotNowError))
        wait = min(self._poll_seconds, 2.0 ** max(0, looks - 1))
        is_over = final or self._is_enough(error, looks, before.began)
        self._of[part.name] = _Trouble(error, looks, before.began, now + wait, is_over)

    def looks(self, part: Part) -> int:
        """How often it went wrong."""
        return self._of[part.name].looks if part.name in self._of else 0

    def is_in_trouble(self, part: Part) -> bool:
        return part.name in self._of

    def is_due(self, part: Part) -> bool:
        trouble = self._of.get(part.name)
        return trouble is None or not (trouble.is_over or self._clock() < trouble.due)

    def is_over(self, part: Part) -> bool:
        """Whether it is not looked at any more in this call."""
        return part.name in self._of and self._of[part.name].is_over

    def clear(self, part: Part) -> None:
        self._of.pop(part.name, None)

    def error(self, part: Part) -> RunStoppedError | None:
        return self._of[part.name].error if part.name in self._of else None

    def sentence(self, part: Part, journal: object) -> str | None:
        """What is wrong with a part, and what can be done; None if nothing is, or it may mend itself."""
        error, name = self.error(part), part.batch_id or part.name
        if error is None or not self.is_over(part):
            return None
        why = str(error) if str(error).endswith(".") else f"{error}."
        return (
            f"{why} It is left as it is, and the same call looks at it again. po.collect_batches({str(journal)!r}, "
            f"forget={name!r}) gives it up, and then its {part.requests:,} rows may be asked, and paid for, once more."
        )

    def _is_enough(self, error: RunStoppedError, looks: int, began: float) -> bool:
        if isinstance(error, (LostError, PermissionDeniedError)) or not self._patient:
            return looks >= LOST_LOOKS
        if isinstance(error, NotWholeError):
            return looks >= SHORT_LOOKS
        return not isinstance(error, NotNowError) or self._clock() - began > self._max_wait
