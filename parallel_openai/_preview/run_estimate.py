"""Estimate the cost and time of requests, expected and at most."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from parallel_openai._batch.lane_options import MAX_BYTES, MAX_REQUESTS
from parallel_openai._display.blocks import Number, Table
from parallel_openai._limits.cost import RULES, charges_of
from parallel_openai._preview.row_plan import Learned, Sent
from parallel_openai._progress.number_format import clock_time, dollars
from parallel_openai._records import Usage
from parallel_openai._requests.endpoints import Endpoint
from parallel_openai._run.spending.budget import PriceOf
from parallel_openai._run.spending.worst_case import worst_case

#: Seconds after which a batch expires.
BATCH_WINDOW = 86_400.0
#: OpenAI's documented counting rule, as an index of RULES; assumed until the server has shown which one it uses.
DOCUMENTED_RULE = 2


@dataclass(frozen=True, slots=True)
class Estimate:
    """The cost and time of one way of sending.

    Attributes:
        expected_usd: with answers as long as those in the journal; NaN if there are none, or no price.
        most_usd: with answers as long as their caps; infinite without a cap, NaN without a price.
        prompt_usd: of the prompts alone.
        expected_seconds, most_seconds: at the account's limits; NaN if these are unknown.
    """

    expected_usd: float
    most_usd: float
    prompt_usd: float
    expected_seconds: float
    most_seconds: float


@dataclass(frozen=True, slots=True)
class Pace:
    """What bounds the rate of sending."""

    # The account's limits per minute; None if unknown.
    requests: float | None
    tokens: float | None
    rule: int  # how it counts tokens, as an index of RULES
    concurrency: int  # the most requests in flight


def prices_table(online: Estimate, batch: Estimate, batches: int) -> Table:
    count = f"{batches:,} batch{'' if batches == 1 else 'es'}"
    rows = [
        ("one by one", usd(online.expected_usd), usd(online.most_usd), _time(online)),
        ("Batch API", usd(batch.expected_usd), usd(batch.most_usd), f"within 24 h, {count}"),
    ]
    return Table("What it would cost", ("", "expected", "at most", "time"), rows)


def usd(amount: float) -> Number:
    if math.isnan(amount):
        return Number("not known")
    if math.isinf(amount):
        return Number("no cap")
    return Number(dollars(amount) if amount else "$0")


def _time(estimate: Estimate) -> str:
    if math.isnan(estimate.expected_seconds):
        return "not known without limits"
    expected, most = (clock_time(math.ceil(each)) for each in (estimate.expected_seconds, estimate.most_seconds))
    return f"about {expected}" if expected == most else f"about {expected}, at most {most}"


def output_cap(sent: Sent, endpoint: Endpoint) -> float:
    """The most output tokens of one request, all choices together; infinite without a cap."""
    if not endpoint.caps:
        return 0.0
    cap = sent.size.max_output_tokens or endpoint.default_cap
    return float(cap * sent.size.choices) if cap else math.inf


def estimate(
    sent: Sequence[Sent], endpoint: Endpoint, learned: Learned, pace: Pace, *, tier: str | None, price: PriceOf
) -> Estimate:
    """The cost and time of sending requests one by one, within the limits."""
    expected, most, prompts = _costs(sent, endpoint, learned, tier, price)
    return Estimate(expected, most, prompts, *_seconds(sent, learned, pace))


def estimate_batch(sent: Sequence[Sent], endpoint: Endpoint, learned: Learned, *, price: PriceOf) -> Estimate:
    """The cost of sending requests through the Batch API, which only promises an answer within a day."""
    expected, most, prompts = _costs(sent, endpoint, learned, "batch", price)
    return Estimate(expected, most, prompts, math.nan, BATCH_WINDOW if sent else 0.0)


def batches(sent: Sequence[Sent]) -> int:
    """The number of batches that the requests fill.

    >>> from parallel_openai._records import Size
    >>> batches([Sent("m", Size(1, 4, None, 1), 10_000)] * 50_001)
    3
    """
    models: Counter[str] = Counter(each.model for each in sent)
    sizes = {model: sum(each.bytes + 100 for each in sent if each.model == model) for model in models}
    return sum(max(-(-times // MAX_REQUESTS), -(-sizes[model] // MAX_BYTES)) for model, times in models.items())


def _costs(
    sent: Sequence[Sent], endpoint: Endpoint, learned: Learned, tier: str | None, price: PriceOf
) -> tuple[float, float, float]:
    alike = Counter((each.model, each.size.prompt_tokens, output_cap(each, endpoint)) for each in sent)
    expected = most = prompts = 0.0
    for (model, tokens, cap), times in alike.items():

        def cost(usage: Usage, model: str = model) -> float:
            return price(model, usage, tier)

        output = 0.0 if cap == 0 else learned.output
        likely = tokens * learned.factor
        prompts += times * cost(Usage(round(likely)))
        expected += times * (math.nan if output is None else cost(Usage(round(likely), round(min(output, cap)))))
        at_most = max(tokens, likely)
        worst = worst_case({"model": model}, round(at_most), round(cap) if cap < math.inf else 0)
        most += times * (cost(worst) if cap < math.inf else cost(worst) + math.inf)
    return expected, most, prompts


def _seconds(sent: Sequence[Sent], learned: Learned, pace: Pace) -> tuple[float, float]:
    if not sent:
        return 0.0, 0.0
    if pace.requests is None and pace.tokens is None:
        return math.nan, math.nan
    by_requests = 60.0 * len(sent) / pace.requests if pace.requests else 0.0
    by_latency = (learned.latency or 0.0) * len(sent) / pace.concurrency
    expected = most = max(by_requests, by_latency, learned.latency or 0.0)
    if pace.tokens:
        rule = pace.rule or DOCUMENTED_RULE
        likely = bound = 0.0
        for size, times in Counter(each.size for each in sent).items():
            charges = charges_of(size)
            settled = size.prompt_tokens + (learned.output or 0.0)
            likely += times * (settled if RULES[rule].settles else charges[rule])
            bound += times * charges[0]
        expected = max(expected, 60.0 * likely / pace.tokens)
        most = max(most, 60.0 * bound / pace.tokens)
    return expected, most
