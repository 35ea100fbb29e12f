"""What a run may spend at the most: the worst case is set aside before each send, and settled with the answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parallel_openai.engine.retry import UNSENT_CODES
from parallel_openai.records import APIRequest, Response, Usage
from parallel_openai.requests.endpoints import usage_of
from parallel_openai.requests.prices import tier_of

#: Dollars for what a model read and wrote in a tier (None: the usual one); NaN where its price is not known.
PriceOf = Callable[[str, Usage, str | None], float]

#: What a prompt may come to against our count, as long as the server has not shown how it counts.
UNKNOWN_FACTOR = 2.0
#: Room for the next rows, where the server is seen to count otherwise than we do.
MARGIN = 1.1
#: Endpoints whose answers have no tokens.
_WITHOUT_OUTPUT = frozenset({"embeddings", "moderations"})


@dataclass(slots=True, eq=False)
class Reserve:
    """What is set aside for one send, at the most that it can come to."""

    model: str
    prompt_tokens: int
    output_tokens: float
    tier: str | None = None
    tokens: float = 0.0
    usd: float = 0.0


class Budget:
    """Dollars and tokens that a run may spend, in all its sends.

    Args:
        usd: dollars; None: no limit.
        tokens: prompt and completion tokens together; None: no limit.
        price: dollars for what a model read and wrote in a tier; NaN where its price is not known.
        tier: the one in which every answer is sure to come, whatever the requests ask for; None: none is sure.

    An answer costs at the most its prompt and every choice's cap. The prompt is our own count; where the server is
    seen to count more, what is set aside grows with it, also for what is on its way. An answer that may have been
    billed without our seeing it, as after a timeout, is taken to have cost the most.

    Attributes:
        spent_usd, spent_tokens: settled so far.

    >>> from parallel_openai.records import Size
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
        usd: float | None = None,
        tokens: float | None = None,
        price: PriceOf | None = None,
        tier: str | None = None,
    ) -> None:
        self._usd = math.inf if usd is None else usd
        self._tokens = math.inf if tokens is None else tokens
        self._price = price if usd is not None else None
        self._tier = tier
        self.spent_usd = 0.0
        self.spent_tokens = 0.0
        self._open: set[Reserve] = set()
        self._held_usd = 0.0
        self._held_tokens = 0.0
        self._factor = 1.0  # of the prompt as we count it
        self._shown = 0.0  # the largest factor that an answer has shown

    def objection(self, request: APIRequest) -> str | None:
        """Why no worst case can be told for the request; None where it can."""
        body = request.request_json
        if self._most_output(request) == math.inf:
            return (
                "A budget needs a cap on every answer, or the next one could pass it. Set max_completion_tokens=... "
                "(max_tokens= for older servers)."
            )
        unseen = reads_unseen(body)
        if unseen is not None:
            return (
                f"With a budget, everything the model reads must be in the request itself, and {unseen} makes it read "
                "more. Run such rows without a budget."
            )
        if math.isnan(self._most_usd(str(body.get("model")), Usage(1, 1), tier_of(body))):
            return (
                f"budget_usd= needs the model's price, and that of {str(body.get('model'))!r} is not known. "
                "Use budget_tokens= for it."
            )
        return None

    def reserve(self, request: APIRequest) -> Reserve | None:
        """Set the worst case of one send aside; None where it does not fit beside what is spent and set aside.

        Give it back with `settle`.
        """
        size = request.size
        reserve = Reserve(
            str(request.request_json.get("model")),
            size.prompt_tokens if size else 0,
            self._most_output(request),
            tier_of(request.request_json),
        )
        if not self._shown:
            if self._open and _has_media(request.request_json):
                return None  # how the server counts it is seen on the first answer, and not on many at once
            self._count_by(UNKNOWN_FACTOR if self._open else 1.0)
        self._measure(reserve)
        if (
            self.spent_tokens + self._held_tokens + reserve.tokens > self._tokens
            or self.spent_usd + self._held_usd + reserve.usd > self._usd
        ):
            return None
        self._open.add(reserve)
        self._held_tokens += reserve.tokens
        self._held_usd += reserve.usd
        return reserve

    def settle(self, reserve: Reserve, response: Response) -> None:
        """Book what the send has really cost."""
        usage = usage_of(response.data)
        if usage is not None and usage.total_tokens:
            self.spent_tokens += usage.total_tokens
            self.spent_usd += self._cost(reserve, response, usage)
        elif not (_is_refusal(response.status) or response.error_code in UNSENT_CODES):
            self.spent_tokens += reserve.tokens
            self.spent_usd += reserve.usd
        self._release(reserve)
        if usage is not None and usage.prompt_tokens and reserve.prompt_tokens:
            self._learn(usage.prompt_tokens / reserve.prompt_tokens)

    def _most_output(self, request: APIRequest) -> float:
        if request.path in _WITHOUT_OUTPUT:
            return 0.0
        size = request.size
        if size is None or not size.max_output_tokens:
            return math.inf
        return float(size.choices * size.max_output_tokens)

    def _measure(self, reserve: Reserve) -> None:
        prompt = math.ceil(reserve.prompt_tokens * self._factor)
        reserve.tokens = prompt + reserve.output_tokens
        if reserve.output_tokens < math.inf:
            cost = self._most_usd(reserve.model, Usage(prompt, int(reserve.output_tokens)), reserve.tier)
            reserve.usd = math.inf if math.isnan(cost) else cost

    def _most_usd(self, model: str, usage: Usage, tier: str | None) -> float:
        """A server need not heed the tier that is asked for, so its discount is not counted on."""
        if self._price is None:
            return 0.0
        costs = [self._price(model, usage, each) for each in ((None, tier) if self._tier is None else (self._tier,))]
        return math.nan if any(map(math.isnan, costs)) else max(costs)

    def _cost(self, reserve: Reserve, response: Response, usage: Usage) -> float:
        if self._price is None:
            return 0.0
        tier = tier_of(response.data)
        cost = self._price(str(response.data.get("model")), usage, tier)
        if math.isnan(cost):  # an alias that the price list does not have
            cost = self._price(reserve.model, usage, tier)
        return reserve.usd if math.isnan(cost) else cost

    def _release(self, reserve: Reserve) -> None:
        self._open.discard(reserve)
        self._held_tokens = self._held_tokens - reserve.tokens if self._open else 0.0
        self._held_usd = self._held_usd - reserve.usd if self._open else 0.0

    def _learn(self, factor: float) -> None:
        if factor > self._shown:
            self._shown = factor
            self._count_by(max(1.0, factor if factor <= 1.0 else factor * MARGIN))

    def _count_by(self, factor: float) -> None:
        if factor == self._factor:
            return
        self._factor = factor
        for reserve in self._open:
            self._measure(reserve)
        self._held_tokens = sum(reserve.tokens for reserve in self._open)
        self._held_usd = sum(reserve.usd for reserve in self._open)


