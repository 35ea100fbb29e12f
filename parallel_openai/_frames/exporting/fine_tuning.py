"""Rows with good answers as chat examples that a model can be tuned on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from parallel_openai._frames.columns.table import has_column, is_missing, rows_of
from parallel_openai._frames.exporting.row_to_request import OpenJournal, RowToRequest
from parallel_openai._json import dumps, loads
from parallel_openai._printable import printable
from parallel_openai._records import APIRequest
from parallel_openai._requests.schemas.label_schema import (
    LABEL,
    REASON,
    REASON_COLUMN,
    read_label,
    read_several,
    text_of,
)
from parallel_openai._requests.tokens import request_size
from parallel_openai.errors import InvalidInputError

#: What OpenAI's guide to supervised fine-tuning asks for: at least so many examples, each of at most so many tokens.
FEWEST_EXAMPLES = 10
LONGEST_EXAMPLE = 65_536

Example = Mapping[str, Any]

#: Among a row's labels, the reason of the sample that has them; no column bears this name.
_REASON = ""


@dataclass(frozen=True)
class Examples:
    """What a model is tuned on, and what it is tried on meanwhile."""

    training: list[Example]
    validation: list[Example]


def training_examples(source: RowToRequest, *, only_reviewed: bool, validation: float, seed: int) -> Examples:
    """The rows' messages with their answers, in the frame's order.

    Raises:
        InvalidInputError: nobody judged any row, although only such rows are wanted.
    """
    rows = list(_rows(source, only_reviewed))
    held_back = _choose({key for key, _ in rows}, validation, seed)
    examples = Examples(
        [example for key, example in rows if key not in held_back],
        [example for key, example in rows if key in held_back],
    )
    _warn(examples)
    return examples


def _rows(source: RowToRequest, only_reviewed: bool) -> Iterator[tuple[str, Example]]:
    judged = _Judged(source)
    if only_reviewed and not judged.any:
        raise InvalidInputError(
            "only_reviewed=True, but no row of this frame was judged: see review() and its frame()."
        )
    with source.journal() as known:
        rows = zip(source.requests(known), judged.rows(), strict=True)
        for number, ((request, row), (labels, corrected)) in enumerate(rows):
            succeeded = row["status"] == "succeeded"
            if request is None or (only_reviewed and not corrected) or not (succeeded or corrected):
                continue
            if labels is None:
                answer = _said_text(source, request, row, known)
            else:
                answer = _label_json(_Answer(source, request, known), labels, number)
            if answer is not None:
                said = {"role": "assistant", "content": answer}
                yield request.key, {"messages": [*_messages(request), said]}


class _Judged:
    """The labels of each row by their columns (with the reason), a person's word going before the model's."""

    def __init__(self, source: RowToRequest) -> None:
        self._out = source.out
        prefix = source.prefix
        self._columns = {prefix + column: column for column in source.about.get("labels") or {}}
        if self._columns and source.about.get("samples", 1) > 1 and has_column(source.out, prefix + REASON_COLUMN):
            self._columns[prefix + REASON_COLUMN] = _REASON
        self._reviewed = source.about.get("reviewed")
        judged = prefix + "label_reviewed"
        self.any = (
            self._reviewed is not None and has_column(self._out, judged) and bool(self._out[judged].notna().any())
        )
        self._judged = [judged] if self.any else []

    def rows(self) -> Iterator[tuple[dict[str, Any] | None, bool]]:
        """Each row's labels (None where the frame has none), and whether a person judged it."""
        if not self._columns:
            yield from ((None, False) for _ in range(len(self._out)))
            return
        for values in rows_of(self._out, [*self._columns, *self._judged]):
            labels = dict(zip(self._columns.values(), values, strict=False))
            corrected = self.any and not is_missing(values[-1])
            if corrected:  # the model's reason was for its own label
                labels = {**labels, str(self._reviewed): values[-1], _REASON: None}
            yield labels, corrected


class _Answer:
    """What was asked of a row and what the model said, as far as the journal knows."""

    def __init__(self, source: RowToRequest, request: APIRequest, known: OpenJournal) -> None:
        text = _text(source, request, known)
        try:
            answer = loads(text or "")
        except ValueError:
            answer = None
        self.said: Mapping[str, Any] = answer if isinstance(answer, dict) else {}
        body = request.request_json
        told = (body.get("response_format") or {}).get("json_schema") or (body.get("text") or {}).get("format") or {}
        self.fields: dict[str, Any] = dict((told.get("schema") or {}).get("properties") or {})

    def field(self, column: str) -> str:
        """What a column's label is called in the answer: of a single label, not always as its column is."""
        names = [name for name in self.fields if name != REASON]
        return names[0] if column == LABEL and len(names) == 1 else column


