"""What a call would do with each row: send it, take its answer from the journal or from another row, or fail it."""

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

#: Seconds for the requests that are looked for in journals under other names.
LOOK_WITHIN = 0.4
TO_SEND, KNOWN, SHARED, FAILS = "to send", "in the journal", "shares an answer", "fails"


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that would be sent: its model, its size, and the bytes of its body."""

    model: str
    size: Size
    bytes: int


@dataclass
class Learned:
    """What earlier answers to the same question tell of those to come."""

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
        """Tokens of an answer, on the mean."""
        return self.completion_tokens / self.answers if self.answers else None

    @property
    def factor(self) -> float:
        """How the server counts a prompt, against our count."""
        return self.prompt_tokens / self.counted_tokens if self.counted_tokens else 1.0

    @property
    def latency(self) -> float | None:
        """Seconds of an answer, on the mean."""
        return self.seconds / self.timed if self.timed else None


@dataclass
class RowPlan:
    """All rows, one entry for each sample of each.

    Attributes:
        status, codes, errors, prompt_tokens, keys: a cell for each.
        sent: what would be sent.
        first: the first of these requests.
        learned: from the journal's answers.
    """

    status: list[str] = field(default_factory=list)
    codes: list[str | None] = field(default_factory=list)
    errors: list[str | None] = field(default_factory=list)
    prompt_tokens: list[int | None] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    first: list[APIRequest] = field(default_factory=list)
    learned: Learned = field(default_factory=Learned)

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
    bodies: int,
    retry_failed: bool,
    simulated: bool,
    base_url: str,
    largest: float | None,
    origin: Origin | None,
) -> RowPlan:
    """Walk over the rows as a run would, with everything but the sending.

    Args:
        bodies: how many of the first requests to keep.
        simulated: whether answers of the simulator count as known.
        largest: tokens of the largest prompt that the account's limit lets through; None: not known.
        origin: whose answers in journals beside it count as known; None: none.
    """
    counted = RowPlan()
    known = KnownResults(journal, failures=not retry_failed, simulated=simulated)
    seen: set[str] = set()
    try:
        if origin is not None:
            paths = neighbours_of(journal, known, builder.some_requests(df, within=LOOK_WITHIN), origin)
            known.neighbours = [Neighbour(path, simulated=simulated).believing(origin) for path in paths if path]
        for request in builder.requests(df):
            if isinstance(request, BadPromptError):
                counted.add(FAILS, None, request.code, str(request))
            elif request.key in seen:
                counted.add(SHARED, request)
            else:
                seen.add(request.key)
                _place(counted, request, known.get(request), reader, retry_failed, base_url, largest, bodies)
    finally:
        known.close()
    return counted


def _place(
    counted: RowPlan,
    request: APIRequest,
    result: Result | None,
    reader: Reader,
    retry_failed: bool,
    base_url: str,
    largest: float | None,
    bodies: int,
) -> None:
    if result is not None:
        counted.learned.add(request, result)
        if _is_answer(result, reader) or not retry_failed:
            counted.add(KNOWN, request)
            return
    size = request.size
    assert size is not None
    model = str(request.request_json.get("model"))
    objection = _objection(size, model, base_url, largest)
    if objection is not None:
        counted.add(FAILS, request, *objection)
        return
    counted.add(TO_SEND, request)
    counted.sent.append(Sent(model, size, len(request.body)))
    if len(counted.first) < bodies:
        counted.first.append(request)


def _is_answer(result: Result, reader: Reader) -> bool:
    """Whether it is not asked for again; one that only the caller's parser did not like is not, either."""
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
        return "context_length_exceeded", f"The prompt has {tokens:,} tokens and {model} reads {window:,} at the most."
    return None


def by_code(counted: RowPlan) -> dict[str, tuple[int, int, str]]:
    """Of the rows that fail, by code: how many, the first one's number, and its sentence."""
    found: dict[str, tuple[int, int, str]] = {}
    for number, (code, error) in enumerate(zip(counted.codes, counted.errors, strict=True)):
        if code is not None:
            times, first, sentence = found.get(code, (0, number, error or ""))
            found[code] = (times + 1, first, sentence)
    return found


def columns(counted: RowPlan) -> dict[str, Any]:
    """The cells as columns."""
    return {
        "status": pd.Categorical(counted.status, categories=[TO_SEND, KNOWN, SHARED, FAILS]),
        "error_code": pd.array(counted.codes, dtype="string"),
        "error": pd.array(counted.errors, dtype="string"),
        "prompt_tokens": pd.array(counted.prompt_tokens, dtype="Int64"),
        "request_key": pd.array(counted.keys, dtype="string"),
    }
