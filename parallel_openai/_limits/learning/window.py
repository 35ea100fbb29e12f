"""How many requests may be in flight while no limit is known, and after a server has refused many in a row."""

from __future__ import annotations

INFINITY = float("inf")
#: Requests in flight before the server has answered anything: enough to learn from, too few to hurt.
FIRST_WINDOW = 4.0
#: That window grows by one with each answer up to FAST_WINDOW, and more slowly from there: the more requests are in
#: flight when the server's bucket runs dry, the more are refused.
FAST_WINDOW = 64.0
SLOW_GROWTH = 0.2
#: How many more may be in flight for each second that passes without a known limit, as models may be slow to answer.
WINDOW_GROWTH = 4.0
#: Seconds of the first and the longest pause after refusals that do not say for how long.
FIRST_HOLD = 0.5
LONGEST_HOLD = 60.0
#: After this many refusals without an answer in between, requests are sent one at a time until an answer comes, and
#: then as many as the window holds, which grows with each answer.
BREAKER = 50


def hold_after(refusals_in_a_row: int) -> float:
    """Seconds to pause after a refusal that does not say for how long: twice as many after each BREAKER in a row."""
    return min(LONGEST_HOLD, FIRST_HOLD * 2.0 ** min(refusals_in_a_row // BREAKER, 10))


class Window:
    """The requests that may be in flight, which each answer raises by one and each refusal lowers by one.

    Attributes:
        is_recovering: whether the window holds even if a limit is known, since the server refused BREAKER in a row and
            has not yet answered with as many in flight as before.

    >>> window = Window()
    >>> window.answered(worked=True)
    >>> window.seconds_until_room(5, now=1.0), window.seconds_until_room(5, now=1.25)
    (0.25, 0.0)
    """

    __slots__ = ("_began", "_fast", "_in_a_row", "_recovers_to", "_round_at", "_rounds", "is_recovering", "size")

    def __init__(self) -> None:
        self.size = FIRST_WINDOW
        self.is_recovering = False
        self._fast = FAST_WINDOW  # the size up to which each answer adds one to it
        self._recovers_to = 0  # the size at which the server has recovered
        self._in_a_row = 0  # refusals since the last answer
        self._rounds, self._round_at = 0, 0.0  # the same, but one for all that were in flight together
        self._began: float | None = None

    def answered(self, *, worked: bool) -> None:
        """Learn that no limit refused a request; but if the server has not `worked` for it, that proves no room."""
        self._in_a_row = self._rounds = 0
        if self.is_recovering and self.size >= self._recovers_to:
            self.is_recovering, self._recovers_to, self._fast = False, 0, FAST_WINDOW
        if worked:
            self.size += 1.0 if self.size < self._fast else SLOW_GROWTH

    def refused(self, in_flight: int, *, at: float, now: float) -> float:
        """Learn that a request sent at the time `at`, with `in_flight` in flight (itself included), was refused.

        Returns the seconds to pause if the server does not say for how long.
        """
        self._in_a_row += 1
        if at >= self._round_at:
            self._rounds, self._round_at = self._rounds + 1, now
        # Only an answer makes room for another one.
        self.size = max(1.0 if self.is_recovering else FIRST_WINDOW, self.size - 1.0)
        if self._in_a_row >= BREAKER:
            self.is_recovering = True
            self.size, self._recovers_to, self._fast = 1.0, max(self._recovers_to, in_flight), INFINITY
        elif self.is_recovering:
            self._fast = min(self._fast, self.size)
        # What was in flight together makes it twice as long at the most.
        return hold_after(min(self._in_a_row, BREAKER + self._rounds))

    def seconds_until_room(self, in_flight: int, now: float) -> float:
        """Seconds until one more may be in flight than fill the window, which grows while it is full; 0 for none."""
        if self._began is None:
            self._began = now
        room = self.size + WINDOW_GROWTH * (now - self._began)
        return (in_flight + 1 - room) / WINDOW_GROWTH if in_flight >= room else 0.0

    def begin(self, now: float) -> None:
        """Begin anew: what was learned before counts no more."""
        self.size, self._began = FIRST_WINDOW, now
