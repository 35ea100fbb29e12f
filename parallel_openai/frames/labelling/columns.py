"""From answers to the columns of labels: what a row's samples come to, and how sure that is."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from parallel_openai.errors import InvalidInputError
from parallel_openai.frames.answers import Reader, Reading, object_column, text_column
from parallel_openai.frames.labelling.question import REASON_COLUMN, Question, has_probabilities
from parallel_openai.jsonl import dumps
from parallel_openai.requests.endpoints import Endpoint
from parallel_openai.requests.labels import REASON, LabelField, read_answer
from parallel_openai.requests.logprobs import LabelProbabilities, find_values, label_probabilities, steps_of


@dataclass(frozen=True, slots=True)
class Labelled:
    """One answer, read.

    Attributes:
        values: the fields' values by their names.
        reason: why, as the model says it.
        probabilities: for fields whose tokens' probabilities were told.
    """

    values: Mapping[str, Any]
    reason: str | None = None
    probabilities: Mapping[str, LabelProbabilities] | None = None


def label_reader(endpoint: Endpoint, question: Question) -> Reader:
    """Reads labels, and makes the columns that the question asks for."""

    def read(response: Mapping[str, Any]) -> Reading:
        answer = endpoint.read(response)
        if answer.error_code is not None or answer.text is None:
            code = answer.error_code or "empty"
            return Reading(None, answer.finish_reason, answer.model, code, answer.error or "There is no answer.")
        try:
            labelled = _labelled(answer.text, question, answer.logprobs)
        except ValueError as error:
            return Reading(None, answer.finish_reason, answer.model, "off_label", str(error))
        return Reading(labelled, answer.finish_reason, answer.model)

    categories = {field.name: _categories(field) for field in question.fields if field.kind == "one"}

    def columns(values: Sequence[Any]) -> dict[str, Any]:
        rows = values if question.samples > 1 else [[value] for value in values]
        return _columns([[each for each in row if each is not None] for row in rows], rows, question, categories)

    about = {"labels": question.about(), "columns": list(question.names())}
    return Reader(question.names(), read, columns, about)


def _labelled(text: str, question: Question, tokens: Sequence[Any] | None) -> Labelled:
    answer, values = read_answer(text, question.fields)
    if question.check is not None:
        question.check(values)
    reason = answer.get(REASON) if question.explain else None
    probabilities = _probabilities(answer, question, tokens) if question.asks_for_logprobs else None
    return Labelled(values, None if reason is None else str(reason), probabilities)


def _probabilities(
    answer: Mapping[str, Any], question: Question, tokens: Sequence[Any] | None
) -> dict[str, LabelProbabilities]:
    steps = steps_of(tokens)
    places = find_values(steps, answer) if steps is not None else None
    if steps is None or places is None:
        return {}
    found = {}
    for field in filter(has_probabilities, question.fields):
        choices = list(field.choices)
        chosen = choices.index(dumps(answer[field.name]).decode())
        told = label_probabilities(steps, places[field.name], choices, chosen)
        if told is not None:
            found[field.name] = told
    return found


def _columns(
    answers: Sequence[Sequence[Labelled]],
    samples: Sequence[Sequence[Labelled | None]],
    question: Question,
    categories: Mapping[str, pd.CategoricalDtype],
) -> dict[str, Any]:
    """The columns, from the answers of each row and from all its samples (None where one has no answer)."""
    columns: dict[str, Any] = {}
    for field in question.fields:
        given = [[each.values[field.name] for each in row] for row in answers]
        labels = [_decide(field, row, question.samples) for row in given]
        cells: dict[str, Any] = {"": None}
        for number, method in enumerate(question.confidence if field.kind != "text" else ()):
            if method == "votes":
                sure = [_agreement(field, *pair, question.samples) for pair in zip(labels, given, strict=True)]
            else:
                sure = [_mean_probability(field, *pair, method) for pair in zip(labels, answers, strict=True)]
            cells[f"confidence_{method}" if number else "confidence"] = np.array(sure, dtype="float64")
        if question.abstain_below is not None and "confidence" in cells:
            below = ~(cells["confidence"] >= question.abstain_below)  # where it is not known, too
            labels = [None if doubtful else label for label, doubtful in zip(labels, below, strict=True)]
        cells[""] = _label_column(field, labels, categories)
        if question.samples > 1:
            votes = [[None if each is None else each.values[field.name] for each in row] for row in samples]
            cells["votes"] = object_column(votes)
        if question.asks_for_logprobs and has_probabilities(field):
            cells["probabilities"] = object_column([_distribution(field, row) for row in answers])
        columns |= {question.column(field, what): cell for what, cell in cells.items()}
    if question.explain:
        columns[REASON_COLUMN] = text_column(_reasons(answers, question))
    return columns


def _decide(field: LabelField, given: Sequence[Any], samples: int) -> Any:
    """What a row's samples come to: the label of most (of those with as many, the one given first), the labels that
    more than half of them give, or the score in the middle."""
    if not given:
        return None
    if samples == 1:
        return given[0]
    if field.kind == "score":
        return sorted(given)[(len(given) - 1) // 2]
    if field.kind == "several":
        return [label for label in field.choices.values() if 2 * _count(label, given) > len(given)]
    return Counter(given).most_common(1)[0][0]


def _count(label: Any, given: Sequence[Sequence[Any]]) -> int:
    return sum(label in each for each in given)


def _agreement(field: LabelField, label: Any, given: Sequence[Any], samples: int) -> float:
    """The share of a row's samples that say the same; of several labels, about that on which they agree least."""
    if not given:
        return np.nan
    if field.kind != "several":
        return given.count(label) / samples
    counts = [_count(each, given) for each in field.choices.values()]
    return float(min(max(count, len(given) - count) for count in counts)) / samples


