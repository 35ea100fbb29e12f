"""From answers to the columns of labels: what a row's samples come to, and how sure that is."""

from __future__ import annotations

import dataclasses
import enum
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from parallel_openai._frames.columns.answer_columns import Reader, Reading, object_column, text_column
from parallel_openai._labels.question import DRAWN, Question, has_probabilities
from parallel_openai._requests.endpoints import Endpoint
from parallel_openai._requests.logprobs import LabelProbabilities, find_values, label_probabilities, steps_of
from parallel_openai._requests.schemas.label_schema import REASON, REASON_COLUMN, LabelField, read_answer
from parallel_openai.errors import InvalidInputError


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
    probabilities: Mapping[str, LabelProbabilities] = dataclasses.field(default_factory=dict)


def label_reader(endpoint: Endpoint, question: Question) -> Reader:
    """Reads labels, and makes the columns that the question asks for."""

    takes_logprobs = question.asks_for_logprobs

    def read(response: Mapping[str, Any]) -> Reading:
        answer = endpoint.read(response)
        if answer.error_code is not None or answer.text is None:
            code = answer.error_code or "empty"
            return Reading(None, answer.finish_reason, answer.model, code, answer.error or "There is no answer.")
        try:
            labelled = _labelled(answer.text, question, answer.logprobs if takes_logprobs else None)
        except ValueError as error:
            return Reading(None, answer.finish_reason, answer.model, "off_label", str(error))
        return Reading(labelled, answer.finish_reason, answer.model)

    categories = {each.name: _categories(each) for each in question.fields if each.kind == "one"}

    def columns(values: Sequence[Any], keys: Sequence[Any]) -> dict[str, Any]:
        rows = values if question.samples > 1 else [[value] for value in values]
        return _columns(rows, keys, question, categories)

    about = {"labels": question.about(), "columns": list(question.names())}
    return Reader(question.names(), read, columns, about)


def _labelled(text: str, question: Question, tokens: Sequence[Any] | None) -> Labelled:
    answer, values = read_answer(text, question.fields)
    if question.check is not None:
        question.check(values)
    reason = answer.get(REASON) if question.explain else None
    probabilities = _probabilities(answer, question, tokens) if tokens is not None else {}
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
        told = label_probabilities(steps, places[field.name], *field.choice_in(answer))
        if told is not None:
            found[field.name] = told
    return found


def _columns(
    samples: Sequence[Sequence[Labelled | None]],
    keys: Sequence[Any],
    question: Question,
    categories: Mapping[str, pd.CategoricalDtype],
) -> dict[str, Any]:
    """The columns, from each row's samples (None where one has no answer) and the keys of its requests."""
    answers = [list(filter(None, row)) for row in samples]
    columns: dict[str, Any] = {}
    for field in question.fields:
        rows = [_decide(field, *pair, question) for pair in zip(answers, keys, strict=True)]
        cells = {"": None, **_confidences(field, rows, question)}
        labels = [row.label for row in rows]
        if question.abstain_below is not None and "confidence" in cells:
            below = ~(cells["confidence"] >= question.abstain_below)  # where it is not known, too
            labels = [None if doubtful else label for label, doubtful in zip(labels, below, strict=True)]
        cells[""] = _label_column(field, labels, categories)
        if question.samples > 1:
            votes = [[None if each is None else each.values[field.name] for each in row] for row in samples]
            cells |= {"votes": object_column(votes), "tie": np.array([row.tie for row in rows], dtype=bool)}
        if question.asks_for_logprobs and has_probabilities(field):
            cells["probabilities"] = object_column([_distribution(field, row.chances) for row in rows])
            cells["probability_bounds"] = object_column([_bounds(field, row.chances) for row in rows])
            if question.takes_most_probable:
                cells[DRAWN] = _label_column(field, [row.drawn for row in rows], categories)
        columns |= {question.column(field, what): cell for what, cell in cells.items()}
        if question.explain and field is question.fields[0]:
            reasons = text_column([_reason(field, *pair) for pair in zip(rows, answers, strict=True)])
    if question.explain:
        columns[REASON_COLUMN] = reasons
    return columns


class _Decided(NamedTuple):
    """What a row's answers come to.

    Attributes:
        label: the row's label; None where there is no answer.
        drawn: what the samples say, where `label` is the most probable one.
        tie: whether as many samples say another label.
        given: what each answer says.
        chances: the labels' probabilities, on the mean of the answers; None where they are not known.
    """

    label: Any
    drawn: Any
    tie: bool
    given: Sequence[Any]
    chances: LabelProbabilities | None


def _decide(field: LabelField, answers: Sequence[Labelled], key: Any, question: Question) -> _Decided:
    if len(answers) == 1 and not answers[0].probabilities:  # as most are, in columns of millions
        only = answers[0].values[field.name]
        return _Decided(only, only, False, [only], None)
    given = [each.values[field.name] for each in answers]
    chances = _chances(field, answers)
    drawn, tie = _drawn(field, given, chances, key)
    label = drawn
    if chances is not None and question.takes_most_probable:
        label = _most_probable(field, chances, drawn)
        if not _is_taken({**answers[0].values, field.name: label}, question):
            label = drawn
    return _Decided(label, drawn, tie, given, chances)