def _label_json(asked: _Answer, labels: dict[str, Any], number: int) -> str | None:
    """The answer with these labels that the schema which was sent takes; None where the row lacks one."""
    reason = labels.pop(_REASON, None)
    if any(is_missing(label) for label in labels.values()):
        return None
    chosen = {}
    for column, label in labels.items():
        name = asked.field(column)
        try:
            chosen[name] = _as_sent(label, asked.fields.get(name, {}))
        except ValueError as error:
            raise InvalidInputError(
                f"Row {number} has {label!r} in the column {column!r}, which {error}; so it is no answer to what was "
                "asked. Give it another label, or leave the row out."
            ) from None
    if REASON not in {**asked.fields, **asked.said}:
        return dumps(chosen).decode()
    if all(_alike(label, asked.said.get(name)) for name, label in chosen.items()):
        reason = asked.said.get(REASON)
    return dumps({REASON: reason or "", **chosen}).decode()


def _as_sent(label: Any, schema: Mapping[str, Any]) -> Any:
    """The label as the schema has it.

    Raises:
        ValueError: it does not have it.
    """
    choices = [True, False] if schema.get("type") == "boolean" else schema.get("enum")
    if schema.get("type") == "array":
        return read_several(label, schema["items"].get("enum") or [True, False])
    return text_of(label) if choices is None else read_label(label, choices)


def _alike(label: Any, said: Any) -> bool:
    """The same label, or the same ones in any order."""
    if isinstance(label, list) and isinstance(said, list):
        return set(map(text_of, label)) == set(map(text_of, said))
    return text_of(label) == text_of(said)


def _text(source: RowToRequest, request: APIRequest, known: OpenJournal) -> str | None:
    result = known.get(request)
    response = result.response if result is not None else None
    return source.endpoint.read(response).text if isinstance(response, Mapping) else None


def _messages(request: APIRequest) -> list[Any]:
    body = request.request_json
    if "input" not in body:
        return list(body.get("messages", ()))
    asked = body["input"]
    turns = [{"role": "user", "content": asked}] if isinstance(asked, str) else list(asked)
    instructions = body.get("instructions")
    return [{"role": "system", "content": instructions}, *turns] if instructions else turns


def _said_text(source: RowToRequest, request: APIRequest, row: Mapping[str, Any], known: OpenJournal) -> str | None:
    """The row's answer; of one with several fields, the JSON that they were read from.

    Raises:
        InvalidInputError: that JSON is in no place any more.
    """
    if "fields" not in source.about:
        return _plain(row["answer"])
    text = _text(source, request, known)
    if text is None:
        raise InvalidInputError(
            f"The answers' file {source.about['journal']} does not hold a row's answer, which cannot be made again "
            "from its columns. Bring the file back."
        )
    try:
        return dumps(loads(text)).decode()
    except ValueError:
        return text


def _plain(answer: Any) -> str | None:
    if isinstance(answer, (list, tuple)):
        answer = answer[0] if answer else None
    if answer is None:
        return None
    return answer if isinstance(answer, str) else dumps(answer).decode()


def _choose(keys: set[str], share: float, seed: int) -> set[str]:
    """The keys of the rows to hold back: at least one, where there are two and any are wanted."""
    ordered = sorted(keys)
    count = round(share * len(ordered))
    if share and len(ordered) > 1:
        count = min(max(1, count), len(ordered) - 1)
    picked = np.random.default_rng(seed).permutation(len(ordered))[:count]
    return {ordered[place] for place in picked}


def _warn(examples: Examples) -> None:
    training = examples.training
    troubles = []
    if len(training) < FEWEST_EXAMPLES:
        troubles.append(
            f"{len(training)} examples to train on, and OpenAI's fine-tuning wants at least {FEWEST_EXAMPLES}"
        )
    elif len({example["messages"][-1]["content"] for example in training}) == 1:
        troubles.append("all examples give the same answer, so there is nothing to learn")
    long = sum(_is_too_long(example) for example in (*training, *examples.validation))
    if long:
        troubles.append(f"{long} examples have more than {LONGEST_EXAMPLE:,} tokens, and are cut off or refused")
    if troubles:
        warnings.warn(printable(f"For fine-tuning: {'; '.join(troubles)}."), stacklevel=4)


def _is_too_long(example: Example) -> bool:
    if len(dumps(example)) <= LONGEST_EXAMPLE:  # no token is shorter than a byte
        return False
    return request_size(example, "o200k_base").prompt_tokens > LONGEST_EXAMPLE
