"""Keeps a run within its budget: the worst case is reserved before each send, and settled with the answer."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from parallel_openai._records import APIRequest, Response, Usage
from parallel_openai._requests.endpoints import endpoint_at, usage_of
from parallel_openai._requests.prices import tier_of
from parallel_openai._run.response_verdict import UNSENT_CODES
from parallel_openai._run.spending.funds import Funds, Kind, Reserve
from parallel_openai._run.spending.worst_case import has_media, models_of, reads_unseen, worst_case

#: Returns the dollars for a model's usage in a tier (None is the default one), or NaN if the price is unknown.
PriceOf = Callable[[str, Usage, str | None], float]

#: The factor by which a prompt may exceed our count until the server has shown how it counts.
UNKNOWN_FACTOR = 2.0
#: What a server may add to each prompt, such as a system prompt of its own, until it has shown what it adds.
UNKNOWN_EXTRA = 3000.0
#: The factor for other scripts, and for embeddings, which cost nothing but their prompt of many texts: few of our
#: tokens have more than five bytes, and no server makes more tokens than bytes.
MOST_FACTOR = 5.0
#: After a first answer, texts of embeddings in another script may still come to twice as much, and so may pictures of
#: another size.
VARYING_FACTOR = 2.0
#: The factor by which an answer may exceed its cap, since some servers do not cap reasoning. It falls with the square
#: of the number of answers seen, and no longer applies after ENOUGH_ANSWERS.
UNKNOWN_OUTPUT_FACTOR = 100.0
ENOUGH_ANSWERS = 10
#: A margin for later rows, if the server turns out to count more than we do.
MARGIN = 1.1
#: Prices per token are computed for this many tokens, since the price of a single one is rounded.
_MANY = 1_000_000
#: What Groq and OpenAI say in refusals of what a model has already written, as of no valid JSON, or cut off by its cap.
_GENERATED = re.compile(rb"failed_generation|json_validate_failed|tool_use_failed|could not finish the message", re.I)
#: Endpoints whose answers have no tokens.
_WITHOUT_OUTPUT = frozenset({"embeddings", "moderations"})


@dataclass(slots=True)
class _Counting:
    """How a server's count of the tokens of a kind compares with ours."""

    answers: int = 0
    # The largest factors that answers have shown.
    shown_prompt: float = 0.0
    shown_output: float = 0.0
    # The factors that reserves are computed with, and what the server adds to the shortest prompt seen: a shorter one,
    # of which it is a larger part, may come to as much more.
    prompt: float = 1.0
    output: float = 1.0
    extra: float = 0.0
    shortest: float = math.inf

    def learn(self, prompt: float, output: float) -> None:
        self.answers += 1
        self.shown_prompt, self.shown_output = max(self.shown_prompt, prompt), max(self.shown_output, output)
        self.prompt = max(1.0, self.shown_prompt if self.shown_prompt <= 1.0 else self.shown_prompt * MARGIN)
        self.output = self.learnt_output

    def learn_extra(self, counted: int, billed: int) -> None:
        if counted <= self.shortest:
            known = self.extra if counted == self.shortest else 0.0
            self.extra, self.shortest = max(known, billed - counted), counted

    def most_prompt(self, tokens: int, factor: float) -> int:
        """The most tokens that a prompt of our count may come to."""
        return math.ceil(max(tokens * factor, tokens + self.extra))

    @property
    def spare(self) -> float:
        """The factor by which a prompt of many texts may exceed what is expected."""
        return VARYING_FACTOR if self.answers else MOST_FACTOR

    @property
    def learnt_output(self) -> float:
        """The factor for answers. Its margin is large, as uncapped reasoning varies more than prompts do."""
        return 1.0 if self.shown_output <= 1.0 else self.shown_output * UNKNOWN_FACTOR

    def beside_others(self) -> float:
        """The factor for an answer while others are in flight that may be as long."""
        return max(self.learnt_output, UNKNOWN_OUTPUT_FACTOR / max(1, self.answers) ** 2)