def label_of(answer: Labelled, field: LabelField, question: Question) -> Any:
    """The label that a single answer comes to."""
    return _decide(field, [answer], None, question).label


def _drawn(field: LabelField, given: Sequence[Any], chances: LabelProbabilities | None, key: Any) -> tuple[Any, bool]:
    """The label of most samples, the labels that more than half of them give, or the score in the middle; and whether
    it is a tie. A tie goes to the more probable label where that is known, else to chance; the requests
    are its seed, so that the same row ends the same way in every run."""
    if len(given) < 2:
        return (given[0] if given else None), False
    dice = random.Random(str(key))
    if field.kind == "several":
        halves = [(label, 2 * _count(label, given) - len(given)) for label in field.choices.values()]
        chosen = [label for label, over in halves if over > 0 or (over == 0 and dice.random() < 0.5)]
        return chosen, any(over == 0 for _, over in halves)
    if field.kind == "score":
        ordered = sorted(given)
        tied = list(dict.fromkeys([ordered[(len(given) - 1) // 2], ordered[len(given) // 2]]))
    else:
        counts = Counter(given)
        tied = [label for label, count in counts.items() if count == max(counts.values())]
    if chances is not None:
        by_label = dict(zip(field.choices.values(), chances.whole, strict=True))
        best = max(by_label[label] for label in tied)
        return dice.choice([label for label in tied if by_label[label] == best]), len(tied) > 1
    return dice.choice(tied), len(tied) > 1


def _most_probable(field: LabelField, chances: LabelProbabilities, drawn: Any) -> Any:
    """The drawn label where another is no more probable than it."""
    labels = list(field.choices.values())
    best = max(range(len(labels)), key=chances.whole.__getitem__)
    return labels[best] if chances.whole[best] > chances.whole[labels.index(drawn)] + 1e-12 else drawn


def _is_taken(values: Mapping[str, Any], question: Question) -> bool:
    """Whether the caller's own class takes the values."""
    try:
        return question.check is None or question.check(values) is None
    except ValueError:
        return False


def _count(label: Any, given: Sequence[Sequence[Any]]) -> int:
    return sum(label in each for each in given)


def _chances(field: LabelField, answers: Sequence[Labelled]) -> LabelProbabilities | None:
    """The labels' probabilities on the mean of the answers."""
    known = [each.probabilities[field.name] for each in answers if field.name in each.probabilities]
    if len(known) < 2:
        return known[0] if known else None
    parts = ([getattr(each, name) for each in known] for name in ("whole", "low", "high", "first"))
    return LabelProbabilities(*(tuple(np.mean(part, axis=0).tolist()) for part in parts))


def _confidences(field: LabelField, rows: Sequence[_Decided], question: Question) -> dict[str, Any]:
    """The columns of confidence, by each method that is asked for."""
    cells = {}
    for number, method in enumerate(question.confidence if field.kind != "text" else ()):
        if method == "votes":
            sure = [_agreement(field, row, question.samples) for row in rows]
        else:
            sure = [_probability(field, row, "whole" if method == "logprobs" else "first") for row in rows]
        cells[f"confidence_{method}" if number else "confidence"] = np.array(sure, dtype="float64")
    return cells


def _agreement(field: LabelField, row: _Decided, samples: int) -> float:
    """The share of a row's samples that say the same; of several labels, about that on which they agree least."""
    if not row.given:
        return np.nan
    if field.kind != "several":
        return list(row.given).count(row.label) / samples
    counts = [_count(each, row.given) for each in field.choices.values()]
    return float(min(max(count, len(row.given) - count) for count in counts)) / samples


def _probability(field: LabelField, row: _Decided, which: str) -> float:
    """The label's probability by the tokens."""
    if row.label is None or row.chances is None:
        return np.nan
    return float(getattr(row.chances, which)[list(field.choices.values()).index(row.label)])


def _distribution(field: LabelField, chances: LabelProbabilities | None) -> dict[str, float] | None:
    """Each label's probability, by its text."""
    return None if chances is None else dict(zip(field.texts, chances.whole, strict=True))


def _bounds(field: LabelField, chances: LabelProbabilities | None) -> dict[str, list[float]] | None:
    """The lowest and the highest that a label's probability may be, of those that the tokens do not tell exactly."""
    if chances is None:
        return None
    told = zip(field.texts, chances.low, chances.high, strict=True)
    return {text: [low, high] for text, low, high in told if high - low > 1e-9} or None


def _reason(field: LabelField, row: _Decided, answers: Sequence[Labelled]) -> str | None:
    """The reason that the first sample with the row's label gives."""
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
