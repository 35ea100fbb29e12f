"""What a request costs against the token limit, by the server's rule, which is learned from what it shows."""

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
    """One way to count tokens."""

    number: int  # its index in RULES
    name: str  # its name in the report
    settles: bool = False  # the charge is corrected to the actual usage when the answer is finished

    def at_send(self, size: Size) -> float:
        """The charge when the request arrives."""
        return charges_of(size)[self.number]


#: The first rule charges at least as much as any other, so it is used until the server has shown which one it follows.
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


@lru_cache(maxsize=1024)  # needed at the send and at the answer, and many rows have the same size
def charges_of(size: Size) -> Charges:
    """What each of RULES charges when a request arrives; computed together, since every request needs them.

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


#: The rules are compared after each COMPARE_EVERY answers that show what remains.
COMPARE_EVERY = 16
#: Another rule is adopted once its error is less than this share of the present rule's.
BETTER = 0.5
#: The weight of earlier comparisons in the next one.
MEMORY = 0.8
#: The weight of a new answer in the expected length.
LENGTH_GAIN = 0.05


@dataclass(slots=True)
class Lot:
    """What a request is charged."""

    charges: Charges  # by each rule
    totals: tuple[float, ...]  # by each rule, for all requests up to this one
    expected: float  # the charge still expected when the answer is finished
    cost: float  # what must be free before the request is sent


class Counting:
    """Follows all the rules at once, and uses the one that best explains what the server shows.

    >>> counting = Counting()
    >>> counting.cost(Size(prompt_tokens=30, characters=120, max_output_tokens=20, choices=2))
    70.0
    """

    def __init__(self) -> None:
        self.rule = 0
        self.outstanding = 0.0  # tokens that answers in flight are still expected to be charged
        self.expected_output = 0.0  # mean length of an answer, in tokens, all its choices together
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
        """What a request would be charged. Pass it to `book` when the request is sent."""
        charges = charges_of(size)
        expected = self._expected(charges, size) if RULES[self.rule].settles else 0.0
        return Lot(charges, self._totals, expected, max(1.0, charges[self.rule] + expected))

    def most(self, size: Size) -> float:
        """The request's largest cost by any rule."""
        return max(charges_of(size))

    def at_send(self, size: Size) -> float:
        """What the server charges when the request arrives, by the present rule."""
        return max(1.0, charges_of(size)[self.rule])

    def book(self, lot: Lot) -> None:
        """Charge a request that is being sent."""
        lot.totals = self._totals = tuple(map(add, self._totals, lot.charges))
        self.outstanding += lot.expected

    def finished(self, lot: Lot, usage: Usage | None) -> float:
        """Charge an answer. Returns what the present rule charges now; negative if it gives something back."""
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
        """Forget the charge expected of a request that got no answer."""
        self._close(lot)

    def learn(self, lot: Lot, shown: Allowance, mark: BucketState, capacity: float) -> None:
        """Compare the rules with what an answer showed; `mark` is the bucket's state at its send.

        Under the right rule, what remains plus what was charged, less the refill, is the same at every answer.
        """
        if shown.remaining > NEARLY_FULL * capacity:  # a full bucket loses its refill, which no rule explains
            self._seen.clear()
            return
        if mark.bunch.total > 3.0 * mark.cost + 0.1 * shown.limit / 60.0:
            return  # requests sent together arrive in any order, so what they show says little
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
        """Tokens of the answer that a settling rule will charge beyond its charge at the send."""
        if charges[self.rule] > size.prompt_tokens:
            return 0.0
        most = size.choices * size.max_output_tokens if size.max_output_tokens else self.expected_output
        return min(self.expected_output, most) if self.expected_output else float(most)

    def _close(self, lot: Lot) -> None:
        self.outstanding = max(0.0, self.outstanding - lot.expected)
        lot.expected = 0.0
