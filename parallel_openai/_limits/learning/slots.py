"""How many requests a server takes at once, where it refuses more whatever the pace."""

from __future__ import annotations

from typing import Literal

INFINITY = float("inf")
#: A refusal that asks all to wait for longer than so many seconds is worth the experiment.
LONG_WAIT = 2.0
#: It ends so many seconds before the wait does: a server that rounds them up takes requests again by then.
ROUNDED_UP = 1.0
#: So many requests that are taken while all were to wait show that the server was full, and not the rate used up.
PROOF = 3
#: Without it, so many refusals at the same number in flight show it, if one less was taken between them and never as
#: many. Larger numbers than this are near each other by chance too, where a rate refuses.
ALIKE = 3
FEW_ENOUGH = 16
#: A refusal with no more in flight than the server takes may be a matter of milliseconds. So many of them, less one
#: for each so many answers, and it takes less. With fewer in flight than this share, it is for another reason; so it is
#: where it takes less and less so many times in a row.
DOUBTS = 2.0
FORGIVEN_BY = 20.0
FEW = 0.5
MOST_DROPS = 3
#: One more is tried after so many answers for each that is taken; twice as many after each time that it was refused.
FIRST_LOOK, LAST_LOOK = 2.0, 64.0


class Slots:
    """Told from a rate by an experiment: when an answer comes back while all are to wait, one request goes out.

    A server that was full takes it, and one that refuses for a rate's sake does not. The experiment is made more and
    more seldom where it fails. Where nobody is to wait for long, it takes some refusals more to see what they have in
    common.

    >>> slots = Slots()
    >>> slots.suspect(in_flight=5, left=4, at=1.0, wait=60.0)
    >>> slots.tries(in_flight=4, now=1.1), slots.tries(in_flight=3, now=1.2)
    (False, True)
    >>> for now in (1.2, 1.3, 1.4):
    ...     slots.sent(); slots.accepted(in_flight=4, at=now)
    >>> slots.proven, slots.level
    (True, 4)
    """

    __slots__ = (
        "_accepted",
        "_alike",
        "_began",
        "_calm",
        "_doubts",
        "_drops",
        "_extra",
        "_failures",
        "_full",
        "_look",
        "_most",
        "_refused",
        "_skip",
        "_step",
        "_tried",
        "_until",
        "level",
        "proven",
    )

    def __init__(self) -> None:
        self.level = INFINITY  # how many are taken at once; infinite while nothing speaks for it
        self.proven = False  # whether it is certain
        self._began = self._until = -INFINITY  # of the experiment
        self._tried = self._accepted = 0
        self._failures = self._skip = 0
        self._alike = 0  # refusals in a row at the same number in flight
        self._refused = 0  # in flight at the last of them
        self._most = 0  # taken at once, by the answers since then
        self._full = INFINITY  # in flight at the last refusal, until an answer comes back
        self._doubts = self._calm = 0.0
        self._look, self._step, self._extra, self._drops = FIRST_LOOK, 1, 0, 0

    @property
    def room(self) -> float:
        """How many may be in flight."""
        return min(self.level + self._extra, self._full) if self.proven else INFINITY

    def suspect(self, in_flight: int, *, left: int, at: float, wait: float) -> None:
        """All are to wait, for so many seconds, since one was refused that had so many in flight, itself among them.

        So many are left, and the refusal came in at that moment.
        """
        if not left or in_flight < 2:
            self._alike = 0
            return
        self._compare(in_flight)
        if self._alike >= ALIKE + self._failures:
            self._begin(in_flight - 1, at, at)
            self.proven = True
        elif wait > LONG_WAIT and not self._skip:
            self._begin(left, at, at + wait - ROUNDED_UP)
        elif wait > LONG_WAIT:
            self._skip -= 1

    def tries(self, in_flight: int, now: float) -> bool:
        """Whether one may go out for the experiment's sake, though all are to wait: one, and two for each taken."""
        return self.is_tried(now) and in_flight < self.level and self._tried <= 2 * self._accepted

    def is_tried(self, now: float) -> bool:
        """Whether the experiment is under way."""
        return not self.proven and now < self._until

    def sent(self) -> None:
        """A request goes out."""
        self._tried += 1

    def accepted(self, in_flight: int, at: float) -> None:
        """A request was taken that went out at that moment, with so many in flight, itself among them."""
        self._full = INFINITY
        self._most = max(self._most, in_flight)
        if self.proven:
            self._look_up(in_flight)
        elif self._began < at < self._until:
            self._accepted += 1
            self.proven = self._accepted >= PROOF

    def refused(self, in_flight: int, *, at: float, left: int) -> Literal["slots", "experiment"] | None:
        """What explains a refusal, after which so many are left in flight: the slots, or that it was the experiment."""
        if self.proven:
            return "slots" if self._explains(in_flight, left) else None
        if at <= self._began:  # on its way with the one that is known
            self.level = max(1, min(self.level, left))
            return None
        was_tried, self._until = at < self._until, -INFINITY
        if not was_tried:
            return None
        self._failures += 1
        self._skip = 2**self._failures - 1
        return "experiment"

    def _begin(self, level: int, began: float, until: float) -> None:
        self.level, self.proven, self._full = level, False, INFINITY
        self._began, self._until = began, until
        self._tried = self._accepted = 0
        self._doubts = self._calm = 0.0
        self._look, self._step, self._extra, self._drops = FIRST_LOOK, 1, 0, 0

    def _compare(self, in_flight: int) -> None:
        alike = in_flight == self._refused and in_flight - 1 == self._most and in_flight <= FEW_ENOUGH
        self._alike = self._alike + 1 if alike else 1
        self._refused, self._most = in_flight, 0

    def _explains(self, in_flight: int, left: int) -> bool:
        self._calm = 0.0
        if not left or in_flight <= FEW * self.level:
            return False
        self._full = max(1, left)
        if in_flight > self.level:
            if self._extra:
                self._extra, self._step = 0, 1
                self._look = min(LAST_LOOK, 2.0 * self._look)
            return True
        self._doubts += 1.0
        if self._doubts < DOUBTS:
            return True
        self.level, self._doubts, self._extra = max(1, min(self.level - 1, left)), 0.0, 0
        self._drops += 1
        if self._drops >= MOST_DROPS:
            self._failures += 1
            self.level, self.proven, self._full = INFINITY, False, INFINITY
        return self.proven

    def _look_up(self, in_flight: int) -> None:
        self._doubts = max(0.0, self._doubts - 1.0 / FORGIVEN_BY)
        if self._extra and in_flight > self.level:
            self.level, self._extra, self._calm = min(in_flight, self.level + self._extra), 0, 0.0
            self._step *= 2
            self._look = max(FIRST_LOOK, self._look / 2)
            return
        self._calm += 1.0
        if self._calm >= self._look * self.level:
            self._extra, self._calm, self._drops = self._step, 0.0, 0
