"""Plan what a call would do with each row: send it, reuse an answer of the journal or of another row, or fail it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

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


class PlannedRow(NamedTuple):
    """What would be done with a row, or a sample of one."""

    status: str
    error_code: str | None
    error: str | None
    prompt_tokens: int | None
    request_key: str | None


@dataclass
class RowPlan:
    rows: list[PlannedRow] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)  # the requests to send
    first: list[APIRequest] = field(default_factory=list)  # the first of them, complete
    learned: Learned = field(default_factory=Learned)  # from the journal's answers

    def add(
        self, status: str, request: APIRequest | None = None, code: str | None = None, error: str | None = None
    ) -> None:
        size = None if request is None else request.size
        key = None if request is None else request.key
        self.rows.append(PlannedRow(status, code, error, None if size is None else size.prompt_tokens, key))

    def failures(self) -> dict[str, tuple[int, int, str]]:
        """Failing rows by error code: how many, the first one's number, and its message."""
        found: dict[str, tuple[int, int, str]] = {}
        for number, row in enumerate(self.rows):
            if row.error_code is not None:
                times, first, sentence = found.get(row.error_code, (0, number, row.error or ""))
                found[row.error_code] = (times + 1, first, sentence)
        return found

    def to_frame(self) -> pd.DataFrame:
        types = dict.fromkeys(("error_code", "error", "request_key"), "string")
        statuses = pd.CategoricalDtype([TO_SEND, KNOWN, SHARED, FAILS])
        frame = pd.DataFrame(self.rows, columns=PlannedRow._fields, dtype=object)
        return frame.astype({**types, "status": statuses, "prompt_tokens": "Int64"})


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
            some = builder.some_requests(df, within=LOOK_WITHIN)
            paths = neighbours_of(journal, known, some, origin, rows=len(df))
            known.neighbours = [Neighbour(path, simulated=simulated).trusting(origin) for path in paths if path]
        for request in builder.requests(df):
            if isinstance(request, BadPromptError):
                plan.add(FAILS, None, request.code, str(request))
            elif request.key in seen:
                plan.add(SHARED, request)
            else:
                seen.add(request.key)
                result = known.get(request)
                if result is not None:
                    plan.learned.add(request, result)
                if result is not None and (_is_answer(result, reader) or not retry_failed):
                    plan.add(KNOWN, request)
                elif (objection := _objection(request, base_url, largest)) is not None:
                    plan.add(FAILS, request, *objection)
                else:
                    plan.add(TO_SEND, request)
                    plan.sent.append(Sent(str(request.model), _size(request), len(request.body)))
                    plan.first += [request] if len(plan.first) < bodies else []
    finally:
        known.close()
    return plan


def _size(request: APIRequest) -> Size:
    assert request.size is not None
    return request.size


def _is_answer(result: Result, reader: Reader) -> bool:
    """Whether the result is kept; an answer is kept even if the caller's parser refused it."""
    if not isinstance(result.response, Mapping):
        return False
    return reader.reading(result.response).error_code in (None, "parse_error")


def _objection(request: APIRequest, base_url: str, largest: float | None) -> tuple[str, str] | None:
    tokens, model = _size(request).prompt_tokens, str(request.model)
    if largest is not None and tokens > largest:
        return (
            "request_too_large",
            f"The prompt has {tokens:,} tokens and the account's limit is {largest:,.0f} tokens per minute.",
        )
    window = context_window(model, base_url)
    if window is not None and tokens > window:
        return "context_length_exceeded", f"The prompt has {tokens:,} tokens and {model} reads at most {window:,}."
    return None