class Budget:
    """Keeps the spending of a run's requests within limits of dollars and tokens.

    The worst case of a request is its prompt plus the cap of every choice, at the price of the dearest class of tokens.
    The prompt is our own count. If the server turns out to count more, to let reasoning exceed the cap, or to answer by
    a dearer model or in a dearer tier, reserves grow accordingly, also for requests in flight. A request that may have
    been billed unseen, as after a timeout, counts as its worst case.

    >>> from parallel_openai._records import Size
    >>> request = APIRequest({"model": "m", "max_tokens": 10})
    >>> request.size = Size(prompt_tokens=50, characters=200, max_output_tokens=10, choices=2)
    >>> budget = Budget(tokens=100)
    >>> budget.reserve(request).tokens
    70.0
    >>> print(budget.reserve(request))
    None
    """

    def __init__(
        self,
        *,
        usd: float | None = None,  # dollars; None: no limit
        tokens: float | None = None,  # prompt and completion tokens together; None: no limit
        funds: Funds | None = None,  # instead of both: funds shared with other runs
        price: PriceOf | None = None,
        # The service tier that every answer is sure to come from, whatever the requests say; None if none is.
        tier: str | None = None,
    ) -> None:
        self._funds = Funds(usd, tokens) if funds is None else funds
        self._price = price if self._funds.usd < math.inf else None
        self._tier = tier
        self._counting: dict[Kind, _Counting] = {}
        # The other models and tiers that have answered, by the model asked, as far as their price is known.
        self._served: dict[str, set[tuple[str, str | None]]] = {}

    @property
    def funds(self) -> Funds:
        """The funds that it spends."""
        return self._funds

    @property
    def tier(self) -> str | None:
        """The service tier that every answer is sure to come from, or None."""
        return self._tier

    @property
    def spent_usd(self) -> float:
        """Dollars settled so far."""
        return self._funds.spent_usd

    @property
    def spent_tokens(self) -> float:
        """Tokens settled so far."""
        return self._funds.spent_tokens

    def objection(self, request: APIRequest) -> str | None:
        """Why the request has no worst case, or None if it has one."""
        body = request.request_json
        if self._most_output(request) == math.inf:
            endpoint = endpoint_at(request.path)
            name, *older = endpoint.caps if endpoint and endpoint.caps else ("max_completion_tokens",)
            further = f" ({older[0]}= for older servers)" if older else ""
            return f"A budget needs a cap on every answer, or the next one could pass it. Set {name}=...{further}."
        unseen = reads_unseen(body)
        if unseen is not None:
            return (
                f"With a budget, everything the model reads must be in the request itself, and {unseen} makes it read "
                "more. Run such rows without a budget."
            )
        for model in models_of(body):
            if math.isnan(self._price_of(model, worst_case(body, 1, 1), tier_of(body))):
                plain = not math.isnan(self._price_of(model, Usage(1, 1), tier_of(body)))
                what = (
                    f"all that {model!r} may read and write here, such as sound or searches," if plain else repr(model)
                )
                return (
                    f"budget_usd= needs the model's price, and that of {what} is not known. Use budget_tokens= for it."
                )
        return None

    def reserve(self, request: APIRequest, *, in_batch: bool = False) -> Reserve | None:
        """Reserve the worst case of one send. Returns None if it does not fit beside what is spent and reserved.

        Pass the reserve to `settle` afterwards. `in_batch` is for requests that are sent together before any answer can
        show how long answers are; each is assumed to be at most twice its cap.
        """
        body, size = request.request_json, request.size
        prompt_tokens = size.prompt_tokens if size else 0
        kind = _kind_of(request)
        reserve = Reserve(request, kind, prompt_tokens, self._most_output(request), tier_of(body), in_batch)
        counting = self._counting.setdefault(kind, _Counting())
        if request.path in _WITHOUT_OUTPUT and not in_batch:
            reserve.spare = counting.spare
        elif counting.answers < ENOUGH_ANSWERS:
            others = [each for each in self._funds.reserves if each.kind == kind]
            if others and not counting.answers and kind.has_media:
                return None  # wait for the first answer, which shows how the server counts media
            prompt, extra = counting.prompt, counting.extra
            if not counting.answers:
                unknown = UNKNOWN_FACTOR if kind.is_ascii else MOST_FACTOR
                prompt = unknown if self._funds.reserves else 1.0
                extra = 0.0 if all(each.in_batch for each in self._funds.reserves) else UNKNOWN_EXTRA
            is_alone = all(each.in_batch for each in others)
            self._count_by(kind, prompt, extra, counting.learnt_output if is_alone else counting.beside_others())
        if kind.has_media and counting.answers:
            reserve.spare = VARYING_FACTOR
        self._measure(reserve)
        if self._funds.hold(reserve):
            return reserve
        if reserve.spare == 1.0 or self._funds.reserves:
            return None
        reserve.spare = 1.0  # with no other in flight, and as probably the last one, it may go without the extra
        self._measure(reserve)
        return reserve if self._funds.hold(reserve) else None

    def room(self, request: APIRequest) -> float:
        """The most prompt tokens that a request like this, whose answer has no tokens, may have to fit the budget,
        assuming that the requests in flight cost what is expected."""
        left_tokens, left_usd = self._funds.left
        left_tokens += sum(each.tokens * (1 - 1 / each.spare) for each in self._funds.reserves)
        left_usd += sum(each.usd * (1 - 1 / each.spare) for each in self._funds.reserves)
        if min(left_tokens, left_usd) <= 0:
            return 0.0
        kind = _kind_of(request)
        counting = self._counting.setdefault(kind, _Counting())
        factor = counting.prompt * counting.spare
        many = Reserve(request, kind, _MANY, 0.0, tier_of(request.request_json))
        tokens, usd = self._most(many, math.ceil(_MANY * factor), 0.0)
        return _MANY * min(left_tokens / tokens, left_usd / usd if usd else math.inf)

    @property
    def is_overdrawn(self) -> bool:
        """Whether the reserves no longer fit, after what answers have shown."""
        return min(self._funds.left) < 0 and any(each.answers for each in self._counting.values())

    def settle(self, reserve: Reserve, response: Response) -> None:
        """Replace a reserve by the send's real cost, or by the largest possible one if the answer does not state it."""
        usage = usage_of(response.data)
        if usage is not None and usage.total_tokens:
            completed = self._completed(reserve, usage)
            self._funds.spend(reserve, completed.total_tokens, self._cost(reserve, response, completed))
            self._learn(reserve, usage)
            self._learn_price(reserve, response.data)
        elif _is_refusal(response) or response.error_code in UNSENT_CODES:
            self._funds.spend(reserve, 0.0, 0.0)
        else:
            self._funds.spend(reserve, *self._most(reserve, *self._believed(reserve)))

    def _completed(self, reserve: Reserve, usage: Usage) -> Usage:
        """The usage, with the largest possible value for a count that is not stated."""
        prompt, output = self._believed(reserve)
        return usage._replace(
            prompt_tokens=usage.prompt_tokens or prompt, completion_tokens=usage.completion_tokens or math.ceil(output)
        )

    def _believed(self, reserve: Reserve) -> tuple[int, float]:
        """The tokens of a send of unknown cost. Caps are trusted until an answer shows otherwise; our count of the
        prompt is doubted until an answer shows the server's."""
        counting, prompt = self._counting[reserve.kind], math.ceil(reserve.prompt_tokens * UNKNOWN_FACTOR)
        if counting.answers:
            prompt = counting.most_prompt(reserve.prompt_tokens, counting.prompt)
        return prompt, reserve.output_tokens * counting.learnt_output

    def _most_output(self, request: APIRequest) -> float:
        if request.path in _WITHOUT_OUTPUT:
            return 0.0
        size = request.size
        if size is None or not size.max_output_tokens:
            return math.inf
        return float(size.choices * size.max_output_tokens)

    def _measure(self, reserve: Reserve) -> None:
        counting = self._counting[reserve.kind]
        output = counting.output
        if reserve.in_batch:
            output = counting.learnt_output if counting.answers else counting.prompt  # as uncertain as the prompt
        factor = counting.prompt * reserve.spare
        prompt = counting.most_prompt(reserve.prompt_tokens, factor)
        if reserve.in_batch and not counting.answers:
            prompt = math.ceil(reserve.prompt_tokens * factor)
        reserve.tokens, reserve.usd = self._most(reserve, prompt, reserve.output_tokens * output)

    def _most(self, reserve: Reserve, prompt: int, output: float) -> tuple[float, float]:
        """The most tokens and dollars that a send of these tokens can cost."""
        if output == math.inf:
            return math.inf, math.inf
        body = reserve.request.request_json
        usage = worst_case(body, prompt, math.ceil(output))
        costs = [self._dearest(model, usage, reserve.tier) for model in models_of(body)]
        costs += [self._dearest(model, usage, tier) for model, tier in self._served.get(reserve.kind.model, ())]
        cost = highest(costs)
        return prompt + output, math.inf if math.isnan(cost) else cost

    def _price_of(self, model: str, usage: Usage, tier: str | None) -> float:
        """The price of a usage: the higher one of the requested tier and the default, which the server may use."""
        if self._price is None:
            return 0.0
        return highest(
            [self._price(model, usage, each) for each in ({None, tier} if self._tier is None else {self._tier})]
        )

    def _dearest(self, model: str, usage: Usage, tier: str | None) -> float:
        """The highest price of a usage. If the model has a price for audio, all tokens may be audio."""
        sound = usage._replace(audio_prompt_tokens=usage.prompt_tokens, audio_completion_tokens=usage.completion_tokens)
        cost, of_sound = (self._price_of(model, each, tier) for each in (usage, sound))
        return max(cost, of_sound)  # `cost` if one of them is NaN

    def _cost(self, reserve: Reserve, response: Response, usage: Usage) -> float:
        if self._price is None:
            return 0.0
        cost, _ = cost_of(self._price, response.data, usage, reserve.request)
        return reserve.usd if math.isnan(cost) else cost

    def _learn(self, reserve: Reserve, usage: Usage) -> None:
        counting = self._counting[reserve.kind]
        before = counting.prompt, counting.output, counting.extra
        # If the prompt's count is missing, it may be included in the other, as if only a total is stated.
        output = usage.completion_tokens - (0 if usage.prompt_tokens else reserve.prompt_tokens)
        counting.learn(
            usage.prompt_tokens / reserve.prompt_tokens if reserve.prompt_tokens else 0.0,
            output / reserve.output_tokens if reserve.output_tokens else 0.0,
        )
        if reserve.output_tokens:  # not of embeddings, which are many texts at once
            counting.learn_extra(reserve.prompt_tokens, usage.prompt_tokens)
        if before != (counting.prompt, counting.output, counting.extra):
            self._recount(reserve.kind)

    def _learn_price(self, reserve: Reserve, response: Any) -> None:
        """Note the model and tier that answered, such as a gateway's fallback or a project's own default tier."""
        asked = reserve.kind.model
        answered, tier = response.get("model"), tier_of(response)
        if self._price is None or not isinstance(answered, str) or (answered, tier) == (asked, reserve.tier):
            return
        served = self._served.setdefault(asked, set())
        if (answered, tier) not in served and not math.isnan(self._dearest(answered, Usage(1, 1), tier)):
            served.add((answered, tier))
            for kind in self._counting:
                if kind.model == asked:
                    self._recount(kind)

    def _count_by(self, kind: Kind, prompt: float, extra: float, output: float) -> None:
        counting = self._counting[kind]
        if (prompt, extra, output) != (counting.prompt, counting.extra, counting.output):
            counting.prompt, counting.extra, counting.output = prompt, extra, output
            self._recount(kind)

    def _recount(self, kind: Kind) -> None:
        for reserve in self._funds.reserves:
            if reserve.kind == kind:
                self._measure(reserve)
        self._funds.recount()


