"""Detects limits that are not enforced: one accepted answer after another shows the same of them, or none left."""

from __future__ import annotations

from parallel_openai._limits.headers import Allowance
from parallel_openai._limits.learning.bucket_state import BucketState

INFINITY = float("inf")
#: Answers beyond what the refill explains that may show no less of a limit before it is tested. Some are normal:
#: figures may be a little old, and requests sent together arrive in any order.
UNEXPLAINED = 2


class UsedUp:
    """Judges the answers that show a dimension's limit as used up, or no less of it than the answer before.

    Between two such answers the limit must have refilled. If it cannot have, one more request is sent as a test, since
    a server that counts only afterwards may show this of a limit that it does enforce. If the test is accepted and
    shows the same again, the limit is ignored from then on. A limit that is not used up must have been accepted whole
    before that, so that it may be enforced where what remains of it is never counted.

    Attributes:
        disbelieved: the limits that were found not to be enforced.
        is_test_due: whether the next request is the test, to be sent whatever is shown.
    """

    __slots__ = ("_count", "_is_enforced", "_limit", "_remaining", "_since", "_test", "disbelieved", "is_test_due")

    def __init__(self) -> None:
        self.is_test_due = self._is_enforced = False
        self._limit = self._remaining = INFINITY  # as shown last
        self._count, self._since = 0, 0.0  # such answers in a row
        self._test = 0  # the number of the send that tests it
        self.disbelieved: set[float] = set()

    def tests(self, number: int) -> None:
        """Note that the send of this number is the test."""
        self.is_test_due, self._test = False, number

    def accepted(self, mark: BucketState, shown: Allowance, rate: float, now: float) -> bool:
        """Learn from an accepted answer. Returns whether it has just proved that the limit is not enforced."""
        is_used_up = shown.remaining < 1.0
        is_less = shown.remaining < self._remaining or shown.limit != self._limit
        self._limit, self._remaining = shown.limit, shown.remaining
        if is_less and not (is_used_up and self._count):
            self._count, self._since, self.is_test_due = int(is_used_up), mark.at, False
            return False
        if mark.number == self._test:
            self.disbelieved.add(shown.limit)
            self._count = 0
            return True
        self._since = min(self._since, mark.at)
        self._count += 1
        unexplained = self._count - rate * (now - self._since)
        most = UNEXPLAINED if is_used_up else max(UNEXPLAINED, shown.limit - 1.0)
        self.is_test_due = not self._is_enforced and unexplained > most
        return False

    def refused(self, mark: BucketState) -> None:
        if mark.number == self._test:
            self._is_enforced = True
