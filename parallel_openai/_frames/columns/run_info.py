"""What a run did, as the frame that it gave keeps it in its attrs: put together at the run's end, read by all else."""

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
#: Of what is written here; what earlier versions wrote has no number, and is of the first.
VERSION = 1


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What a run asked, how its answers became columns, and what became of it."""

    # The template or the column's name; of a function, its text.
    prompt: Any = None
    system: Any = None
    # As the call has them.
    model: str | None = None
    endpoint: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    samples: int = 1
    examples: Sequence[Any] = ()
    metadata: Sequence[Hashable] = ()
    made_by_function: bool = False  # whether `prompt` or `system` was a function, so that no request can be made again
    answer: str | None = None  # the column that everybody looks at, without the prefix
    prefix: str = ""  # of all columns of the run
    columns: Sequence[str] = ()  # those made of the answers
    # By the columns of labels, the `kind` of each and its `labels`.
    labels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    fields: Sequence[str] | None = None  # of structured answers, their fields; None for others
    gold: Any = None  # the column with the right labels
    example_keys: Sequence[str] = ()  # the keys of the rows that the model was shown as examples
    # What each call made of the frame, so that the next one may replace it.
    made: Mapping[str, Any] = field(default_factory=dict)
    reviewed: str | None = None  # the column that a person has judged
    began: float = 0.0  # seconds since 1970
    journal: str | None = None  # the file of answers; None where the frame does not say it
    # As in `RunReport`.
    ended: str = "finished"
    simulated: bool = False
    earlier: Sequence[RunInfo] = ()  # the runs before, whose columns the frame has too
    report: Mapping[str, Any] = field(default_factory=dict)  # what else `RunReport` tells, by its own names

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> RunInfo:
        """Out of a flat mapping; what is no field of its own is the report's."""
        own = {name: value for name, value in told.items() if name in _OWN}
        return cls(**own, report={name: value for name, value in told.items() if name not in (*_OWN, "version")})

    @classmethod
    def load(cls, dumped: Any) -> RunInfo | None:
        """What a frame's attrs say; None for what no run has written, since they may come from somebody else's file.

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
        # Of a column's name with several levels, JSON made a list.
        names = {name: _name(dumped[name]) for name in ("prompt", "system", "gold") if name in dumped}
        metadata = tuple(map(_name, dumped.get("metadata", ())))
        earlier = filter(None, map(cls.load, dumped.get("earlier", ())))
        return cls.of({**dumped, **names, "metadata": metadata, "earlier": tuple(earlier)})

    def dump(self) -> dict[str, Any]:
        """Plain JSON, since to_parquet and others write the attrs into their files."""
        own = {name: getattr(self, name) for name in _OWN if name not in _LEFT_OUT or getattr(self, name)}
        if self.earlier:
            own["earlier"] = [run.dump() for run in self.earlier]
        plain: dict[str, Any] = loads(dumps({"version": VERSION, **own, **self.report}))
        return plain


_OWN = tuple(each.name for each in fields(RunInfo) if each.name != "report")
#: What is not written where there is none.
_LEFT_OUT = frozenset(
    {
        *("endpoint", "answer", "journal", "examples", "columns", "labels", "fields", "gold", "example_keys"),
        *("reviewed", "earlier"),
    }
)
#: What the fields hold, as far as they are made use of.
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
    """The runs that filled a frame's columns, the last one first."""
    last = RunInfo.load(df.attrs.get(ATTRS))
    return [] if last is None else [last, *last.earlier]


def last_run_of(df: pd.DataFrame) -> RunInfo:
    """The run that filled a frame last; an empty one where its attrs know of none."""
    return next(iter(runs_of(df)), RunInfo())


def earlier_runs(df: pd.DataFrame, answer: str) -> list[RunInfo]:
    """What a frame is to keep of its runs when another one, which fills the column `answer`, takes their place."""
    return [replace(run, earlier=()) for run in runs_of(df) if f"{run.prefix}{run.answer}" != answer]
