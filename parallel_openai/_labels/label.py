"""`label_dataframe`: label each row, with a confidence if wanted."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import pandas as pd

from parallel_openai._batch.lane_options import Lane
from parallel_openai._client.client import Client
from parallel_openai._client.default_client import client_for
from parallel_openai._frames.columns.answer_columns import Reader
from parallel_openai._frames.columns.table import check_frame, has_column
from parallel_openai._frames.frame_run import FrameRun
from parallel_openai._frames.parameters import with_extra
from parallel_openai._frames.process import make_builder
from parallel_openai._frames.request_builder import Prompt, RequestBuilder
from parallel_openai._frames.run_options import Options
from parallel_openai._frames.sync_async import Call, awaitable, blocking
from parallel_openai._labels.examples import example_messages, keys_of_examples
from parallel_openai._labels.label_columns import label_reader
from parallel_openai._labels.question import Confidence, Question, instruction, make_question
from parallel_openai._requests.logprobs import logprob_params
from parallel_openai._requests.schemas.label_schema import label_format
from parallel_openai.errors import InvalidInputError


@blocking
def label_dataframe(
    df: pd.DataFrame,
    prompt: Prompt,
    *,
    labels: Any = None,
    model: str | None,
    system: Prompt | None = None,
    endpoint: Literal["chat.completions", "responses"] = "chat.completions",
    multi: bool = False,
    scale: tuple[int, int] | None = None,
    examples: pd.DataFrame | None = None,
    explain: bool = False,
    samples: int = 1,
    confidence: Confidence | Sequence[Confidence] | None = None,
    abstain_below: float | None = None,
    gold: Hashable | None = None,
    metadata: Hashable | Sequence[Hashable] = (),
    save_to: str | os.PathLike[str] | None = None,
    retry_failed: bool = True,
    repair: bool | int = False,
    budget_usd: float | None = None,
    budget_tokens: int | None = None,
    deadline: float | None = None,
    lane: Lane = "online",
    resubmit: bool = False,
    prefix: str = "",
    progress: bool = True,
    client: Client | None = None,
    **params: Any,
) -> Call[pd.DataFrame]:
    """Label each row with one of `labels`, several of them, or a score.

    A JSON schema (structured outputs) restricts the model to the labels. Any other answer makes the row `failed` with
    error_code `off_label`; it never becomes a wrong label.

    Args:
        labels: two or more labels: a list of strings, numbers or Enum members, an Enum, or a mapping from each label
            to a description for the system message. For several labels at once: a pydantic model, dataclass or
            TypedDict whose fields are each a `Literal[...]`, an Enum, a bool, a list of one of these, an integer with
            bounds (`Annotated[int, Field(ge=1, le=5)]`) or a string.
        system: the system message; None: one that names the labels. Descriptions of labels are appended.
        endpoint: `chat.completions` or `responses`.
        multi: True for any number of the labels per row; `label` then holds lists, in the order of `labels`.
        scale: lowest and highest score, such as (1, 5), for integers instead of labels; `labels` may then describe
            some: `{1: "hated it", 5: "loved it"}`.
        examples: few-shot examples: the columns of the prompt and a column `label` (with several fields, their
            columns). They are sent, and paid for, with each row. A warning names rows of `df` that are among them;
            `evaluate` and `compare` leave these out.
        explain: True for a column `label_reason`. The model gives the reason before the label, so that the label
            follows from it; this takes more tokens and may change labels.
        samples: answers per row, which differ only at a temperature above 0. With more than one, `label` is the
            majority (of scores the median; of several labels those in more than half), `votes` holds each sample's
            label, `confidence` is the share that agrees with `label` (of several labels: on the one with the least
            agreement), and `tie` is True if another label has as many votes; then the more probable one is taken if
            that is known, otherwise a random one that is the same in every run. If a sample fails, the row is
            `failed`, with the label of the others.
        confidence: where `confidence` comes from: `votes` (above), `logprobs` or `first_token`. In a list, the first
            fills `confidence`, and each other one a column such as `confidence_votes`.
            `logprobs`: the label's probability among the labels: the product over its tokens of p(token) / (sum of p
            of the tokens that lead to a label). `probabilities` holds that of every label, and `probability_bounds`
            the bounds for labels whose probability the tokens do not determine (labels with a common beginning, or
            tokens missing from the server's list). If it fills `confidence`, `label` is the most probable label, and
            `label_drawn` the one the model answered, which sometimes differs.
            `first_token`: the same for the first token alone.
            Both request `logprobs` and 20 `top_logprobs` (5 from a server that takes no more). Reasoning models
            refuse these, so that no row is answered; some servers ignore them, and `confidence` is then missing.
        abstain_below: labels with a lower or unknown confidence become missing (`<NA>`).
        gold: a column with the right labels of all or some rows: the progress bar shows the accuracy so far, and
            `evaluate(out)` compares with it. The model does not see it.

    The other arguments, the errors and the columns are those of `process_dataframe`, with `label` instead of
    `response`: categorical for one label, lists for several, `Int64` for a score. If `labels` is a class, each field
    has its own column, and its name precedes `confidence`, `votes` and `probabilities`.

    >>> import parallel_openai as po
    >>> df = pd.DataFrame({"text": ["A wonderful lamp.", "It broke in a week, terrible."]})
    >>> with po.local.simulator.serve() as server:
    ...     out = po.label_dataframe(df, "What is the sentiment? {text}", labels=["positive", "negative"],
    ...                              model="gpt-4o-mini", client=po.Client(server.base_url), progress=False)
    >>> out["label"].tolist()
    ['positive', 'negative']
    """
    options = Options.of("label", locals())
    question = make_question(
        labels,
        multi=multi,
        scale=scale,
        explain=explain,
        samples=samples,
        confidence=confidence,
        abstain_below=abstain_below,
        params=with_extra(params),
    )
    builder, reader = plan_labels(df, question, prompt, model, system, endpoint, examples, gold, metadata, params)
    return FrameRun(df, builder, reader, client_for(client), options)


alabel_dataframe = awaitable(label_dataframe)


def plan_labels(
    df: pd.DataFrame,
    question: Question,
    prompt: Prompt,
    model: str | None,
    system: Prompt | None,
    endpoint: str,
    examples: pd.DataFrame | None,
    gold: Hashable | None,
    metadata: Hashable | Sequence[Hashable],
    params: Mapping[str, Any],
) -> tuple[RequestBuilder, Reader]:
    check_frame(df)
    logprobs = logprob_params(endpoint, params) if question.asks_for_logprobs else {}
    if "response_format" in params:
        raise InvalidInputError("label_dataframe makes its own response_format; use process_dataframe for another.")
    if params.get("n", 1) != 1:
        raise InvalidInputError(f"n={params['n']!r} would be paid for and give one label; use samples= for several.")
    builder = make_builder(
        prompt,
        model,
        _system(df, system, question),
        endpoint,
        label_format(question.fields, explain=question.explain),
        question.samples,
        metadata,
        {**params, **logprobs},
    )
    if examples is not None:
        builder = replace(builder, examples=example_messages(examples, prompt, question))
    reader = label_reader(builder.endpoint, question)
    if examples is not None and (keys := keys_of_examples(df, examples, prompt, builder)):
        reader = replace(reader, about={**reader.about, "example_keys": keys})
    if gold is None:
        return builder, reader
    from parallel_openai._labels.running_accuracy import make_judge  # what evaluates labels is large

    judge = make_judge(df, gold, question)
    return builder, replace(reader, judge=judge, about={**reader.about, "gold": gold})


def _system(df: pd.DataFrame, system: Prompt | None, question: Question) -> Prompt:
    if system is None:
        return instruction(question)
    if not any(field.descriptions for field in question.fields):
        return system
    if not isinstance(system, str) or has_column(df, system):
        raise InvalidInputError(
            "The descriptions of the labels are appended to the system message, which must then be a string, not a "
            "column or a function. Describe the labels in that message, and pass them as a list."
        )
    return f"{system}\n\n{instruction(question)}"
