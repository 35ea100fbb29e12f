"""Tells requests that are too large for a server ever to accept, by the largest that it did accept."""

from __future__ import annotations

#: A request larger than any that was accepted is given up after HOPELESS refusals for its tokens in HOPELESS_SECONDS,
#: in which any window of a minute has passed. If the refusals say when to try again, it is tried for longer.
HOPELESS = 8
HOPELESS_SECONDS = 90.0
HOPELESS_SECONDS_ASKED = 600.0


class Largest:
    """The largest requests that were sent to a model.

    Attributes:
        sent: tokens of the largest prompt that was sent, unless it was refused for its tokens. While it is above a
            limit, the answer may show that the limit is none.
        accepted: tokens of the largest prompt that was accepted.
        charged: the most that an accepted request may have cost.

    >>> largest = Largest()
    >>> largest.sent, largest.accepted = 50, 40
    >>> largest.refused(50)
    >>> largest.sent
    40
    """

    __slots__ = ("accepted", "charged", "sent")

    def __init__(self) -> None:
        self.sent = self.accepted = 0
        self.charged = 0.0

    def refused(self, prompt_tokens: int) -> None:
        """Note that a prompt of so many tokens was refused for them."""
        if prompt_tokens >= self.sent:
            self.sent = self.accepted

    def is_hopeless(self, most: float, refusals: int, seconds: float, *, asked: bool) -> bool:
        """Whether a request that costs up to `most` was refused so often, over `seconds`, that waiting is no help.

        `asked` is whether the refusals say for how long to wait.
        """
        patience = HOPELESS_SECONDS_ASKED if asked else HOPELESS_SECONDS
        return refusals >= HOPELESS and seconds >= patience and most > 1.5 * self.charged
