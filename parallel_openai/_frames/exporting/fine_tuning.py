"""Export answered rows as chat examples for fine-tuning."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from parallel_openai._frames.columns.table import has_column, is_missing, rows_of
from parallel_openai._frames.exporting.row_to_request import OpenJournal, RowToRequest
from parallel_openai._json import dumps, loads
from parallel_openai._printable import printable
from parallel_openai._records import APIRequest
from parallel_openai._requests.schemas.label_schema import LABEL, REASON, REASON_COLUMN
from parallel_openai._requests.schemas.label_text import read_label, read_several, text_of
from parallel_openai._requests.tokens import request_size
from parallel_openai.errors import InvalidInputError

#: Limits of OpenAI's guide to supervised fine-tuning: number of examples, and tokens in each.
MIN_EXAMPLES = 10
MAX_EXAMPLE_TOKENS = 65_536

Example = Mapping[str, Any]

#: Key among a row's labels for the reason of the chosen sample; no column has this name.
_REASON = ""


def training_examples(
    source: RowToRequest, *, only_reviewed: bool, validation: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """The rows' messages with their answers, in the frame's order: those to train with, and those for validation."""
    rows = list(_rows(source, only_reviewed))
    held_back = _choose({key for key, _ in rows}, validation, seed)
    training = [example for key, example in rows if key not in held_back]
    held = [example for key, example in rows if key in held_back]
    _warn(training, held)
    return training, held


def _rows(source: RowToRequest, only_reviewed: bool) -> Iterator[tuple[str, Example]]:
    final_labels = _FinalLabels(source)
    if only_reviewed and not final_labels.any_reviewed:
        raise InvalidInputError(
            "only_reviewed=True, but no row of this frame was reviewed: see review() and its frame()."
        )
    with source.journal() as known:
        rows = zip(source.requests(known), final_labels.rows(), strict=True)
        for number, ((request, row), (labels, reviewed)) in enumerate(rows):
            succeeded = row["status"] == "succeeded"
            if request is None or (only_reviewed and not reviewed) or not (succeeded or reviewed):
                continue
            if labels is None:
                answer = _answer_text(source, request, row, known)
            else:
                answer = _label_json(_SentAndAnswered(source, request, known), labels, number)
            if answer is not None:
                assistant = {"role": "assistant", "content": answer}
                yield request.key, {"messages": [*_messages(request), assistant]}


class _FinalLabels:
    """Each row's labels by column, and the reason; a reviewer's label replaces the model's."""

    def __init__(self, source: RowToRequest) -> None:
        self._out = source.out
        prefix = source.prefix
        self._columns = {prefix + column: column for column in source.run.labels}
        if self._columns and source.run.samples > 1 and has_column(source.out, prefix + REASON_COLUMN):
            self._columns[prefix + REASON_COLUMN] = _REASON
        self._reviewed = source.run.reviewed
        column = prefix + "label_reviewed"
        self.any_reviewed = (
            self._reviewed is not None and has_column(self._out, column) and bool(self._out[column].notna().any())
        )
        self._review_columns = [column] if self.any_reviewed else []

    def rows(self) -> Iterator[tuple[dict[str, Any] | None, bool]]:
        """Each row's labels (None if the frame has none), and whether a person reviewed it."""
        if not self._columns:
            yield from ((None, False) for _ in range(len(self._out)))
            return
        for values in rows_of(self._out, [*self._columns, *self._review_columns]):
            labels = dict(zip(self._columns.values(), values, strict=False))
            reviewed = self.any_reviewed and not is_missing(values[-1])
            if reviewed:  # the model's reason was for its own label
                labels = {**labels, str(self._reviewed): values[-1], _REASON: None}
            yield labels, reviewed


class _SentAndAnswered:
    """The schema that was sent for a row, and the model's answer if the journal holds it."""

    def __init__(self, source: RowToRequest, request: APIRequest, known: OpenJournal) -> None:
        text = _text(source, request, known)
        try:
            answer = loads(text or "")
        except ValueError:
            answer = None
        self.answer: Mapping[str, Any] = answer if isinstance(answer, dict) else {}
        body = request.request_json
        format = (body.get("response_format") or {}).get("json_schema") or (body.get("text") or {}).get("format") or {}
        self.fields: dict[str, Any] = dict((format.get("schema") or {}).get("properties") or {})

    def field(self, column: str) -> str:
        """The name of a column's field in the answer; a single label's field may be named unlike its column."""
        names = [name for name in self.fields if name != REASON]
        return names[0] if column == LABEL and len(names) == 1 else column


