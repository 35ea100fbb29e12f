"""`preview`: what a call would send, cost and take, without sending anything."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from parallel_openai._arguments import check_count
from parallel_openai._client.client import Client
from parallel_openai._client.default_client import client_for
from parallel_openai._display.blocks import Advice, Block, Code, Heading, Sentence, Table, counted
from parallel_openai._display.display import Display
from parallel_openai._frames.columns.earlier_columns import without_earlier
from parallel_openai._frames.columns.table import check_frame
from parallel_openai._frames.defensive_copy import on_copies
from parallel_openai._frames.journal_path import journal_path
from parallel_openai._frames.parameters import with_extra
from parallel_openai._frames.process import answer_reader, make_builder
from parallel_openai._frames.request_builder import Prompt
from parallel_openai._journal.origins import here
from parallel_openai._labels.label import plan_labels
from parallel_openai._labels.question import Confidence, make_question
from parallel_openai._preview.row_plan import KNOWN, SHARED, RowPlan, count
from parallel_openai._preview.run_estimate import (
    Estimate,
    Pace,
    batches,
    estimate,
    estimate_batch,
    output_cap,
    prices_table,
    usd,
)
from parallel_openai._requests.endpoints import EndpointName, names_in
from parallel_openai._requests.prices import tier_of
from parallel_openai._requests.schemas.structured_outputs import Shape

#: Arguments of the two functions that do not affect what is sent.
_RUN_OPTIONS = names_in(
    "abstain_below budget_tokens budget_usd deadline explode gold keep_reasoning lane parse prefix progress repair "
    "resubmit"
)


@on_copies
def preview(
    df: pd.DataFrame,
    prompt: Prompt,
    *,
    model: str | None,
    labels: Any = None,
    system: Prompt | None = None,
    endpoint: EndpointName = "chat.completions",
    response_format: Shape | None = None,
    multi: bool = False,
    scale: tuple[int, int] | None = None,
    examples: pd.DataFrame | None = None,
    explain: bool = False,
    confidence: Confidence | Sequence[Confidence] | None = None,
    samples: int = 1,
    metadata: Hashable | Sequence[Hashable] = (),
    save_to: str | os.PathLike[str] | None = None,
    retry_failed: bool = True,
    bodies: int = 1,
    client: Client | None = None,
    **params: Any,
) -> Preview:
    """Show what `process_dataframe`, or with `labels` or `scale` `label_dataframe`, would do with these arguments.

    Every prompt is rendered and its tokens are counted, but nothing is sent.

    Args:
        bodies: how many of the first requests to show.

    The other arguments are those of the two functions. Arguments that do not affect what is sent (`budget_usd`, `lane`,
    `repair` ...) are accepted and ignored, so that the same arguments can be passed to both.

    Returns:
        The preview; print it, or let a notebook show it. The cost of answers is estimated from those in the journal:
        run a few rows first, `df.head(20)`, and preview again. The time is estimated from the account's limits, if
        the client knows them from its arguments or from earlier answers.

    Raises:
        InvalidInputError: the call itself would raise it: a column is missing, a template is invalid ...

    >>> import parallel_openai as po
    >>> df = pd.DataFrame({"text": ["Arrived early.", "It leaks.", None]})
    >>> seen = po.preview(df, "Is this review happy? {text}", model="gpt-5-mini", max_completion_tokens=100,
    ...                   client=po.Client("http://127.0.0.1:9/v1", max_requests_per_minute=60))
    >>> seen.requests, seen.failing
    (2, {'missing_prompt': 1})
    >>> f"{seen.online.most_usd:.6f}"
    '0.000408'
    """
    check_frame(df)
    verb = "process" if labels is None and scale is None else "label"
    metadata_columns = [metadata] if isinstance(metadata, str) or not isinstance(metadata, Sequence) else metadata
    df = without_earlier(df, verb, params.get("prefix", ""), (prompt, system, *metadata_columns, params.get("gold")))
    params = {name: value for name, value in params.items() if name not in _RUN_OPTIONS}
    if verb == "process":
        builder = make_builder(prompt, model, system, endpoint, response_format, samples, metadata, params)
        reader = answer_reader(builder)
    else:
        question = make_question(
            labels,
            multi=multi,
            scale=scale,
            explain=explain,
            samples=samples,
            confidence=confidence,
            abstain_below=None,
            params=with_extra(params),
        )
        builder, reader = plan_labels(df, question, prompt, model, system, endpoint, examples, None, metadata, params)
    builder.check(df)
    check_count(bodies, "bodies", least=0)
    client = client_for(client)
    base_url = client.base_url
    journal = journal_path(builder, client.place, save_to)
    plan = count(
        df,
        builder,
        reader,
        journal,
        bodies=bodies,
        retry_failed=retry_failed,
        simulated=client.is_local,
        base_url=base_url,
        largest=client.largest_prompt(model),
        origin=here(client.place) if save_to is None else None,
    )
    requests_per_minute, tokens_per_minute, rule = client.pace(model)
    limits = {"requests": requests_per_minute, "tokens": tokens_per_minute}
    pace = Pace(requests_per_minute, tokens_per_minute, rule, client.max_concurrent_requests)
    sent, learned, statuses = plan.sent, plan.learned, Counter(row.status for row in plan.rows)
    return Preview(
        rows=len(df),
        model=model,
        url=client.url(plan.first[0]) if plan.first else base_url.partition("?")[0],
        journal=str(journal),
        requests=len(sent),
        known=statuses[KNOWN],
        shared=statuses[SHARED],
        failing={code: times for code, (times, _, _) in plan.failures().items()},
        prompt_tokens=sum(each.size.prompt_tokens for each in sent),
        most_output_tokens=sum((output_cap(each, builder.endpoint) for each in sent), 0.0),
        expected_output_tokens=learned.output if builder.endpoint.caps else 0.0,
        learned_from=learned.answers,
        limits={name: limit for name, limit in limits.items() if limit is not None},
        online=estimate(sent, builder.endpoint, learned, pace, tier=tier_of(builder.params), price=client.price),
        batch=estimate_batch(sent, builder.endpoint, learned, price=client.price),
        batches=batches(sent),
        bodies=tuple(request.request_json for request in plan.first),
        _plan=plan,
        _index=df.index,
        _samples=builder.samples,
    )


@dataclass(frozen=True, repr=False)
class Preview(Display):
    """What a call would send, cost and take; `print` it, or let a notebook show it.

    Attributes:
        rows: rows of the frame.
        model: the model.
        url: the address that requests are sent to.
        journal: the file of answers.
        requests: how many would be sent.
        known: answers in the journal, which are not requested again.
        shared: rows with the same request as another row, which share its answer.
        failing: rows for which no request can be sent, by error code.
        prompt_tokens: of all requests to send, counted locally.
        most_output_tokens: the sum of the answers' caps; infinite if one has no cap.
        expected_output_tokens: per answer, the mean of the answers in the journal; None if it has none.
        learned_from: the number of these answers.
        limits: the known ones of `requests` and `tokens` per minute.
        online: the cost and time of sending requests one by one.
        batch: the same through the Batch API.
        batches: how many batches there would be.
        bodies: the first requests.
    """

    rows: int
    model: str | None
    url: str
    journal: str
    requests: int
    known: int
    shared: int
    failing: Mapping[str, int]
    prompt_tokens: int
    most_output_tokens: float
    expected_output_tokens: float | None
    learned_from: int
    limits: Mapping[str, float]
    online: Estimate
    batch: Estimate
    batches: int
    bodies: tuple[Mapping[str, Any], ...]
    _plan: RowPlan = field(compare=False)
    _index: pd.Index[Any] = field(compare=False)
    _samples: int = field(compare=False)

    def to_frame(self) -> pd.DataFrame:
        """One line per row, or per sample of a row, with the frame's index.

        `status` is `to send`, `in the journal`, `shares an answer` or `fails`. The others are `error_code`, `error`,
        `prompt_tokens` and `request_key`.
        """
        return self._plan.to_frame().set_axis(self._index.repeat(self._samples))

    @property
    def failures(self) -> list[tuple[str, int, Any, str]]:
        """Failing rows by error code: the code, how many, the first one's index label, and its message."""
        return [
            (code, times, self._index[first // self._samples], sentence)
            for code, (times, first, sentence) in self._plan.failures().items()
        ]

    def blocks(self) -> list[Block]:
        bodies = [
            Code(f"Request {number}, to {self.url}", json.dumps(body, indent=2, ensure_ascii=False))
            for number, body in enumerate(self.bodies, 1)
        ]
        return [
            Heading(
                f"Preview of {counted(self.rows, 'row')} for {self.model or 'their own models'}. Nothing was sent."
            ),
            Table("", (), list(self._facts())),
            *([prices_table(self.online, self.batch, self.batches)] if self.requests else []),
            *map(Advice, self._notes()),
            *bodies,
            Sentence(f"Answers: {self.journal}"),
        ]

    def _facts(self) -> Iterator[tuple[str, str]]:
        parts = [counted(self.requests, "request")]
        parts += [f"{self.known:,} in the journal already"] if self.known else []
        failing = sum(self.failing.values())
        parts += [f"{counted(self.shared, 'row')} sharing an answer"] if self.shared else []
        parts += [f"{counted(failing, 'row')} failing"] if failing else []
        yield "to send", ", ".join(parts)
        if self.requests:
            sizes = [each.size.prompt_tokens for each in self._plan.sent]
            median = f"{np.median(sizes):,.0f}"
            spread = f"; {min(sizes):,} to {max(sizes):,} each, median {median}" if len(sizes) > 1 else ""
            yield "prompt tokens", f"{self.prompt_tokens:,}{spread}"
            yield "answer tokens", self._output()
        yield "limits", self._limits()

    def _notes(self) -> Iterator[str]:
        if self.requests and math.isnan(self.online.prompt_usd):
            yield f"The price of {self.model or 'a model'} is not known."
        elif self.requests and self.expected_output_tokens is None:
            yield (
                f"The prompts alone cost {usd(self.online.prompt_usd)}. To estimate the answers, run df.head(20), then "
                "preview again."
            )
        if self.requests and math.isinf(self.most_output_tokens):
            yield "Nothing caps the answers; max_completion_tokens=... would (max_tokens= on older servers)."
        for code, times, label, sentence in self.failures:
            fail = "row fails" if times == 1 else "rows fail"
            yield f"{times:,} {fail} with {code}, the first at {label!r}: {sentence}"

    def _output(self) -> str:
        if self.expected_output_tokens == 0.0 and self.most_output_tokens == 0.0:
            return "none"
        most = "not capped" if math.isinf(self.most_output_tokens) else f"at most {self.most_output_tokens:,.0f}"
        if self.expected_output_tokens is None:
            return most
        expected = f"{self.expected_output_tokens:,.1f} each expected"
        return f"{most}; {expected}, from {self.learned_from:,} answers in the journal"

    def _limits(self) -> str:
        if not self.limits:
            return "not known yet: learned from the first answers, or set by Client(max_requests_per_minute=...)"
        return " and ".join(f"{limit:,.0f} {name}" for name, limit in self.limits.items()) + " per minute"