def _kind_of(request: APIRequest) -> Kind:
    model = str(request.request_json.get("model"))
    if request.path in _WITHOUT_OUTPUT:  # many texts in each, of any kind
        return Kind(model, has_media=False, is_ascii=True)
    return Kind(model, has_media(request.request_json), request.body.isascii())


def highest(costs: Sequence[float]) -> float:
    """The highest of these; NaN if one is unknown."""
    return math.nan if any(map(math.isnan, costs)) else max(costs)


def cost_of(price: PriceOf, response: Any, usage: Usage, request: APIRequest) -> tuple[float, str]:
    """Dollars for an answer, and the model whose price was used: the one that the answer names, or else the requested.

    If the answer names no tier, it may come from the requested one.
    """
    asked, answered, tier = request.model or "", response.get("model"), tier_of(response)
    if tier is None and request.tier is not None:
        price = partial(_dearer_tier, price, request.tier)
    if isinstance(answered, str):
        cost = price(answered, usage, tier)
        if answered == asked or not math.isnan(cost):
            return cost, answered
    return price(asked, usage, tier), asked


def _dearer_tier(price: PriceOf, requested: str, model: str, usage: Usage, tier: str | None) -> float:
    return highest([price(model, usage, each) for each in (tier, requested)])


def _is_refusal(response: Response) -> bool:
    """Whether a response means that no model has worked on the request. After a gateway's timeout that is unknown."""
    status = response.status
    return 300 <= status < 520 and status not in (408, 502, 504) and not _GENERATED.search(response.body)
