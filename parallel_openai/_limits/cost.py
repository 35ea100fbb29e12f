"""What a request costs against the token limit: the server's rule is not told, so it is learned from what it shows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from operator import add

from parallel_openai._limits.bucket import NEARLY_FULL
from parallel_openai._limits.headers import Allowance
from parallel_openai._limits.learning.bucket_state import BucketState
from parallel_openai._records import Size, Usage


@dataclass(frozen=True, slots=True)
class Rule:
    """One way to count."""

    number: int  # its place among RULES
    name: str  # what it is called in the report
    settles: bool = False  # whether the charge becomes the actual usage when the answer is finished

    def at_send(self, size: Size) -> float:
        """What is charged when the request comes in."""
        return charges_of(size)[self.number]


#: The first one bounds all the others, so it is used until the server has shown which one it follows.
RULES = (
    Rule(0, "prompt and every answer's maximum"),
    Rule(1, "prompt and one answer's maximum"),
    Rule(2, "characters / 4 or every answer's maximum"),
    Rule(3, "characters / 4 or one answer's maximum"),
    Rule(4, "actual usage", settles=True),
    Rule(5, "maximum, then actual usage", settles=True),
)
_SETTLING = tuple(rule.number for rule in RULES if rule.settles)
Charges = tuple[float, float, float, float, float, float]


@lru_cache(maxsize=1024)  # asked for at the send and at the answer, and most rows have the size of those before them
def charges_of(size: Size) -> Charges:
    """What each of RULES charges when a request comes in; all at once, since it is asked for every request.

    >>> charges_of(Size(prompt_tokens=30, characters=120, max_output_tokens=20, choices=2))
    (70.0, 50.0, 40.0, 30.0, 30.0, 70.0)
    """
    prompt, quarter = float(size.prompt_tokens), size.characters / 4.0
    one = float(size.max_output_tokens or 0)
    every = size.choices * one
    return (
        prompt + every,
        prompt + one,
        quarter if quarter > every else every,
        quarter if quarter > one else one,
        prompt,
        prompt + every,
    )


#: Answers with figures before the rules are compared, and between two comparisons.
COMPARE_EVERY = 16
#: Another rule must explain what is shown so much better before it is believed.
BETTER = 0.5
#: What earlier comparisons still count at the next.
MEMORY = 0.8
#: How fast the expected length of an answer follows what comes.
LENGTH_GAIN = 0.05


@dataclass(slots=True)
class Lot:
    """What each rule charged for a request and had charged in all by then, what is still expected of it, and what must
    be free before it is sent."""

    charges: Charges
    totals: tuple[float, ...]
    expected: float
    cost: float


class Counting:
    """Follows all the rules at once and uses the one that explains the server's figures best.

    >>> counting = Counting()
    >>> counting.cost(Size(prompt_tokens=30, characters=120, max_output_tokens=20, choices=2))
    70.0
    """

    def __init__(self) -> None:
        self.rule = 0
        self.outstanding = 0.0  # tokens that answers in flight are still expected to be charged
        self.expected_output = 0.0  # mean length of an answer, in tokens, over all its choices
        self.longest_output = 0
        self._totals: tuple[float, ...] = (0.0,) * len(RULES)
        self._errors = [0.0] * len(RULES)
        self._compared = 0
        self._seen: list[tuple[float, tuple[float, ...]]] = []

    @property
    def name(self) -> str:
        return RULES[self.rule].name

    def cost(self, size: Size) -> float:
        """What must be free before the request is sent."""
        return self.draft(size).cost

    def draft(self, size: Size) -> Lot:
        """What a request would be charged; give it to `book` when it is sent."""
        charges = charges_of(size)
        expected = self._expected(charges, size) if RULES[self.rule].settles else 0.0
        return Lot(charges, self._totals, expected, max(1.0, charges[self.rule] + expected))

    def most(self, size: Size) -> float:
        """What the request costs at the most, by any rule."""
        return max(charges_of(size))

    def at_send(self, size: Size) -> float:
        """What the server charges when the request comes in."""
        return max(1.0, charges_of(size)[self.rule])

    def book(self, lot: Lot) -> None:
        """A request is being sent."""
        lot.totals = self._totals = tuple(map(add, self._totals, lot.charges))
        self.outstanding += lot.expected

    def finished(self, lot: Lot, usage: Usage | None) -> float:
        """Book an answer; gives what the rule charges now, negative for what it gives back."""
        if lot.expected:
            self._close(lot)
        if usage is None:
            return 0.0
        output, used = usage.completion_tokens, usage.total_tokens
        self.longest_output = max(self.longest_output, output)
        gain = LENGTH_GAIN if self.expected_output else 1.0
        self.expected_output += gain * (output - self.expected_output)
        change = 0.0
        totals = list(self._totals)
        for number in _SETTLING:
            rest = used - lot.charges[number]
            totals[number] += rest
            if number == self.rule:
                change = rest
        self._totals = tuple(totals)
        return change

    def cancelled(self, lot: Lot) -> None:
        """Forget what was expected of a request that brought no answer."""
        self._close(lot)

    def learn(self, lot: Lot, shown: Allowance, mark: BucketState, capacity: float) -> None:
        """Compare the rules with what the server showed on the answer to the charge that `mark` remembers.

        Under the right rule, what is left and what was charged, less the refill, make the same sum at every answer.
        """
        if shown.remaining > NEARLY_FULL * capacity:  # a full bucket spills its refill, which no rule explains
            self._seen.clear()
            return
        if mark.bunch.total > 3.0 * mark.cost + 0.1 * shown.limit / 60.0:
            return  # what goes out all at once arrives in any order, and its figures say little
        self._seen.append((shown.remaining - shown.limit / 60.0 * mark.at, lot.totals))
        if len(self._seen) < COMPARE_EVERY:
            return
        seen, self._seen = self._seen, []
        self._compared += 1
        for number in range(len(RULES)):
            self._errors[number] = MEMORY * self._errors[number] + self._error(seen, number)
        best = min(range(len(RULES)), key=self._errors.__getitem__)
        if self._compared > 1 and self._errors[best] < BETTER * self._errors[self.rule]:
            self.rule = best

    def _error(self, seen: list[tuple[float, tuple[float, ...]]], number: int) -> float:
        sums = [level + totals[number] for level, totals in seen]
        half = len(sums) // 2
        return abs(sum(sums[half:]) / (len(sums) - half) - sum(sums[:half]) / half)

    def _expected(self, charges: Charges, size: Size) -> float:
        """Tokens of the answer that a rule which settles will charge beyond what it charges at the send."""
        if charges[self.rule] > size.prompt_tokens:
            return 0.0
        most = size.choices * size.max_output_tokens if size.max_output_tokens else self.expected_output
        return min(self.expected_output, most) if self.expected_output else float(most)

    def _close(self, lot: Lot) -> None:
        self.outstanding = max(0.0, self.outstanding - lot.expected)
        lot.expected = 0.0
