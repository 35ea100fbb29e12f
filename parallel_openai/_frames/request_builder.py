"""Makes the requests of a frame's rows, from the prompt, the system message, the model and its parameters."""

from __future__ import annotations

import asyncio
import inspect
import time
import traceback
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from hashlib import blake2b
from itertools import repeat
from tokenize import TokenError
from typing import Any

import numpy as np
import pandas as pd

from parallel_openai._arguments import check_count
from parallel_openai._frames.columns.cell_text import prompt_value
from parallel_openai._frames.columns.table import (
    Row,
    column_text,
    columns_by_text,
    find_column,
    has_column,
    is_missing,
    labels_of,
    rows_of,
)
from parallel_openai._frames.defensive_copy import own_copy
from parallel_openai._json import alike, dumps
from parallel_openai._log import log
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._records import APIRequest, Size
from parallel_openai._requests.encodings import encoding_for_model
from parallel_openai._requests.endpoints import CHAT, Endpoint
from parallel_openai._requests.images import with_images
from parallel_openai._requests.schemas.structured_outputs import Structure
from parallel_openai._requests.template import BadPromptError, Template, parse_template
from parallel_openai._requests.tokens import request_size
from parallel_openai.errors import InvalidInputError, TemplateError

Prompt = str | Hashable | Callable[[Row], Any]

#: What a caller's function may raise, which fails its row only. Command-line parsers raise SystemExit, and asynchronous
#: code raises CancelledError: neither may end the run or the engine's thread.
WHATEVER_IS_RAISED = (Exception, SystemExit, GeneratorExit, asyncio.CancelledError)

_ALWAYS_JSON = frozenset({str, int, float, bool, type(None)})

#: The number of rows that stand for all, if there are more.
SOME_ROWS = 256
#: Rows that are looked up before other tasks of the loop get a turn.
LOOK_UP_AT_ONCE = 200
#: The most bytes of a request: no server accepts as many, and several in flight would fill the memory.
MAX_REQUEST_BYTES = 128 * 2**20


