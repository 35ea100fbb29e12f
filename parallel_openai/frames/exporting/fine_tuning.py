"""Rows with good answers as chat examples that a model can be tuned on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from parallel_openai.errors import InvalidInputError
from parallel_openai.frames.exporting.source import OpenJournal, Source
from parallel_openai.frames.table import has_column, is_missing, rows_of
from parallel_openai.jsonl import dumps, loads
from parallel_openai.printable import printable
from parallel_openai.records import APIRequest
from parallel_openai.requests.labels import REASON, text_of
from parallel_openai.requests.tokens import request_size

#: What OpenAI's guide to supervised fine-tuning asks for: at least so many examples, each of at most so many tokens.
FEWEST_EXAMPLES = 10
LONGEST_EXAMPLE = 65_536

Example = Mapping[str, Any]


@dataclass(frozen=True)
class Examples:
    """What a model is tuned on, and what it is tried on meanwhile."""

    training: list[Example]
    validation: list[Example]


def training_examples(source: Source, *, only_reviewed: bool, validation: float, seed: int) -> Examples:
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


def _rows(source: Source, only_reviewed: bool) -> Iterator[tuple[str, Example]]:
    judged = _Judged(source)
    if only_reviewed and not judged.any:
        raise InvalidInputError(
            "only_reviewed=True, but no row of this frame was judged: see review() and its frame()."
        )
    with source.journal() as known:
        for (request, row), (labels, corrected) in zip(source.requests(known), judged.rows(), strict=True):
            if request is None or (only_reviewed and not corrected):
                continue
            if labels is None:
                answer = _said_text(source, request, row, known) if row["status"] == "succeeded" else None
            else:
                answer = (
                    _label_json(source, request, labels, known) if corrected or row["status"] == "succeeded" else None
                )
            if answer is not None:
                said = {"role": "assistant", "content": answer}
                yield request.key, {"messages": [*_messages(request), said]}


class _Judged:
    """The labels of each row by their names in the answer's JSON, a person's word going before the model's."""

    def __init__(self, source: Source) -> None:
        fields: Mapping[str, Mapping[str, Any]] = source.about.get("labels") or {}
        self._source = source
        self._columns = {source.prefix + column: field for column, field in fields.items()}
        self._names = [_name_in_json(column, field) for column, field in fields.items()]
        name = source.about.get("reviewed")
        self._reviewed = name if has_column(source.out, source.prefix + "label_reviewed") else None
        self.any = self._reviewed is not None and bool(source.out[source.prefix + "label_reviewed"].notna().any())

    def rows(self) -> Iterator[tuple[dict[str, Any] | None, bool]]:
        """Each row's labels (None where the frame has none), and whether a person judged it."""
        out = self._source.out
        if not self._columns:
            yield from ((None, False) for _ in range(len(out)))
            return
        judged = [self._source.prefix + "label_reviewed"] if self.any else []
        for values in rows_of(out, [*self._columns, *judged]):
            labels = dict(zip(self._names, values, strict=False))
            corrected = bool(judged) and not is_missing(values[-1])
            if corrected:
                labels[self._names[list(self._columns).index(self._reviewed or "")]] = values[-1]
            yield labels, corrected


def _name_in_json(column: str, field: Mapping[str, Any]) -> str:
    return "score" if column == "label" and field["kind"] == "score" else column


def _label_json(source: Source, request: APIRequest, labels: Mapping[str, Any], known: OpenJournal) -> str | None:
    """The answer that would give these labels: the model's own, where it did, else with what differs put in."""
    if any(is_missing(label) for label in labels.values()):
        return None
    said = _said(source, request, known)
    answer: dict[str, Any] = {}
    if REASON in said or REASON in _wanted(request):
        answer[REASON] = said.get(REASON, "")
    for name, label in labels.items():
        answer[name] = _as_sent(label, said.get(name))
    if REASON in answer and answer != {**said, REASON: answer[REASON]}:
        answer[REASON] = ""  # the model's reason was for another label
    return dumps(answer).decode()


def _said(source: Source, request: APIRequest, known: OpenJournal) -> Mapping[str, Any]:
    result = known.get(request)
    response = result.response if result is not None else None
    if not isinstance(response, Mapping):
        return {}
    try:
        answer = loads(source.endpoint.read(response).text or "")
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _wanted(request: APIRequest) -> Any:
    """The fields that the request's schema asks for."""
    body = request.request_json
    told = (body.get("response_format") or {}).get("json_schema") or (body.get("text") or {}).get("format") or {}
    return (told.get("schema") or {}).get("properties") or {}


def _as_sent(label: Any, before: Any) -> Any:
    if isinstance(label, (list, tuple, np.ndarray)):
        return [_as_sent(each, None) for each in label]
    if isinstance(label, (bool, int, float, np.integer, np.bool_)) and not isinstance(before, str):
        return label.item() if isinstance(label, np.generic) else label
    text = text_of(label)
    if isinstance(before, (bool, int)):
        try:
            return loads(text.lower())
        except ValueError:
            return text
    return text


def _messages(request: APIRequest) -> list[Any]:
    body = request.request_json
    if "input" not in body:
        return list(body.get("messages", ()))
    asked = body["input"]
    turns = [{"role": "user", "content": asked}] if isinstance(asked, str) else list(asked)
    instructions = body.get("instructions")
    return [{"role": "system", "content": instructions}, *turns] if instructions else turns


def _said_text(source: Source, request: APIRequest, row: Mapping[str, Any], known: OpenJournal) -> str | None:
    """The row's answer; of one with several fields, the JSON that they were read from."""
    return dumps(_said(source, request, known)).decode() if "fields" in source.about else _plain(row["answer"])


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
