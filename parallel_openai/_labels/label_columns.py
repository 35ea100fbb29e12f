"""Read answers as labels, combine a row's samples, and make the label and confidence columns."""

from __future__ import annotations

import dataclasses
import enum
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from parallel_openai._frames.columns.answer_columns import Reader, object_column, text_column
from parallel_openai._frames.columns.field_columns import read_by_class
from parallel_openai._labels.question import DRAWN, Question, has_probabilities
from parallel_openai._requests.endpoints import Answer, Endpoint
from parallel_openai._requests.logprobs import LabelProbabilities, find_values, label_probabilities, steps_of
from parallel_openai._requests.schemas.label_schema import REASON, REASON_COLUMN, LabelField, read_answer
from parallel_openai.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Labelled:
    """The labels in one answer."""

    values: Mapping[str, Any]  # each field's value by its name
    reason: str | None = None  # the model's reason
    # By field, if the answer has log probabilities for it.
    probabilities: Mapping[str, LabelProbabilities] = dataclasses.field(default_factory=dict)


def label_reader(endpoint: Endpoint, question: Question) -> Reader:
    takes_logprobs = question.asks_for_logprobs

    def read(response: Mapping[str, Any]) -> Answer:
        answer = endpoint.read(response)
        if answer.error_code is not None or answer.text is None:
            return answer.unusable(answer.error_code or "empty", answer.error or "There is no answer.")
        try:
            labelled = _labelled(answer.text, question, answer.logprobs if takes_logprobs else None)
        except ValueError as error:
            return answer.unusable("off_label", str(error))
        check = question.check
        if check is None:
            return answer._replace(value=labelled)
        return read_by_class(answer, lambda: _accepted(labelled, check), "off_label")

    categories = {each.name: _categories(each) for each in question.fields if each.kind == "one"}

    def columns(values: Sequence[Any], keys: Sequence[Any]) -> dict[str, Any]:
        rows = values if question.samples > 1 else [[value] for value in values]
        return _columns(rows, keys, question, categories)

    about = {"labels": question.about(), "columns": list(question.names())}
    return Reader(question.names(), read, columns, about)


def _labelled(text: str, question: Question, tokens: Sequence[Any] | None) -> Labelled:
    answer, values = read_answer(text, question.fields)
    reason = answer.get(REASON) if question.explain else None
    probabilities = _probabilities(answer, question, tokens) if tokens is not None else {}
    return Labelled(values, None if reason is None else str(reason), probabilities)


def _accepted(labelled: Labelled, check: Callable[[Mapping[str, Any]], object]) -> Labelled:
    check(labelled.values)
    return labelled


def _probabilities(
    answer: Mapping[str, Any], question: Question, tokens: Sequence[Any] | None
) -> dict[str, LabelProbabilities]:
    steps = steps_of(tokens)
    positions = find_values(steps, answer) if steps is not None else None
    if steps is None or positions is None:
        return {}
    by_field = {
        field.name: label_probabilities(steps, positions[field.name], *field.choice_in(answer))
        for field in filter(has_probabilities, question.fields)
    }
    return {name: probabilities for name, probabilities in by_field.items() if probabilities is not None}


def _columns(
    samples: Sequence[Sequence[Labelled | None]],
    keys: Sequence[Any],
    question: Question,
    categories: Mapping[str, pd.CategoricalDtype],
) -> dict[str, Any]:
    """Make the columns from each row's samples (None without an answer) and the keys of its requests."""
    answers = [list(filter(None, row)) for row in samples]
    columns: dict[str, Any] = {}
    for field in question.fields:
        rows = [_decide(field, *pair, question) for pair in zip(answers, keys, strict=True)]
        cells = {"": None, **_confidences(field, rows, question)}
        labels = [row.label for row in rows]
        if question.abstain_below is not None and "confidence" in cells:
            below = ~(cells["confidence"] >= question.abstain_below)  # also True for NaN
            labels = [None if abstain else label for label, abstain in zip(labels, below, strict=True)]
        cells[""] = _label_column(field, labels, categories)
        if question.samples > 1:
            votes = [[None if each is None else each.values[field.name] for each in row] for row in samples]
            cells |= {"votes": object_column(votes), "tie": np.array([row.tie for row in rows], dtype=bool)}
        if question.asks_for_logprobs and has_probabilities(field):
            cells["probabilities"] = object_column([_distribution(field, row.probabilities) for row in rows])
            cells["probability_bounds"] = object_column([_bounds(field, row.probabilities) for row in rows])
            if question.takes_most_probable:
                cells[DRAWN] = _label_column(field, [row.drawn for row in rows], categories)
        columns |= {question.column(field, what): cell for what, cell in cells.items()}
        if question.explain and field is question.fields[0]:
            reasons = text_column([_reason(field, *pair) for pair in zip(rows, answers, strict=True)])
    if question.explain:
        columns[REASON_COLUMN] = reasons
    return columns


class _Decision(NamedTuple):
    """The result of combining a row's answers."""

    label: Any  # the row's label; None without an answer
    drawn: Any  # the label that the samples gave, which `label` is unless another is more probable
    tie: bool  # whether another label has as many votes
    given: Sequence[Any]  # each answer's label
    probabilities: LabelProbabilities | None  # the labels' mean probabilities over the answers; None if unknown


def _decide(field: LabelField, answers: Sequence[Labelled], key: Any, question: Question) -> _Decision:
    if len(answers) == 1 and not answers[0].probabilities:  # fast path for most rows
        only = answers[0].values[field.name]
        return _Decision(only, only, False, [only], None)
    given = [each.values[field.name] for each in answers]
    probabilities = _mean_probabilities(field, answers)
    drawn, tie = _drawn(field, given, probabilities, key)
    label = drawn
    if probabilities is not None and question.takes_most_probable:
        label = _most_probable(field, probabilities, drawn)
        if not _is_valid({**answers[0].values, field.name: label}, question):
            label = drawn
    return _Decision(label, drawn, tie, given, probabilities)


