"""The `Question` of a `label_dataframe` call: its checked arguments, and the columns they lead to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from parallel_openai._arguments import check_count
from parallel_openai._frames.columns.answer_columns import COLUMNS
from parallel_openai._requests.logprobs import MOST_ALTERNATIVES
from parallel_openai._requests.schemas.label_models import checker, is_label_model, label_fields
from parallel_openai._requests.schemas.label_schema import (
    LABEL,
    REASON,
    REASON_COLUMN,
    LabelField,
    check_labels,
    check_scale,
    label_instruction,
)
from parallel_openai.errors import InvalidInputError

Confidence = Literal["logprobs", "first_token", "votes"]

#: Suffix of the column with the label that the model answered.
DRAWN = "drawn"


@dataclass(frozen=True)
class Question:
    """The fields to label each row with, and the options of doing so."""

    fields: Sequence[LabelField]  # the fields of an answer
    single: bool  # True for one field without a class, whose column is `label` whatever its name is
    samples: int = 1  # answers per row
    explain: bool = False  # whether a reason comes before the labels
    confidence: tuple[Confidence, ...] = ()  # the methods; the first one fills the column `confidence`
    abstain_below: float | None = None  # labels with a lower confidence become missing; None for none
    # Raises ValueError for values that the caller's class refuses; None without a class.
    check: Callable[[Mapping[str, Any]], None] | None = None

    @property
    def asks_for_logprobs(self) -> bool:
        return not {"logprobs", "first_token"}.isdisjoint(self.confidence)

    @property
    def takes_most_probable(self) -> bool:
        """Whether the label is the most probable one instead of the model's answer."""
        return self.confidence[:1] == ("logprobs",)

    def column(self, field: LabelField, what: str = "") -> str:
        """The name of a field's label column, or of another of its columns (`confidence`, `votes` ...)."""
        if what == DRAWN:
            return f"{self.column(field)}_{DRAWN}"
        if self.single:
            return what or LABEL
        return f"{field.name}_{what}" if what else field.name

    def columns(self, field: LabelField) -> list[str]:
        """All columns of a field except the reason, in order."""
        has_labels = field.kind != "text"
        more = [f"confidence_{method}" if n else "confidence" for n, method in enumerate(self.confidence) if has_labels]
        more += ["votes", "tie"] if self.samples > 1 else []
        if has_probabilities(field):
            more += ["probabilities", "probability_bounds"] if self.asks_for_logprobs else []
            more += [DRAWN] if self.takes_most_probable else []
        return [self.column(field, what) for what in ("", *more)]

    def names(self) -> tuple[str, ...]:
        names = [name for field in self.fields for name in self.columns(field)]
        return (*names, *([REASON_COLUMN] if self.explain else []))

    def about(self) -> dict[str, Any]:
        """The question as plain data, for the frame's attrs."""
        return {self.column(field): {"kind": field.kind, "labels": field.texts} for field in self.fields}


def has_probabilities(field: LabelField) -> bool:
    """Whether the labels are mutually exclusive, so that each has a probability."""
    return field.kind in ("one", "score")


def make_question(
    labels: Any,
    *,
    multi: bool = False,
    scale: tuple[int, int] | None = None,
    explain: bool = False,
    samples: int = 1,
    confidence: str | Sequence[str] | None = None,
    abstain_below: float | None = None,
    params: Mapping[str, Any],
) -> Question:
    fields, check = _fields(labels, multi, scale)
    check_count(samples, "samples")
    methods = _methods(confidence, samples)
    question = Question(fields, check is None, samples, explain, methods, abstain_below, check)
    _check_names(question)
    _check_samples(samples, params)
    _check_confidence(question, params)
    return question


def _fields(labels: Any, multi: bool, scale: Any) -> tuple[list[LabelField], Any]:
    if multi and scale is not None:
        raise InvalidInputError("multi=True chooses several labels, and a scale gives one score; pass one of the two.")
    if scale is not None:
        return [check_scale(scale, labels)], None
    if labels is None:
        raise InvalidInputError("Pass labels=[...], or scale=(1, 5) for a score.")
    if is_label_model(labels):
        if multi:
            raise InvalidInputError(
                f"multi=True does not go with the fields of {labels.__name__}; make the field a list[...] in it."
            )
        return label_fields(labels), checker(labels)
    choices, descriptions = check_labels(labels)
    name, kind = ("labels", "several") if multi else (LABEL, "one")
    return [LabelField(name, kind, choices, descriptions)], None  # type: ignore[arg-type]  # both are of its kinds


def _methods(confidence: str | Sequence[str] | None, samples: int) -> tuple[Confidence, ...]:
    if confidence is None:
        return ("votes",) if samples > 1 else ()
    several = isinstance(confidence, Iterable) and not isinstance(confidence, str)
    methods = tuple(confidence) if several else (confidence,)
    if unknown := [method for method in methods if method not in get_args(Confidence)]:
        raise InvalidInputError(
            f"confidence must be one or several of {', '.join(map(repr, get_args(Confidence)))}, not {unknown[0]!r}."
        )
    if "votes" in methods and samples == 1:
        raise InvalidInputError("confidence='votes' counts how many samples agree; pass samples=5 or so with it.")
    return tuple(dict.fromkeys(methods))  # type: ignore[arg-type]  # checked above


def _check_names(question: Question) -> None:
    names = question.names()
    for field in question.fields:
        if question.explain and field.name == REASON:
            raise InvalidInputError(f"The field {REASON!r} and explain=True would both be the reason; leave one out.")
    for name in names:
        if name in COLUMNS or names.count(name) > 1:
            raise InvalidInputError(
                f"A field of labels would fill the column {name!r}, which another result fills; rename the field."
            )


def _check_samples(samples: int, params: Mapping[str, Any]) -> None:
    if samples > 1 and params.get("temperature") == 0:
        raise InvalidInputError(
            f"With temperature=0 the {samples} samples of a row would be the same answer, paid for {samples} times; "
            "leave temperature out, or set it to 1."
        )


def _check_confidence(question: Question, params: Mapping[str, Any]) -> None:
    if question.asks_for_logprobs and not any(map(has_probabilities, question.fields)):
        raise InvalidInputError(
            "Token probabilities give the confidence of one label of a set, not of a list of labels or of free text. "
            "For these pass samples=5 or so; confidence is then how far the samples agree."
        )
    top = params.get("top_logprobs", MOST_ALTERNATIVES)
    if question.asks_for_logprobs and (not params.get("logprobs", True) or not top):
        raise InvalidInputError("confidence='logprobs' needs logprobs=True and top_logprobs above 0; leave them out.")
    below = question.abstain_below
    if below is None:
        return
    if isinstance(below, bool) or not isinstance(below, (int, float)) or not 0 < below <= 1:
        raise InvalidInputError(f"abstain_below must be a confidence above 0 and up to 1, not {below!r}.")
    if not question.confidence:
        raise InvalidInputError(
            "abstain_below needs a confidence: pass samples=5 or so, or confidence='logprobs' if the server has it."
        )


def instruction(question: Question) -> str:
    text = label_instruction(question.fields, explain=question.explain)
    return text.replace("{", "{{").replace("}", "}}")
