"""What would have made a run faster: a smaller cap on the answers, where the server charges the cap and not the use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from parallel_openai._limits.admission import Admission
from parallel_openai._limits.cost import RULES
from parallel_openai._records import Size

#: Nothing is said of fewer answers, of shorter waits for tokens (a share of the run), and of smaller gains.
ENOUGH_ANSWERS = 30
ENOUGH_WAITING = 0.2
ENOUGH_TIMES = 1.2
#: A cap is generous when it is so many times the longest answer; the one proposed still leaves room for longer ones.
GENEROUS = 2
ROOM = 1.5
#: Some endpoints take no smaller cap.
SMALLEST = 16


@dataclass(frozen=True, slots=True)
class SmallerCap:
    """A cap that would have been enough, and how many times as fast the run would have been with it.

    >>> print(SmallerCap("max_completion_tokens", 70, longest=41, reserved=500, times=3.14))
    max_completion_tokens=70 would have been about 3.1 times as fast (the longest answer had 41 tokens, each request \
reserved 500)
    """

    name: str
    tokens: int
    longest: int
    reserved: int
    times: float

    def __str__(self) -> str:
        times = f"{self.times:.1f}" if self.times < 9.95 else f"{self.times:.0f}"
        return (
            f"{self.name}={self.tokens} would have been about {times} times as fast "
            f"(the longest answer had {self.longest:,} tokens, each request reserved {self.reserved:,})"
        )


def smaller_cap(
    limiter: Admission,
    sizes: Sequence[Size],
    *,
    name: str,
    answers: int,
    longest: int,
    seconds: float,
    waited: float,
    fastest: float,
) -> SmallerCap | None:
    """The cap to propose, or None where it would not help.

    Args:
        limiter: the model's, at the account that the run was on.
        sizes: a sample of what was answered.
        name: how the requests call their cap.
        answers: how many answers there were.
        longest: the longest of them, in tokens.
        seconds: how long the run took.
        waited: how long it waited for tokens.
        fastest: how long it would have taken without any limit.
    """
    limit = limiter.tokens.limit
    rule = RULES[limiter.counting.rule]
    if limit is None or rule.settles or answers < ENOUGH_ANSWERS or waited < ENOUGH_WAITING * seconds:
        return None
    reserved = max(size.max_output_tokens or 0 for size in sizes)
    tokens = _round_up(max(SMALLEST, ROOM * longest))
    if reserved <= GENEROUS * longest or reserved <= tokens:
        return None
    smaller = [size._replace(max_output_tokens=min(size.max_output_tokens or 0, tokens)) for size in sizes]
    saved = answers * (_mean([rule.at_send(size) for size in sizes]) - _mean([rule.at_send(size) for size in smaller]))
    # What is charged less need not be waited for; the other limits still hold.
    left = seconds - min(waited, saved / (limit / limiter.tokens.period))
    times = seconds / max(left, fastest, _seconds_for_requests(limiter, answers), 1e-9)
    return SmallerCap(name, tokens, longest, reserved, times) if times >= ENOUGH_TIMES else None


def _seconds_for_requests(limiter: Admission, answers: int) -> float:
    requests = limiter.requests
    return max(0.0, answers - requests.capacity) / requests.rate if requests.known else 0.0


def _mean(costs: Sequence[float]) -> float:
    return sum(costs) / len(costs)


def _round_up(tokens: float) -> int:
    """The next number that somebody would write.

    >>> _round_up(61.5), _round_up(80), _round_up(1_234.5)
    (70, 80, 1300)
    """
    step = 10 if tokens < 1000 else 100
    return -int(-tokens // step) * step
