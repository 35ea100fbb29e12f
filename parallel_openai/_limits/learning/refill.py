"""Bounds the rate at which a bucket refills, by its refusals. If the bounds contradict, there is no bucket."""

from __future__ import annotations

from dataclasses import dataclass

from parallel_openai._limits.learning.bucket_state import BucketState

INFINITY = float("inf")
#: At most this many refusals are compared with each other, none older than REMEMBERED_SECONDS.
COMPARED = 12
REMEMBERED_SECONDS = 30.0
#: Only refusals whose distance is in this range, in seconds, are compared. Closer ones may have been judged in another
#: order; more distant ones say little, as a full bucket loses its refill.
SHORTEST_SPAN, LONGEST_SPAN = 0.1, 5.0
#: A client that sent less than this share of what it sends by now may have let the bucket run over meanwhile.
PRESSED = 0.5
#: Of what is sent just after a request, hardly more than this share arrives before it.
OVERTAKE = 0.8


@dataclass(slots=True)
class _Refusal:
    mark: BucketState
    held: float  # seconds that the client had been held in all by then
    pace: float  # that it was sent at, per second; 0 while unknown
    late: float = 0.0  # of what was sent after this one and before its refusal was known: what was refused too
    taken: float = 0.0  # and what was accepted
    least: float = 0.0  # the lowest rate that explains this

    @property
    def after(self) -> float:
        """What was sent just after this one, and may have arrived before it."""
        return self.mark.bunch.sent - self.mark.sent

    @property
    def before(self) -> float:
        """What was sent just before this one, and may have arrived after it."""
        return self.mark.bunch.total - self.mark.cost - self.after


class Refill:
    """Bounds on the refill rate. A bucket that refuses is empty, and until it refuses again it accepts just its refill.

    So any two refusals bound the rate to within one request, whatever the bucket holds and however fast we send.

    Attributes:
        lowest, highest: the bounds, per second.

    >>> def mark(at, number):
    ...     bunch = Bunch(at, 1.0, number)
    ...     return BucketState(at=at, cost=1.0, ledger=0.0, fill=0.0, sent=number, bunch=bunch, number=number)
    >>> from parallel_openai._limits.learning.bucket_state import Bunch
    >>> refill = Refill()
    >>> for at, number in ((0.0, 10), (1.0, 15), (2.0, 20)):  # four are taken in each second
    ...     refill.refused(mark(at, number), held=0.0)
    >>> refill.lowest, refill.highest, refill.is_contradicted
    (3.5, 4.5, False)
    >>> refill.refused(mark(2.5, 40), held=0.0)  # and then nineteen in half a second
    >>> refill.is_contradicted
    True
    """

    __slots__ = ("_refusals", "highest", "lowest")

    def __init__(self) -> None:
        self.lowest, self.highest = 0.0, INFINITY
        self._refusals: list[_Refusal] = []

    @property
    def is_contradicted(self) -> bool:
        """Whether no bucket can have refused like this."""
        return self.lowest > self.highest

    def refused(self, mark: BucketState, held: float, pace: float = 0.0) -> None:
        """Note a refusal at that pace (0: unknown), by when the client had been held for so many seconds in all."""
        recent = [each for each in self._refusals[1 - COMPARED :] if each.mark.at > mark.at - REMEMBERED_SECONDS]
        self._refusals = sorted([*recent, _Refusal(mark, held, pace)], key=lambda each: each.mark.sent)
        self.lowest, self.highest = 0.0, INFINITY
        for number in range(len(self._refusals)):
            self._compare(self._refusals[number:])

    def also_refused(self, mark: BucketState) -> None:
        """Note the refusal of a send that went out before the last refusal was known."""
        before = [each for each in self._refusals if each.mark.sent <= mark.sent]
        if before:
            before[-1].late += mark.cost

    def also_taken(self, mark: BucketState) -> bool:
        """Note an accepted send that went out before the last refusal was known. Returns whether `lowest` has risen."""
        last = self._refusals[-1]
        if mark.sent <= last.mark.sent:
            return False
        last.taken += mark.cost
        surely = last.taken - last.late - OVERTAKE * last.after - last.mark.cost
        last.least = max(last.least, surely / max(mark.at - last.mark.at, SHORTEST_SPAN))
        before, self.lowest = self.lowest, max(self.lowest, last.least)
        return self.lowest > before

    def _compare(self, refusals: list[_Refusal]) -> None:
        """Compare the first refusal with each that follows."""
        first = refusals[0]
        refused = first.late
        self.lowest = max(self.lowest, first.least)
        for last in refusals[1:]:
            refused += last.mark.cost
            taken = last.mark.sent - first.mark.sent - refused
            refused += last.late
            span = last.mark.at - first.mark.at
            if not SHORTEST_SPAN <= span <= LONGEST_SPAN:
                continue
            self.lowest = max(self.lowest, (taken - first.after - last.mark.cost) / span)
            # While the client is held, a small bucket fills up and overflows. But it holds at least one request, so if
            # it refused the very next one, it was empty all the time.
            filling = span if taken <= 0 else span - (last.held - first.held)
            was_pressed = taken <= 0 or taken >= PRESSED * last.pace * filling
            if was_pressed and filling > SHORTEST_SPAN:
                self.highest = min(self.highest, (taken + first.before + last.mark.cost) / filling)