def reads_unseen(body: Mapping[str, Any]) -> str | None:
    """What in a body has the model read more than the body itself holds; None where nothing has.

    >>> reads_unseen({"tools": [{"type": "web_search"}]})
    "the tool 'web_search'"
    """
    for name in ("previous_response_id", "conversation", "web_search_options"):
        if body.get(name) is not None:
            return name
    if isinstance(body.get("prompt"), Mapping):  # one that is kept at OpenAI
        return "prompt"
    for tool in _list(body.get("tools")):
        if isinstance(tool, Mapping) and tool.get("type", "function") not in ("function", "custom"):
            return f"the tool {tool.get('type')!r}"
    for part in _parts(body):
        about = part.get("file", part)
        if isinstance(about, Mapping) and (about.get("file_id") or about.get("file_url")):
            return "a file"
    return None


def _is_refusal(status: int) -> bool:
    """Whether an answer says that the request was not worked on. A gateway that has waited in vain cannot know."""
    return status >= 300 and status not in (408, 502, 504) and status < 520


def _has_media(body: Mapping[str, Any]) -> bool:
    """Whether there is a picture, a sound or a file in a body, of which servers make tokens as they please."""
    return any(part.get("type") not in ("text", "input_text", "output_text", "refusal") for part in _parts(body))


def _parts(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for message in (*_list(body.get("messages")), *_list(body.get("input"))):
        for part in _list(message.get("content")) if isinstance(message, Mapping) else ():
            if isinstance(part, Mapping):
                yield part


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else ()