def _label_json(sent: _SentAndAnswered, labels: dict[str, Any], number: int) -> str | None:
    """An answer with these labels that fits the schema that was sent; None if the row lacks a label."""
    reason = labels.pop(_REASON, None)
    if any(is_missing(label) for label in labels.values()):
        return None
    chosen = {}
    for column, label in labels.items():
        name = sent.field(column)
        try:
            chosen[name] = _as_sent(label, sent.fields.get(name, {}))
        except ValueError as error:
            raise InvalidInputError(
                f"Row {number} has {label!r} in the column {column!r}, which {error}, so it does not answer the "
                "request. Give it another label, or leave the row out."
            ) from None
    if REASON not in {**sent.fields, **sent.answer}:
        return dumps(chosen).decode()
    if all(_same_labels(label, sent.answer.get(name)) for name, label in chosen.items()):
        reason = sent.answer.get(REASON)
    return dumps({REASON: reason or "", **chosen}).decode()


def _as_sent(label: Any, schema: Mapping[str, Any]) -> Any:
    """The label as the schema spells it.

    Raises:
        ValueError: it is not one of the schema's.
    """
    choices = [True, False] if schema.get("type") == "boolean" else schema.get("enum")
    if schema.get("type") == "array":
        return read_several(label, schema["items"].get("enum") or [True, False])
    return text_of(label) if choices is None else read_label(label, choices)


def _same_labels(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):  # in any order
        return set(map(text_of, one)) == set(map(text_of, other))
    return text_of(one) == text_of(other)


def _text(source: RowToRequest, request: APIRequest, known: OpenJournal) -> str | None:
    result = known.get(request)
    response = result.response if result is not None else None
    return source.endpoint.read(response).text if isinstance(response, Mapping) else None


def _messages(request: APIRequest) -> list[Any]:
    body = request.request_json
    if "input" not in body:
        return list(body.get("messages", ()))
    content = body["input"]
    turns = [{"role": "user", "content": content}] if isinstance(content, str) else list(content)
    instructions = body.get("instructions")
    return [{"role": "system", "content": instructions}, *turns] if instructions else turns


def _answer_text(source: RowToRequest, request: APIRequest, row: Mapping[str, Any], known: OpenJournal) -> str | None:
    """The row's answer; if it was parsed into several columns, the JSON they came from."""
    if source.run.fields is None:
        return _plain(row["answer"])
    text = _text(source, request, known)
    if text is None:
        raise InvalidInputError(
            f"The journal {source.run.journal} does not hold a row's answer, which cannot be rebuilt from its "
            "columns. Restore the file."
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
    """The keys of the validation rows: with a share above 0 at least one, and never all."""
    ordered = sorted(keys)
    count = round(share * len(ordered))
    if share and len(ordered) > 1:
        count = min(max(1, count), len(ordered) - 1)
    picked = np.random.default_rng(seed).permutation(len(ordered))[:count]
    return {ordered[number] for number in picked}


def _warn(training: list[Example], held_back: list[Example]) -> None:
    problems = []
    if len(training) < MIN_EXAMPLES:
        problems.append(f"{len(training)} training examples, and OpenAI's fine-tuning requires at least {MIN_EXAMPLES}")
    elif len({example["messages"][-1]["content"] for example in training}) == 1:
        problems.append("all examples give the same answer, so there is nothing to learn")
    long = sum(_is_too_long(example) for example in (*training, *held_back))
    if long:
        problems.append(f"{long} examples have more than {MAX_EXAMPLE_TOKENS:,} tokens, and are cut off or refused")
    if problems:
        warnings.warn(printable(f"For fine-tuning: {'; '.join(problems)}."), stacklevel=4)


def _is_too_long(example: Example) -> bool:
    if len(dumps(example)) <= MAX_EXAMPLE_TOKENS:  # no token is shorter than a byte
        return False
    return request_size(example, "o200k_base").prompt_tokens > MAX_EXAMPLE_TOKENS
