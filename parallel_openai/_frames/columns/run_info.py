"""The record of what a run did, as the frame that it returned keeps it in its attrs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import pandas as pd

from parallel_openai._json import dumps, loads
from parallel_openai.errors import InvalidInputError

ATTRS = "parallel_openai"
NO_ATTRS = (
    "This frame does not come from process_dataframe or label_dataframe, or lost its attrs on the way (as merge and "
    "read_csv lose them). To keep them: new.attrs = out.attrs."
)
#: The version of the record; what earlier versions wrote has no number, and counts as 1.
VERSION = 1


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What a run asked, how its answers became columns, and how it ended."""

    # The template, the column's name or the source of a function.
    prompt: Any = None
    system: Any = None
    # As in the call.
    model: str | None = None
    endpoint: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    samples: int = 1
    examples: Sequence[Any] = ()
    metadata: Sequence[Hashable] = ()
    made_by_function: bool = False  # whether `prompt` or `system` was a function, which is not kept
    answer: str | None = None  # the main column, without the prefix
    prefix: str = ""  # of all columns of the run
    columns: Sequence[str] = ()  # the columns made of the answers
    # By the columns of labels, the `kind` of each and its `labels`.
    labels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    fields: Sequence[str] | None = None  # of structured answers; None for others
    gold: Any = None  # the column with the right labels
    example_keys: Sequence[str] = ()  # the keys of the rows shown to the model as examples
    # What each call added to the frame, so that the next one may replace it.
    made: Mapping[str, Any] = field(default_factory=dict)
    reviewed: str | None = None  # the column that a person has reviewed
    began: float = 0.0  # seconds since 1970
    journal: str | None = None  # the file of answers; None if unknown
    # As in `RunReport`.
    ended: str = "finished"
    simulated: bool = False
    earlier: Sequence[RunInfo] = ()  # earlier runs, whose columns the frame has too
    report: Mapping[str, Any] = field(default_factory=dict)  # the other fields of `RunReport`, by their names

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> RunInfo:
        """The record from a flat mapping; names that are not fields belong to the report."""
        own = {name: value for name, value in told.items() if name in _OWN}
        return cls(**own, report={name: value for name, value in told.items() if name not in (*_OWN, "version")})

    @classmethod
    def load(cls, dumped: Any) -> RunInfo | None:
        """The record in a frame's attrs; None for anything else, since they may come from somebody else's file.

        >>> RunInfo.load({"answer": "label", "prefix": "my_", "cost_usd": 0.5})  # doctest: +ELLIPSIS
        RunInfo(prompt=None, ..., answer='label', prefix='my_', ..., report={'cost_usd': 0.5})
        >>> RunInfo.load({"answer": 3}) is None
        True
        """
        if not _is_of_run(dumped):
            return None
        if dumped.get("version", VERSION) > VERSION:
            raise InvalidInputError(
                f"The frame's attrs are of version {dumped['version']}, and this parallel_openai reads up to {VERSION}."
                f" Update it, or drop what they say: df.attrs.pop({ATTRS!r})."
            )
        # JSON makes a list of a column's name with several levels.
        names = {name: _name(dumped[name]) for name in ("prompt", "system", "gold") if name in dumped}
        metadata = tuple(map(_name, dumped.get("metadata", ())))
        earlier = filter(None, map(cls.load, dumped.get("earlier", ())))
        return cls.of({**dumped, **names, "metadata": metadata, "earlier": tuple(earlier)})

    def dump(self) -> dict[str, Any]:
        """The record as JSON, since to_parquet and others write the attrs into their files."""
        own = {name: getattr(self, name) for name in _OWN if name not in _LEFT_OUT or getattr(self, name)}
        if self.earlier:
            own["earlier"] = [run.dump() for run in self.earlier]
        plain: dict[str, Any] = loads(dumps({"version": VERSION, **own, **self.report}))
        return plain


_OWN = tuple(each.name for each in fields(RunInfo) if each.name != "report")
#: Fields that are left out if they are empty.
_LEFT_OUT = frozenset(
    {
        *("endpoint", "answer", "journal", "examples", "columns", "labels", "fields", "gold", "example_keys"),
        *("reviewed", "earlier"),
    }
)
#: The types of the fields that are used.
_KINDS: dict[str, Any] = {
    **dict.fromkeys(("prefix", "answer", "endpoint", "journal"), str),
    **dict.fromkeys(("params", "labels", "made"), Mapping),
    **dict.fromkeys(("metadata", "examples", "earlier", "columns"), (list, tuple)),
    "began": (int, float),
    **dict.fromkeys(("samples", "version"), int),
}
_FIELD_KINDS: dict[str, Any] = {"kind": str, "labels": (list, tuple)}


def _is_of_run(dumped: Any) -> bool:
    if not _has_kinds(dumped, _KINDS):
        return False
    labels = list(dumped.get("labels", {}).values())
    if not all(_has_kinds(each, _FIELD_KINDS) for each in labels):
        return False
    words = [*dumped.get("columns", ()), *(label for each in labels for label in each.get("labels", ()))]
    return not any(isinstance(word, (Mapping, list)) for word in words)


def _has_kinds(told: Any, kinds: Mapping[str, Any]) -> bool:
    return isinstance(told, Mapping) and all(
        isinstance(told[name], kind) for name, kind in kinds.items() if name in told
    )


def _name(told: Any) -> Any:
    return tuple(told) if isinstance(told, list) else told


def runs_of(df: pd.DataFrame) -> list[RunInfo]:
    """The runs that added a frame's columns, the last one first."""
    last = RunInfo.load(df.attrs.get(ATTRS))
    return [] if last is None else [last, *last.earlier]


def last_run_of(df: pd.DataFrame) -> RunInfo:
    """The last run on a frame; an empty record if its attrs have none."""
    return next(iter(runs_of(df)), RunInfo())


def earlier_runs(df: pd.DataFrame, answer: str) -> list[RunInfo]:
    """The runs that a frame still shows after another one, which fills the column `answer`."""
    return [replace(run, earlier=()) for run in runs_of(df) if f"{run.prefix}{run.answer}" != answer]
