"""What a request costs against the token limit: the server's rule is not told, so it is learned from what it shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from parallel_openai.engine.bucket import NEARLY_FULL, Mark
from parallel_openai.engine.headers import Allowance
from parallel_openai.records import Size, Usage


@dataclass(frozen=True, slots=True)
class Rule:
    """One way to count.

    Attributes:
        name: what it is called in the report.
        at_send: what is charged when the request comes in.
        settles: whether the charge becomes the actual usage when the answer is finished.
    """

    name: str
    at_send: Callable[[Size], float]
    settles: bool = False


def _output(size: Size) -> int:
    return size.max_output_tokens or 0


#: The first one bounds all the others, so it is used until the server has shown which one it follows.
RULES = (
    Rule("prompt and every answer's maximum", lambda size: size.prompt_tokens + size.choices * _output(size)),
    Rule("prompt and one answer's maximum", lambda size: size.prompt_tokens + _output(size)),
    Rule(
        "characters / 4 or every answer's maximum", lambda size: max(size.characters / 4, size.choices * _output(size))
    ),
    Rule("characters / 4 or one answer's maximum", lambda size: max(size.characters / 4, _output(size))),
    Rule("actual usage", lambda size: size.prompt_tokens, settles=True),
    Rule("maximum, then actual usage", lambda size: size.prompt_tokens + size.choices * _output(size), settles=True),
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
    """What each rule had charged in all when a request was sent, and what is still expected of it."""

    totals: tuple[float, ...]
    expected: float


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
        self._totals = [0.0] * len(RULES)
        self._errors = [0.0] * len(RULES)
        self._compared = 0
        self._seen: list[tuple[float, tuple[float, ...]]] = []

    @property
    def name(self) -> str:
        return RULES[self.rule].name

    def cost(self, size: Size) -> float:
        """What must be free before the request is sent."""
        rule = RULES[self.rule]
        return max(1.0, float(rule.at_send(size)) + self._expected(rule, size))

    def most(self, size: Size) -> float:
        """What the request costs at the most, by any rule."""
        return max(float(rule.at_send(size)) for rule in RULES)

    def at_send(self, size: Size) -> float:
        """What the server charges when the request comes in."""
        return max(1.0, float(RULES[self.rule].at_send(size)))

    def open(self, size: Size) -> Lot:
        """Book a request that is being sent."""
        rule = RULES[self.rule]
        for number, each in enumerate(RULES):
            self._totals[number] += each.at_send(size)
        expected = self._expected(rule, size)
        self.outstanding += expected
        return Lot(tuple(self._totals), expected)

    def finished(self, lot: Lot, size: Size, usage: Usage | None) -> float:
        """Book an answer; gives what the rule charges now, negative for what it gives back."""
        self._close(lot)
        if usage is None:
            return 0.0
        output = usage.completion_tokens
        self.longest_output = max(self.longest_output, output)
        gain = LENGTH_GAIN if self.expected_output else 1.0
        self.expected_output += gain * (output - self.expected_output)
        change = 0.0
        for number, rule in enumerate(RULES):
            if rule.settles:
                rest = usage.total_tokens - rule.at_send(size)
                self._totals[number] += rest
                if number == self.rule:
                    change = rest
        return change

    def cancelled(self, lot: Lot) -> None:
        """Forget what was expected of a request that brought no answer."""
        self._close(lot)

    def learn(self, lot: Lot, shown: Allowance, mark: Mark, capacity: float) -> None:
        """Compare the rules with what the server showed on the answer to the charge that `mark` remembers.

        Under the right rule, what is left and what was charged, less the refill, make the same sum at every answer.
        """
        if shown.remaining > NEARLY_FULL * capacity:  # a full bucket spills its refill, which no rule explains
            self._seen.clear()
            return
        if mark.burst.total > 3.0 * mark.cost + 0.1 * shown.limit / 60.0:
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

    def _expected(self, rule: Rule, size: Size) -> float:
        if not rule.settles or rule.at_send(size) > size.prompt_tokens:
            return 0.0
        most = size.choices * size.max_output_tokens if size.max_output_tokens else self.expected_output
        return min(self.expected_output, most) if self.expected_output else float(most)

    def _close(self, lot: Lot) -> None:
        self.outstanding = max(0.0, self.outstanding - lot.expected)
        lot.expected = 0.0