@dataclass(frozen=True)
class RequestBuilder:
    """What makes the request of each row of a frame."""

    prompt: Prompt  # a template over the columns, the name of a column, or a function of a row
    model: str | None  # None if every row brings a body of its own
    system: Prompt | None = None  # like `prompt`, for the system message
    endpoint: Endpoint = CHAT
    params: Mapping[str, Any] = field(default_factory=dict)  # further parameters of the API
    metadata: Sequence[Hashable] = ()  # columns that are kept beside the request in the journal
    samples: int = 1  # the number of requests of each row
    # Chat messages before each row's own: questions and their answers in turn.
    examples: Sequence[Mapping[str, Any]] = ()
    tier: str | None = None  # the service tier of the requests; not a part of their keys
    # The structure of answers whose fields become columns; `params` tells the API of it.
    structure: Structure | None = None

    def check(self, df: pd.DataFrame) -> None:
        """Check, before anything is sent, that the frame has what the requests need."""
        _source(df, self.prompt, "prompt")
        for text, what in ((self.prompt, "prompt"), (self.system, "system")):
            _note_whole_floats(df, text, what)
        if self.system is not None:
            if not self.endpoint.has_system:
                raise InvalidInputError(f"{self.endpoint.name} takes no system text; put it into the prompt.")
            _source(df, self.system, "system")
        for column in self.metadata:
            find_column(df, column, "metadata")
        check_count(self.samples, "samples")
        if self.model is not None and (not isinstance(self.model, str) or not self.model.strip()):
            raise InvalidInputError(f"model must be a model's name such as 'gpt-5-mini', not {self.model!r}.")
        try:
            APIRequest(self.params)
        except TypeError as error:
            raise InvalidInputError(f"A request parameter cannot be sent as JSON: {error}.") from None
        for name in sorted(self.endpoint.own):
            if self.params.get(name):
                raise InvalidInputError(
                    f"{name}= would stand in the place of every row's prompt; pass it as prompt=, from a column or a "
                    "function of a row."
                )
        if self.params.get("stream"):
            raise InvalidInputError("stream= brings answers in pieces; leave it out, the bar shows the progress.")
        if self.params.get("background"):
            raise InvalidInputError("background= leaves the answers at the server; leave it out, or use lane='batch'.")
        if self.system is not None and self.params.get("instructions") is not None:
            raise InvalidInputError("Both system= and instructions= say how to answer; give one of them.")

    def requests(self, df: pd.DataFrame) -> Iterator[APIRequest | BadPromptError]:
        """The requests, `samples` for each row in order; for a row that has none, why not."""
        prompts = _source(df, self.prompt, "prompt")
        if self.samples > 1 or callable(
            self.system
        ):  # a function may change what it returned before that is serialised
            prompts = map(own_copy, prompts)
        systems = _source(df, self.system, "system") if self.system is not None else None
        measure = partial(_size_of, encoding_for_model(self.model))
        metadata = rows_of(df, self.metadata) if self.metadata else None
        names = [column_text(name) for name in self.metadata]
        for prompt in prompts:
            system = next(systems) if systems is not None else None
            beside = _beside(names, next(metadata)) if metadata is not None else None
            for sample in range(self.samples):
                yield self._request(prompt, system, beside, sample, measure)

    def some_requests(self, df: pd.DataFrame, *, within: float) -> Iterator[APIRequest]:
        """Those of the first rows and of some in between, as many as can be made `within` seconds."""
        rows, give_up_at = len(df), time.monotonic() + within
        chosen = dict.fromkeys((*range(min(rows, SOME_ROWS // 4)), *range(0, rows, 1 + rows // SOME_ROWS)))
        for request in self.requests(df.iloc[list(chosen)]):
            if isinstance(request, APIRequest):
                yield request
            if time.monotonic() > give_up_at:
                break

    def _request(
        self, prompt: Any, system: Any, metadata: Any, sample: int, measure: Callable[[APIRequest], Size]
    ) -> APIRequest | BadPromptError:
        if isinstance(metadata, BadPromptError):
            return metadata
        try:
            request = APIRequest(self._body(prompt, system), metadata, path=self.endpoint.path, sample=sample)
        except BadPromptError as error:
            return error
        except TypeError as error:
            return BadPromptError("invalid_prompt", f"The prompt cannot be sent as JSON: {error}.")
        except RecursionError:
            return BadPromptError("invalid_prompt", "The prompt cannot be sent as JSON: it is nested without end.")
        if len(request.body) > MAX_REQUEST_BYTES:
            return BadPromptError(
                "prompt_too_large",
                f"The request would have {len(request.body):,} bytes, and no more than {MAX_REQUEST_BYTES:,} are sent.",
            )
        if self.tier is not None:
            request = request.in_tier(self.tier)
        request.measure = measure
        return request

    def _body(self, prompt: Any, system: Any) -> Mapping[str, Any]:
        for value in (prompt, system):
            if isinstance(value, BadPromptError):
                raise value
        if type(prompt) is not str and is_missing(prompt):
            raise BadPromptError("missing_prompt", "The prompt is missing (NaN or None).")
        if system is not None and type(system) is not str and is_missing(system):
            system = None
        body = self.endpoint.body(prompt, system, self.model, self.params)
        if not (type(prompt) is str and (system is None or type(system) is str) and self._params_are_plain):
            body = with_images(body)
        return self.endpoint.with_examples(body, self.examples) if self.examples else body

    @cached_property
    def _params_are_plain(self) -> bool:
        return with_images(self.params) is self.params

    def digest(self, place: str) -> str:
        """A short name of the question and the place, the same in every session.

        It depends neither on the text of a function nor on the number of samples, since a comment that was moved or one
        more sample leaves most requests, which have their own keys, the same.
        """
        parts = {**self._asked(place), "prompt": _name_of(self.prompt), "system": _name_of(self.system)}
        del parts["samples"]
        return blake2b(alike(dumps(parts, sort_keys=True)), digest_size=6).hexdigest()

    def former_digest(self, place: str, samples: int) -> str:
        """The name that earlier versions gave it, under which there are journals."""
        return blake2b(dumps({**self._asked(place), "samples": samples}, sort_keys=True), digest_size=6).hexdigest()

    def _asked(self, place: str) -> dict[str, Any]:
        return {
            **self.summary(),
            "place": place,
            "metadata": None,
        }  # metadata is not a part of it

    def summary(self) -> dict[str, Any]:
        """The request builder as plain data, with functions as their source."""
        return {
            "prompt": _text_of(self.prompt),
            "system": None if self.system is None else _text_of(self.system),
            "model": self.model,
            "endpoint": self.endpoint.name,
            "params": dict(self.params),
            "samples": self.samples,
            **({"examples": list(self.examples)} if self.examples else {}),
            "metadata": list(self.metadata),
            "made_by_function": callable(self.prompt) or callable(self.system),
        }


class DistinctRequests:
    """The requests of a frame's slots, of which each row has one per sample; slots that ask the same share one.

    Args:
        reject: called with a slot that has no request, and why.
    """

    def __init__(
        self,
        builder: RequestBuilder,
        df: pd.DataFrame,
        status: StatusTracker,
        reject: Callable[[int, BadPromptError], None],
    ) -> None:
        self.slots: dict[str, int] = {}  # the slot that asks for each key
        self.shared: list[tuple[int, int]] = []  # slots that share another's answer, and that other
        self._builder, self._df, self._status, self._reject = builder, df, status, reject

    def all(self) -> Iterator[tuple[int, APIRequest | None]]:
        """Each request with its first slot; now and then None, for other tasks of the loop."""
        return self._first_ones(enumerate(self._builder.requests(self._df)))

    def of_slots(self, slots: Sequence[int]) -> Iterator[tuple[int, APIRequest | None]]:
        """The requests of these slots once more; they are not kept, since there may be one for each row."""
        return self._first_ones(self._made_anew(slots))

    def use_former_key(self, slot: int, request: APIRequest, was_tried: Callable[[str], bool]) -> None:
        """Give the request its former key if the journal knows it by that alone."""
        former = request.former_key
        if former is not None and was_tried(former) and not was_tried(request.key):
            request.key = former
            self.slots[former] = slot

    def _first_ones(
        self, requests: Iterable[tuple[int, APIRequest | BadPromptError]]
    ) -> Iterator[tuple[int, APIRequest | None]]:
        for number, (slot, request) in enumerate(requests, 1):
            if number % LOOK_UP_AT_ONCE == 0:
                yield slot, None
            if isinstance(request, BadPromptError):
                self._reject(slot, request)
                continue
            first = self.slots.setdefault(request.key, slot)
            if first == slot:
                yield slot, request
            else:
                self.shared.append((slot, first))
                self._status.num_tasks_shared += 1

    def _made_anew(self, slots: Sequence[int]) -> Iterator[tuple[int, APIRequest | BadPromptError]]:
        samples, wanted = self._builder.samples, set(slots)
        rows = list(dict.fromkeys(slot // samples for slot in slots))
        for number, request in enumerate(self._builder.requests(self._df.iloc[rows])):
            slot = rows[number // samples] * samples + number % samples
            if slot in wanted:
                yield slot, request


def _beside(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any] | BadPromptError:
    """The metadata of a row, or an error if the journal cannot hold it."""
    beside = dict(zip(names, map(own_copy, values), strict=True))
    if all(type(value) in _ALWAYS_JSON for value in values):
        return beside
    try:
        dumps(beside)
    except Exception as error:  # it contains itself, or an object raises when it is converted
        why = f"The columns of metadata= cannot be written as JSON in this row: {last_line(error)}."
        return BadPromptError("invalid_prompt", why)
    return beside


def _size_of(encoding: str, request: APIRequest) -> Size:
    return request_size(request.request_json, encoding, request.path)


def _name_of(prompt: Prompt | None) -> Any:
    return "a function" if callable(prompt) else prompt


def _text_of(prompt: Prompt) -> Any:
    if not callable(prompt):
        return prompt
    try:
        return inspect.getsource(prompt)
    # Typed at a plain prompt, an object with __call__, or run from a string.
    except (OSError, TypeError, SyntaxError, TokenError):
        return getattr(prompt, "__qualname__", type(prompt).__qualname__)


def check_function(function: Any, what: str) -> None:
    if inspect.iscoroutinefunction(function):
        raise InvalidInputError(f"{what}= is an `async def`; it must be a plain function.")


def _source(df: pd.DataFrame, prompt: Any, what: str) -> Iterator[Any]:
    """The prompt of each row: text, messages, a body, None if it is missing, or a BadPromptError."""
    if has_column(df, prompt):
        column = find_column(df, prompt, what)
        return (value for (value,) in rows_of(df, [column]))
    if isinstance(prompt, str):
        return _filled(df, prompt, what)
    if callable(prompt):
        check_function(prompt, what)
        columns = list(dict.fromkeys(df.columns))
        return _called(df, prompt, [find_column(df, column, "a function of a row") for column in columns])
    raise InvalidInputError(
        f"{what} must be a template such as 'Summarise: {{text}}', the name of a column or a function of a row, "
        f"not {prompt!r:.200}."
    )


def _filled(df: pd.DataFrame, text: str, what: str) -> Iterator[Any]:
    template, columns = _template(df, text, what)
    if not columns:
        return repeat(template.fill(()), len(df))
    return map(partial(_fill, template), rows_of(df, columns))


def _template(df: pd.DataFrame, text: str, what: str) -> tuple[Template, list[Hashable]]:
    names = columns_by_text(df)
    template = parse_template(text, list(names))
    if not template.columns and what == "prompt" and len(df) > 1:
        raise TemplateError(
            f"The prompt {text[:80]!r} is no column's name and has no {{column}} in it, so every row would ask the "
            f"same. The columns are: {', '.join(names) or 'none'}."
        )
    return template, [find_column(df, names[name], what) for name in template.columns]


def _note_whole_floats(df: pd.DataFrame, prompt: Prompt | None, what: str) -> None:
    """Warn of columns whose whole numbers became floats since one is missing: they are shown without a point."""
    if has_column(df, prompt) or not isinstance(prompt, str):
        return
    for column in _template(df, prompt, what)[1]:
        if isinstance(df[column].dtype, np.dtype) and df[column].dtype.kind == "f" and df[column].hasnans:
            known = df[column].dropna()
            if len(known) and (known % 1 == 0).all():
                log.warning(
                    "The column %r holds whole numbers as decimals, since one is missing: %s is asked about as %d.",
                    column,
                    known.iloc[0],
                    known.iloc[0],
                )


def _fill(template: Template, values: Sequence[Any]) -> str | BadPromptError:
    cells = []
    try:
        for column, value in zip(template.columns, values, strict=True):
            if value is None:
                return BadPromptError("missing_prompt", f"The column {column!r} is empty in this row (NaN or None).")
            cells.append(value if type(value) is str else prompt_value(value))
        return template.fill(cells)
    except WHATEVER_IS_RAISED as error:  # a format spec that does not fit, or whatever an object in a cell raises
        return BadPromptError("invalid_prompt", f"The template cannot be filled with this row: {error}")


def _called(df: pd.DataFrame, function: Callable[[Row], Any], columns: Sequence[Hashable]) -> Iterator[Any]:
    for values, label in zip(rows_of(df, columns), labels_of(df), strict=True):
        yield _call(function, Row(dict(zip(columns, values, strict=True)), label))


def _call(function: Callable[[Row], Any], row: Row) -> Any:
    try:
        return function(row)
    except WHATEVER_IS_RAISED as error:
        return BadPromptError("prompt_error", f"The prompt function raised {last_line(error)}")


def last_line(error: BaseException) -> str:
    """The last line of an error's traceback.

    >>> last_line(ValueError("no number"))
    'ValueError: no number'
    """
    return traceback.format_exception_only(error)[-1].strip()