def label_of(answer: Labelled, field: LabelField, question: Question) -> Any:
    return _decide(field, [answer], None, question).label


def _drawn(
    field: LabelField, given: Sequence[Any], probabilities: LabelProbabilities | None, key: Any
) -> tuple[Any, bool]:
    """Return the majority label, the labels in more than half of the samples, or the median score; and whether it is a
    tie. A tie goes to the more probable label if known, otherwise to a random one, seeded by the request keys so that
    the same row ends the same way in every run.
    """
    if len(given) < 2:
        return (given[0] if given else None), False
    rng = random.Random(str(key))
    if field.kind == "several":
        halves = [(label, 2 * _count(label, given) - len(given)) for label in field.choices.values()]
        chosen = [label for label, over in halves if over > 0 or (over == 0 and rng.random() < 0.5)]
        return chosen, any(over == 0 for _, over in halves)
    if field.kind == "score":
        ordered = sorted(given)
        tied = list(dict.fromkeys([ordered[(len(given) - 1) // 2], ordered[len(given) // 2]]))
    else:
        counts = Counter(given)
        tied = [label for label, count in counts.items() if count == max(counts.values())]
    if probabilities is not None:
        by_label = dict(zip(field.choices.values(), probabilities.whole, strict=True))
        best = max(by_label[label] for label in tied)
        return rng.choice([label for label in tied if by_label[label] == best]), len(tied) > 1
    return rng.choice(tied), len(tied) > 1


def _most_probable(field: LabelField, probabilities: LabelProbabilities, drawn: Any) -> Any:
    """The most probable label, preferring the drawn one if equal."""
    labels = list(field.choices.values())
    best = max(range(len(labels)), key=probabilities.whole.__getitem__)
    return labels[best] if probabilities.whole[best] > probabilities.whole[labels.index(drawn)] + 1e-12 else drawn


def _is_valid(values: Mapping[str, Any], question: Question) -> bool:
    try:
        return question.check is None or question.check(values) is None
    except ValueError:
        return False


def _count(label: Any, given: Sequence[Sequence[Any]]) -> int:
    return sum(label in each for each in given)


def _mean_probabilities(field: LabelField, answers: Sequence[Labelled]) -> LabelProbabilities | None:
    known = [each.probabilities[field.name] for each in answers if field.name in each.probabilities]
    if len(known) < 2:
        return known[0] if known else None
    parts = ([getattr(each, name) for each in known] for name in ("whole", "low", "high", "first"))
    return LabelProbabilities(*(tuple(np.mean(part, axis=0).tolist()) for part in parts))


def _confidences(field: LabelField, rows: Sequence[_Decision], question: Question) -> dict[str, Any]:
    cells = {}
    for number, method in enumerate(question.confidence if field.kind != "text" else ()):
        if method == "votes":
            values = [_agreement(field, row, question.samples) for row in rows]
        else:
            values = [_probability(field, row, "whole" if method == "logprobs" else "first") for row in rows]
        cells[f"confidence_{method}" if number else "confidence"] = np.array(values, dtype="float64")
    return cells


def _agreement(field: LabelField, row: _Decision, samples: int) -> float:
    """The share of a row's samples that agree; of several labels, on the one with the least agreement."""
    if not row.given:
        return np.nan
    if field.kind != "several":
        return list(row.given).count(row.label) / samples
    counts = [_count(each, row.given) for each in field.choices.values()]
    return float(min(max(count, len(row.given) - count) for count in counts)) / samples


def _probability(field: LabelField, row: _Decision, which: str) -> float:
    if row.label is None or row.probabilities is None:
        return np.nan
    return float(getattr(row.probabilities, which)[list(field.choices.values()).index(row.label)])


def _distribution(field: LabelField, probabilities: LabelProbabilities | None) -> dict[str, float] | None:
    return None if probabilities is None else dict(zip(field.texts, probabilities.whole, strict=True))


def _bounds(field: LabelField, probabilities: LabelProbabilities | None) -> dict[str, list[float]] | None:
    """The bounds of each label's probability that the tokens do not determine exactly."""
    if probabilities is None:
        return None
    bounds = zip(field.texts, probabilities.low, probabilities.high, strict=True)
    return {text: [low, high] for text, low, high in bounds if high - low > 1e-9} or None


def _reason(field: LabelField, row: _Decision, answers: Sequence[Labelled]) -> str | None:
    """The reason in the first sample with the row's label."""
    agreeing = [each.reason for each in answers if each.values[field.name] == row.label]
    return next(iter(agreeing or [each.reason for each in answers]), None)


def _label_column(field: LabelField, labels: Sequence[Any], categories: Mapping[str, pd.CategoricalDtype]) -> Any:
    if field.kind == "score":
        return pd.array(labels, dtype="Int64")
    if field.kind == "several":
        return object_column(labels)
    if field.kind == "text":
        return text_column(labels)
    return pd.Categorical(list(labels), dtype=categories[field.name])


def _categories(field: LabelField) -> pd.CategoricalDtype:
    """Made before anything is sent, because pandas does not accept every list as categories."""
    labels = list(field.choices.values())
    has_members = any(isinstance(label, enum.Enum) for label in labels)
    try:
        frozenset(labels)  # pandas would find unhashable labels only when the answers arrive
        # Otherwise members of a `class Tone(str, Enum)` would become plain strings.
        return pd.CategoricalDtype(pd.Index(labels, dtype=object) if has_members else labels)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"pandas cannot use the labels {labels} as categories: {error}") from None