def _mean_probability(field: LabelField, label: Any, answers: Sequence[Labelled], method: str) -> float:
    """The label's probability by the tokens, on the mean of the row's answers."""
    told = [(each, each.probabilities.get(field.name)) for each in answers if each.probabilities is not None]
    known = [(each, probabilities) for each, probabilities in told if probabilities is not None]
    if label is None or not known:
        return np.nan
    if method == "first_token":  # known only for the label that the answer has
        return float(np.mean([told.first for each, told in known if each.values[field.name] == label] or [np.nan]))
    number = list(field.choices.values()).index(label)
    return float(np.mean([probabilities.whole[number] for _, probabilities in known]))


def _distribution(field: LabelField, answers: Sequence[Labelled]) -> dict[str, float] | None:
    """Each label's probability, by its text."""
    known = [
        each.probabilities[field.name].whole
        for each in answers
        if each.probabilities is not None and field.name in each.probabilities
    ]
    if not known:
        return None
    return dict(zip(field.texts, np.mean(known, axis=0).tolist(), strict=True))


def _reasons(answers: Sequence[Sequence[Labelled]], question: Question) -> list[str | None]:
    """The reason that the first sample with the row's label gives."""
    field, found = question.fields[0], []
    for row in answers:
        label = _decide(field, [each.values[field.name] for each in row], question.samples)
        agreeing = [each.reason for each in row if each.values[field.name] == label]
        found.append(next(iter(agreeing or [each.reason for each in row]), None))
    return found


def _label_column(field: LabelField, labels: Sequence[Any], categories: Mapping[str, pd.CategoricalDtype]) -> Any:
    if field.kind == "score":
        return pd.array(labels, dtype="Int64")
    if field.kind == "several":
        return object_column(labels)
    if field.kind == "text":
        return text_column(labels)
    return pd.Categorical(list(labels), dtype=categories[field.name])


def _categories(field: LabelField) -> pd.CategoricalDtype:
    """Made before anything is sent, since pandas takes fewer things for categories than a list holds.

    Raises:
        InvalidInputError: pandas does not take them.
    """
    labels = list(field.choices.values())
    try:
        frozenset(labels)  # pandas itself would find out only when the answers are there
        # As objects where they are an Enum's, or a `class Tone(str, Enum)` would come back as texts.
        return pd.CategoricalDtype(pd.Index(labels, dtype=object) if _has_members(labels) else labels)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"The labels {labels} cannot be told apart by pandas: {error}") from None


def _has_members(labels: Sequence[Any]) -> bool:
    return any(isinstance(label, enum.Enum) for label in labels)
