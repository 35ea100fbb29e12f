"""Advise a smaller cap on the answers, if the server counts the cap and not the use against the token limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from parallel_openai._limits.admission import Admission
from parallel_openai._limits.cost import RULES
from parallel_openai._records import Size

#: No advice below these: answers, share of the run spent waiting for tokens, gain in speed.
MIN_ANSWERS = 30
MIN_WAITED_SHARE = 0.2
MIN_SPEEDUP = 1.2
#: Caps up to this multiple of the longest answer are fine; the proposed cap leaves headroom for longer answers.
GENEROUS = 2
HEADROOM = 1.5
#: The smallest cap that all endpoints accept.
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
    limiter: Admission,  # the model's limiter on the run's account
    sizes: Sequence[Size],  # a sample of the answered requests' sizes
    *,
    name: str,  # the requests' parameter for the cap
    answers: int,  # the number of answers
    longest: int,  # tokens of the longest one
    seconds: float,  # the duration of the run
    waited: float,  # seconds spent waiting for tokens
    fastest: float,  # the duration without any limit, in seconds
) -> SmallerCap | None:
    """Return the cap to propose, or None if it would not help."""
    limit = limiter.tokens.limit
    rule = RULES[limiter.counting.rule]
    if limit is None or rule.settles or answers < MIN_ANSWERS or waited < MIN_WAITED_SHARE * seconds:
        return None
    reserved = max(size.max_output_tokens or 0 for size in sizes)
    tokens = _round_up(max(SMALLEST, HEADROOM * longest))
    if reserved <= GENEROUS * longest or reserved <= tokens:
        return None
    smaller = [size._replace(max_output_tokens=min(size.max_output_tokens or 0, tokens)) for size in sizes]
    saved = answers * (fmean(map(rule.at_send, sizes)) - fmean(map(rule.at_send, smaller)))
    # Tokens that are not charged need not be waited for; the other limits still hold.
    remaining = seconds - min(waited, saved / (limit / limiter.tokens.period))
    times = seconds / max(remaining, fastest, _seconds_for_requests(limiter, answers), 1e-9)
    return SmallerCap(name, tokens, longest, reserved, times) if times >= MIN_SPEEDUP else None


def _seconds_for_requests(limiter: Admission, answers: int) -> float:
    requests = limiter.requests
    return max(0.0, answers - requests.capacity) / requests.rate if requests.known else 0.0


def _round_up(tokens: float) -> int:
    """Round up to tens, or to hundreds from 1,000 on.

    >>> _round_up(61.5), _round_up(80), _round_up(1_234.5)
    (70, 80, 1300)
    """
    step = 10 if tokens < 1000 else 100
    return -int(-tokens // step) * step
