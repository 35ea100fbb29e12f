"""Plan what a call would do with each row: send it, reuse an answer of the journal or of another row, or fail it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from parallel_openai._frames.columns.answer_columns import Reader
from parallel_openai._frames.request_builder import RequestBuilder
from parallel_openai._journal.known_results import KnownResults
from parallel_openai._journal.neighbours import Neighbour, neighbours_of
from parallel_openai._journal.origins import Origin
from parallel_openai._records import APIRequest, Result, Size
from parallel_openai._requests.endpoints import usage_of
from parallel_openai._requests.prices import context_window
from parallel_openai._requests.template import BadPromptError

#: Seconds to spend on the requests that are looked up in other journals.
LOOK_WITHIN = 0.4
TO_SEND, KNOWN, SHARED, FAILS = "to send", "in the journal", "shares an answer", "fails"


@dataclass(frozen=True, slots=True)
class Sent:
    """A request to send; `bytes` is the size of its body."""

    model: str
    size: Size
    bytes: int


@dataclass
class Learned:
    """Sums over the journal's answers to the same question, from which those to come are estimated."""

    answers: int = 0
    completion_tokens: int = 0
    prompt_tokens: int = 0
    counted_tokens: int = 0
    timed: int = 0
    seconds: float = 0.0

    def add(self, request: APIRequest, result: Result) -> None:
        usage = usage_of(result.response)
        if usage is None or request.size is None:
            return
        self.answers += 1
        self.completion_tokens += usage.completion_tokens
        self.prompt_tokens += usage.prompt_tokens
        self.counted_tokens += request.size.prompt_tokens
        if result.attempts:
            self.timed += 1
            self.seconds += result.attempts[-1].seconds

    @property
    def output(self) -> float | None:
        """Mean tokens per answer."""
        return self.completion_tokens / self.answers if self.answers else None

    @property
    def factor(self) -> float:
        """The server's count of prompt tokens, divided by the local one."""
        return self.prompt_tokens / self.counted_tokens if self.counted_tokens else 1.0

    @property
    def latency(self) -> float | None:
        """Mean seconds per answer."""
        return self.seconds / self.timed if self.timed else None


@dataclass
class RowPlan:
    """The plan for all rows."""

    # An item for each sample of each row.
    status: list[str] = field(default_factory=list)
    codes: list[str | None] = field(default_factory=list)
    errors: list[str | None] = field(default_factory=list)
    prompt_tokens: list[int | None] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)  # the requests to send
    first: list[APIRequest] = field(default_factory=list)  # the first of them, complete
    learned: Learned = field(default_factory=Learned)  # from the journal's answers

    def add(
        self, status: str, request: APIRequest | None = None, code: str | None = None, error: str | None = None
    ) -> None:
        self.status.append(status)
        self.codes.append(code)
        self.errors.append(error)
        self.prompt_tokens.append(request.size.prompt_tokens if request is not None and request.size else None)
        self.keys.append(request.key if request is not None else None)


def count(
    df: pd.DataFrame,
    builder: RequestBuilder,
    reader: Reader,
    journal: Path,
    *,
    bodies: int,  # how many of the first requests to keep
    retry_failed: bool,
    simulated: bool,  # whether answers of the simulator count as known
    base_url: str,
    largest: float | None,  # tokens of the largest prompt that the account's limits allow; None if unknown
    origin: Origin | None,  # the account whose answers in neighbouring journals count as known; None for no account
) -> RowPlan:
    """Go over the rows as a run would, without sending."""
    plan = RowPlan()
    known = KnownResults(journal, failures=not retry_failed, simulated=simulated)
    seen: set[str] = set()
    try:
        if origin is not None:
            paths = neighbours_of(journal, known, builder.some_requests(df, within=LOOK_WITHIN), origin)
            known.neighbours = [Neighbour(path, simulated=simulated).believing(origin) for path in paths if path]
        for request in builder.requests(df):
            if isinstance(request, BadPromptError):
                plan.add(FAILS, None, request.code, str(request))
            elif request.key in seen:
                plan.add(SHARED, request)
            else:
                seen.add(request.key)
                _plan_request(plan, request, known.get(request), reader, retry_failed, base_url, largest, bodies)
    finally:
        known.close()
    return plan


def _plan_request(
    plan: RowPlan,
    request: APIRequest,
    result: Result | None,
    reader: Reader,
    retry_failed: bool,
    base_url: str,
    largest: float | None,
    bodies: int,
) -> None:
    if result is not None:
        plan.learned.add(request, result)
        if _is_answer(result, reader) or not retry_failed:
            plan.add(KNOWN, request)
            return
    size = request.size
    assert size is not None
    model = str(request.request_json.get("model"))
    objection = _objection(size, model, base_url, largest)
    if objection is not None:
        plan.add(FAILS, request, *objection)
        return
    plan.add(TO_SEND, request)
    plan.sent.append(Sent(model, size, len(request.body)))
    if len(plan.first) < bodies:
        plan.first.append(request)


def _is_answer(result: Result, reader: Reader) -> bool:
    """Whether the result is kept; an answer is kept even if the caller's parser refused it."""
    if not isinstance(result.response, Mapping):
        return False
    return reader.reading(result.response).error_code in (None, "parse_error")


def _objection(size: Size, model: str, base_url: str, largest: float | None) -> tuple[str, str] | None:
    tokens = size.prompt_tokens
    if largest is not None and tokens > largest:
        return (
            "request_too_large",
            f"The prompt has {tokens:,} tokens and the account's limit is {largest:,.0f} tokens per minute.",
        )
    window = context_window(model, base_url)
    if window is not None and tokens > window:
        return "context_length_exceeded", f"The prompt has {tokens:,} tokens and {model} reads at most {window:,}."
    return None


def by_code(plan: RowPlan) -> dict[str, tuple[int, int, str]]:
    """Failing rows by error code: how many, the first one's number, and its message."""
    found: dict[str, tuple[int, int, str]] = {}
    for number, (code, error) in enumerate(zip(plan.codes, plan.errors, strict=True)):
        if code is not None:
            times, first, sentence = found.get(code, (0, number, error or ""))
            found[code] = (times + 1, first, sentence)
    return found


def columns(plan: RowPlan) -> dict[str, Any]:
    return {
        "status": pd.Categorical(plan.status, categories=[TO_SEND, KNOWN, SHARED, FAILS]),
        "error_code": pd.array(plan.codes, dtype="string"),
        "error": pd.array(plan.errors, dtype="string"),
        "prompt_tokens": pd.array(plan.prompt_tokens, dtype="Int64"),
        "request_key": pd.array(plan.keys, dtype="string"),
    }
