"""`process_dataframe`, and the reader of its answers."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd

from parallel_openai._batch.lane_options import Lane
from parallel_openai._client.client import Client
from parallel_openai._client.default_client import client_for
from parallel_openai._frames.columns.answer_columns import Reader, object_column, of_choices, text_column, value_column
from parallel_openai._frames.columns.field_columns import REASONING, of_each, structured_reader, with_thoughts
from parallel_openai._frames.defensive_copy import own_copy
from parallel_openai._frames.frame_run import FrameRun
from parallel_openai._frames.parameters import check_parameters, with_extra
from parallel_openai._frames.request_builder import (
    WHATEVER_IS_RAISED,
    Prompt,
    RequestBuilder,
    check_function,
    last_line,
)
from parallel_openai._frames.run_options import Options
from parallel_openai._frames.sync_async import Call, awaitable, blocking
from parallel_openai._requests.endpoints import EMBEDDINGS, Answer, EndpointName, of_length
from parallel_openai._requests.endpoints import endpoint as find_endpoint
from parallel_openai._requests.schemas.structured_outputs import Shape, structure_of
from parallel_openai.errors import InvalidInputError


@blocking
def process_dataframe(
    df: pd.DataFrame,
    prompt: Prompt,
    *,
    model: str | None,
    system: Prompt | None = None,
    endpoint: EndpointName = "chat.completions",
    response_format: Shape | None = None,
    samples: int = 1,
    explode: bool = False,
    metadata: Hashable | Sequence[Hashable] = (),
    save_to: str | os.PathLike[str] | None = None,
    retry_failed: bool = True,
    parse: Callable[[str], Any] | None = None,
    repair: bool | int = False,
    keep_reasoning: bool = False,
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
    """Ask the model once for each row and return the frame with the answers beside its rows.

    Args:
        df: the rows. It is not changed.
        prompt: a template over the columns (`"Summarise: {text}"`; `{{` is a brace, `{[og:title]}` a column whose name
            has marks in it), or the name of a column that holds ready prompts, lists of chat messages or whole request
            bodies, or a function of a row that returns one of these. Text that equals a column's name always means that
            column. A template shows lists and other containers as JSON, and whole numbers without a point.
        model: the model; None if every row brings a body with its own.
        system: the same for the system message.
        endpoint: `chat.completions`, `responses`, `embeddings`, `completions` or `moderations`. With
            `embeddings` the answer is a vector (for many rows `embed_dataframe` is faster), with `moderations` the
            result's object.
        response_format: a pydantic model, a dataclass, a TypedDict or a JSON schema of an object that every answer
            must fit. The API is told so (strictly, if its fields allow), answers are checked, and each field is a
            column of its own type in the place of `response`. A format as in the API's documentation is taken too;
            the answer then stays a string.
        samples: how often each row is asked; with more than one, `response` holds a list.
        explode: with `n` above 1, whether each choice is a row of its own: the index is repeated, and `choice` counts
            from 0. `status` and `error` are the whole answer's.
        metadata: columns that travel beside each request into the journal and the exports.
        save_to: the file of answers, the journal. None: a file in `.parallel_openai/` for this very question. Either
            way, answers that the file holds are not asked for again.
        retry_failed: whether rows that failed in an earlier run are asked again.
        parse: makes the value for `response` of an answer's text, as `float` or `json.loads` do. If it raises, the
            row is `failed` with `parse_error`; the answer stays in the journal, and the next call reads it again and
            does not ask for it again.
        repair: whether an answer that is no good is asked for once more, or how often: with twice the cap if it was
            cut off, else with what is wrong shown to the model (an empty answer, one that is none of the labels, one
            for which `parse` raises a ValueError). The row's tokens, `cost_usd` and `attempts` are those of all.
        keep_reasoning: whether what the model thought, if the server shows it, gets a column `reasoning`: the fields
            `reasoning_content` and `reasoning`, parts of the content, summaries of the Responses API, or a
            `<think>...</think>` at the head of the answer, which `response` is then without. Such a head is never taken
            for a part of an answer in JSON.
        budget_usd: dollars that the call may spend. Before each send the most that it can come to is set aside, so
            every request needs a cap on its answer, such as `max_completion_tokens`. What the journal holds is free.
        budget_tokens: the same in prompt and completion tokens.
        deadline: seconds after which nothing is sent any more. What is on its way then is waited for, for up to 10 s.
        lane: how it is sent. `online`: at once. `batch`: through the Batch API, at half the price, within a day; see
            `BatchLane` for what can be chosen there. `flex`: at once at OpenAI's price for batches, with answers that
            may take minutes and a tier that may be full for a while. `ray`: at once, by the machines of a Ray cluster
            (`parallel-openai[ray]`), all within the account's one limit; `RayLane(workers=2)`: by so many workers.
        resubmit: whether rows that wait in a batch of an earlier call are sent, and paid for, again. Without it they
            are `cancelled` with the error code `in_batch`, and the error says what to do.
        prefix: set before the names of the new columns. Those that an earlier call of this function with the same
            prefix added are replaced, so that a cell of a notebook can be run again: as long as what is left of them
            holds what that call put there (rows may be sorted or left out, columns dropped or renamed), and this call
            does not read them. A column of your own, or one with a value of yours in it, is never overwritten.
        progress: False shows nothing.
        client: the account; None: the environment's.
        **params: parameters of the API, as they are: `temperature=0`, `max_completion_tokens=50`, `seed=1` ... Those
            that other servers are known to take (`top_k`, `guided_json`) are sent, too; any other name is refused.
            `extra_body={...}`, as in the SDK, holds further fields of the body: for names that this function uses
            itself (`metadata`), and for what only a server of your own takes.

    Returns:
        A new frame with the same rows, order and index. Its new columns are `response` (a list if `n` asks for
        several answers), `status` (`succeeded`, `failed`, `cancelled`), `error_code`, `error`, `finish_reason`,
        `model`, `prompt_tokens`, `completion_tokens`, `cost_usd` (dollars), `attempts`, `seconds` (of the last
        attempt), `request_id` (the server's), `request_key` (the digest of what was asked). With `samples`,
        `attempts` and `seconds` are sums over them, and `request_key` is a list.
        `attrs["parallel_openai"]` sums the run up.

    Raises:
        InvalidInputError: before anything is sent: a column is missing, a template cannot be read, ...
        RunStoppedError: the server will refuse every row; `.partial` is the frame with what was finished.
        JournalError: the file of answers cannot be written.
        KeyboardInterrupt: interrupted in a script; `.partial` and `last_run().frame` are the frame. In a notebook, a
            run of the same cell, or of one that this cell was queued behind, was interrupted before.

    A row that cannot be answered does not stop the others: it is `failed`, and says why in `error`. Interrupting a
    notebook's cell returns the frame with the rest `cancelled`; the same call again goes on from there. The same holds
    at the end of a budget or a deadline; `error_code` is then `budget` or `deadline`.

    Of rows that ask the very same, the first has the tokens, the `cost_usd` and the `attempts`, and the others, which
    share its answer, have 0: the columns' sums are what was billed.

    >>> import parallel_openai as po
    >>> df = pd.DataFrame({"text": ["Arrived early.", "It leaks."]})
    >>> with po.local.simulator.serve() as server:
    ...     out = po.process_dataframe(df, "Is this review happy? {text}", model="gpt-5-mini",
    ...                                client=po.Client(server.base_url), progress=False)
    >>> out["status"].tolist()
    ['succeeded', 'succeeded']
    """
    options = Options.of("process", locals())
    builder = make_builder(prompt, model, system, endpoint, response_format, samples, metadata, params)
    reader = answer_reader(builder, parse, as_lists=explode, keep_reasoning=keep_reasoning)
    return FrameRun(df, builder, reader, client_for(client), options)


aprocess_dataframe = awaitable(process_dataframe)


def make_builder(
    prompt: Prompt,
    model: str | None,
    system: Prompt | None,
    endpoint: str,
    response_format: Shape | None,
    samples: int,
    metadata: Hashable | Sequence[Hashable],
    params: Mapping[str, Any],
) -> RequestBuilder:
    where = find_endpoint(endpoint)
    check_parameters(params, where)
    structure, shape = None, None
    if response_format is not None:
        structure = structure_of(response_format)
        told = cast("Mapping[str, Any]", response_format) if structure is None else structure.response_format
        shape = where.format_params(told, params)
    beside = [metadata] if isinstance(metadata, str) or not isinstance(metadata, Iterable) else list(metadata)
    return RequestBuilder(prompt, model, system, where, with_extra(params, shape), beside, samples, structure=structure)


def answer_reader(
    builder: RequestBuilder,
    parse: Callable[[Any], Any] | None = None,
    *,
    as_lists: bool = False,
    keep_reasoning: bool = False,
) -> Reader:
    """The reader of an answer, or of what `parse` makes of it; with several choices (`n`), or `as_lists`, of a list.

    If the call has tools, the calls that the model wants are in a column `tool_calls`; with `keep_reasoning`, its
    reasoning in a column `reasoning`.
    """
    endpoint = builder.endpoint
    check_function(parse, "parse")
    if keep_reasoning and not endpoint.gives_text:
        raise InvalidInputError(f"keep_reasoning= is for answers in text, and {endpoint.name} has none.")
    if builder.structure is not None:
        if parse is not None:
            raise InvalidInputError("parse= and a response_format= with fields both say what becomes of an answer.")
        return structured_reader(endpoint, builder.structure, as_lists=as_lists, keep_reasoning=keep_reasoning)
    dimensions = builder.params.get("dimensions") if endpoint is EMBEDDINGS else None
    has_tools = any(builder.params.get(name) for name in ("tools", "functions"))
    beside = (*(["tool_calls"] if has_tools else []), *([REASONING] if keep_reasoning else []))

    def read_one(answer: Answer) -> Answer:
        if dimensions is not None:
            answer = of_length(answer, dimensions)
        if keep_reasoning:
            answer = with_thoughts(answer)
        reading = _parsed(answer, parse)
        if not beside:
            return reading
        return reading._replace(value={"response": reading.value, **{name: getattr(answer, name) for name in beside}})

    def read(response: Mapping[str, Any]) -> Answer:
        readings = list(map(read_one, endpoint.read_all(response)))
        return readings[0] if len(readings) == 1 and not as_lists else of_choices(readings)

    column = text_column if endpoint.gives_text and parse is None else value_column
    if not beside:
        return Reader.of_one_column("response", read, column)
    columns = {"response": column, "tool_calls": object_column, REASONING: text_column}
    names = ("response", *beside)
    return Reader(
        names, read, lambda values, _: {name: columns[name]([of_each(name, each) for each in values]) for name in names}
    )


def _parsed(answer: Answer, parse: Callable[[Any], Any] | None) -> Answer:
    if isinstance(answer.value, array):
        answer = answer._replace(value=np.frombuffer(answer.value, dtype=np.float32))
    if parse is None:
        return answer
    if answer.error_code is not None or answer.value is None:
        return answer._replace(value=None)
    try:
        return answer._replace(value=own_copy(parse(answer.value)))
    except WHATEVER_IS_RAISED as error:
        # A ValueError concerns the value; anything else is a bug, which no other answer would repair.
        why = f"parse raised {last_line(error)}"
        return answer.unusable("parse_error", why, repairable=isinstance(error, ValueError))
