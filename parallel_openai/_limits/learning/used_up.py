"""Whether a limit that is shown as used up on one accepted answer after another is one at all."""

from __future__ import annotations

from parallel_openai._limits.headers import Allowance
from parallel_openai._limits.learning.bucket_state import BucketState

#: So many more answers may use up the last of a limit than its refill explains, until that is put to the test: figures
#: may be a little old, and what was sent together arrives in any order.
UNEXPLAINED = 2


class UsedUp:
    """What a dimension's answers show that use up the last of it.

    Between two of them the limit has to refill. If it cannot have, one more request is sent to test it, since a server
    that counts tokens only afterwards may show the same of a limit that it does enforce. If that one is accepted and
    the same is shown again, this limit is not believed any more.

    Attributes:
        count: how many answers in a row have used up the last of it.
        is_test_due: whether the next request is to go out whatever is shown.
    """

    __slots__ = ("_disbelieved", "_is_enforced", "_since", "_test", "count", "is_test_due")

    def __init__(self) -> None:
        self.is_test_due = self._is_enforced = False
        self.count, self._since = 0, 0.0
        self._test = 0  # the number of the send that tests it
        self._disbelieved: set[float] = set()

    def ignores(self, shown: Allowance) -> bool:
        """Whether a limit that is used up is one of those that are not believed."""
        return shown.limit in self._disbelieved

    def tests(self, number: int) -> None:
        """The send of this number is the test."""
        self.is_test_due, self._test = False, number

    def accepted(self, mark: BucketState, shown: Allowance, rate: float, now: float) -> bool:
        """Note an answer's figures; returns whether they are not to be believed, which was not known before."""
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
