"""Detects limits that are not enforced: shown as used up on one accepted answer after another."""

from __future__ import annotations

from parallel_openai._limits.headers import Allowance
from parallel_openai._limits.learning.bucket_state import BucketState

#: Answers beyond what the refill explains that may show a limit as used up before it is tested. Some are normal:
#: figures may be a little old, and requests sent together arrive in any order.
UNEXPLAINED = 2


class UsedUp:
    """Judges the answers that show a dimension's limit as used up.

    Between two such answers the limit must have refilled. If it cannot have, one more request is sent as a test, since
    a server that counts tokens only afterwards may show this of a limit that it does enforce. If the test is accepted
    and shows the limit as used up again, the limit is ignored from then on.

    Attributes:
        count: how many answers in a row have shown the limit as used up.
        is_test_due: whether the next request is the test, to be sent whatever is shown.
    """

    __slots__ = ("_disbelieved", "_is_enforced", "_since", "_test", "count", "is_test_due")

    def __init__(self) -> None:
        self.is_test_due = self._is_enforced = False
        self.count, self._since = 0, 0.0
        self._test = 0  # the number of the send that tests it
        self._disbelieved: set[float] = set()

    def ignores(self, shown: Allowance) -> bool:
        """Whether this limit was found not to be enforced."""
        return shown.limit in self._disbelieved

    def tests(self, number: int) -> None:
        """Note that the send of this number is the test."""
        self.is_test_due, self._test = False, number

    def accepted(self, mark: BucketState, shown: Allowance, rate: float, now: float) -> bool:
        """Learn from an accepted answer. Returns whether it has just proved that the limit is not enforced."""
        if shown.remaining >= 1.0:
            self.count, self.is_test_due = 0, False
            return False
        if mark.number == self._test:
            self._disbelieved.add(shown.limit)
            self.count = 0
            return True
        self._since = min(self._since, mark.at) if self.count else mark.at
        self.count += 1
        unexplained = self.count - rate * (now - self._since)
        self.is_test_due = not self._is_enforced and unexplained > UNEXPLAINED
        return False

    def refused(self, mark: BucketState) -> None:
        if mark.number == self._test:
            self._is_enforced = True
