"""Which parts wait since the server's queue of enqueued tokens is full, as its refusals tell."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from parallel_openai._batch.batch_state import Part
from parallel_openai._batch.submitting.divide import Divider

_LIMIT = re.compile(r"Limit: (\d[\d,]{0,20})(?![\d,])")


class ServerQueue:
    """The server's queue, of which each model has its own."""

    def __init__(
        self,
        parts: Sequence[Part],  # those whose answers are not all in the journal
        divider: Divider,  # is told the limits
        poll_seconds: float,
    ) -> None:
        self._parts, self._divider, self._poll_seconds = parts, divider, poll_seconds

    def must_wait(self, part: Part) -> bool:
        """Whether other parts of the model wait before it, since the queue was full."""
        others = [each for each in self._parts if each.model == part.model and each.failure is None]
        earlier = others[: others.index(part)] if part in others else []
        return any(each.batch_id is None for each in earlier) or any(
            each.submission > 1 and each.status == "validating" for each in others
        )

    def refused(self, part: Part, message: str) -> bool:
        """Let a part wait until others have left the queue; returns False if it is larger than the whole queue."""
        limit = limit_in(message)
        if limit is not None:
            self._divider.set_queue_limit(part.model, limit)
        alone = all(each is part or each.status in (None, "validating") for each in self._parts)
        if limit is not None and alone and part.submission > 3 and part.tokens <= limit:
            # Nothing else is queued and it still does not fit, so the server counts more tokens than we do.
            limit = part.tokens // 2
            self._divider.set_queue_limit(part.model, max(1, limit))
        if limit is not None and part.tokens > limit:
            return False
        part.not_before = time.monotonic() + self._poll_seconds * 2.0 ** min(part.submission - 1, 3)
        return True

    def has_room(self, model: str) -> None:
        """Let the next waiting part of a model be submitted."""
        for part in self._parts:
            if part.batch_id is None and part.model == model:
                part.not_before = 0.0
                return


def limit_in(message: str) -> int | None:
    """The limit of enqueued tokens in a server's refusal, if it names one.

    >>> limit_in("Enqueued token limit reached for gpt-4o in organization org-x. Limit: 90,000 enqueued tokens.")
    90000
    >>> limit_in("Limit: , tokens")
    """
    found = _LIMIT.search(message)
    return int(found[1].replace(",", "")) if found else None
