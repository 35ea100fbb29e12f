"""`agreement`: how far two or more annotators label the same rows the same way; models, prompts or people."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from parallel_openai.errors import InvalidInputError, MissingDependencyError
from parallel_openai.frames.answers import COLUMNS
from parallel_openai.frames.labelling.pairing import as_text, label_columns
from parallel_openai.frames.table import column_text
from parallel_openai.printable import printable

Level = Literal["nominal", "ordinal"]

_MISSING = (
    "agreement() needs scikit-learn, statsmodels and krippendorff, and {name} is not installed: "
    "pip install 'parallel-openai[evaluate]'."
)


def agreement(
    *annotators: pd.DataFrame | pd.Series[Any] | Mapping[str, pd.DataFrame | pd.Series[Any]],
    label: Hashable | None = None,
    level: Level | None = None,
) -> Agreement:
    """How far annotators agree beyond chance, and where they differ.

    Args:
        *annotators: two or more, each a frame from `label_dataframe` or a column of labels, of the same rows; or a
            mapping of them by name, such as `compare(...).frames`. Rows are matched by the index.
        label: the labels' column of frames; None: that of the run.
        level: `ordinal` where labels have an order, as scores do: then far apart is worse than close by, Cohen's kappa
            weighs by the square of the distance, and labels must be numbers. None: `ordinal` for scores, else
            `nominal`. Fleiss' kappa takes no order into account.

    Returns:
        The figures and the rows that differ. See `Agreement`.

    Raises:
        InvalidInputError: fewer than two annotators, or not the same rows.
        MissingDependencyError: the extra `evaluate` is not installed.

    >>> found = agreement(pd.Series(list("aabb")), pd.Series(list("aaba")))
    >>> found.cohen_kappa, found.same, found.differences.index.tolist()
    (0.5, 0.75, [3])
    """
    given = _by_name(annotators)
    columns = {name: _labels(each, name, label) for name, each in given.items()}
    order = level if level is not None else _level(given, columns)
    if order not in ("nominal", "ordinal"):
        raise InvalidInputError(f"level must be 'nominal' or 'ordinal', not {level!r}.")
    texts = _aligned(columns)
    if order == "ordinal":
        texts = texts.apply(_numbers)
    first = next(iter(given.values()))
    return _agreement(texts, order, first if isinstance(first, pd.DataFrame) else None)


@dataclass(frozen=True)
class Agreement:
    """How far annotators agree. `print` it for the figures; a notebook shows the rows that differ too.

    1 is full agreement and 0 what chance would give; NaN where nobody ever gives a second label.

    Attributes:
        annotators: their names.
        rows, complete: rows with a label from anybody, and from everybody.
        same: the share of the complete rows to which all give the same label.
        cohen_kappa: of two annotators; of more, the mean over all pairs. Each pair counts the rows that both label.
        pairs: Cohen's kappa of each pair, down and across.
        fleiss_kappa: of all annotators, on the complete rows.
        krippendorff_alpha: of all annotators, on all rows with two labels or more.
        level: `nominal` or `ordinal`.
        differences: the complete rows that differ: the text columns of the first frame, and each annotator's label.
    """

    annotators: tuple[str, ...]
    rows: int
    complete: int
    same: float
    cohen_kappa: float
    pairs: pd.DataFrame = field(repr=False, compare=False)
    fleiss_kappa: float
    krippendorff_alpha: float
    level: Level
    differences: pd.DataFrame = field(repr=False, compare=False)

    def __str__(self) -> str:
        names = printable(", ".join(self.annotators))
        return (
            f"{names} on {self.complete:,} rows: {self.same:.1%} labelled the same by all\n"
            f"Cohen's kappa {self.cohen_kappa:.3f}, Fleiss' kappa {self.fleiss_kappa:.3f}, Krippendorff's alpha "
            f"{self.krippendorff_alpha:.3f} ({self.level})"
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from parallel_openai.frames.labelling.agreement_html import page

        return page(self)


def _by_name(annotators: Sequence[Any]) -> dict[str, Any]:
    """The annotators by name: their own, that of their column or model where these differ, or a letter."""
    if len(annotators) == 1 and isinstance(annotators[0], Mapping):
        given = {str(name): each for name, each in annotators[0].items()}
    else:
        names = [_own_name(each) for each in annotators]
        if None in names or len(set(names)) < len(names):
            names = [chr(ord("a") + number) for number in range(len(annotators))]
        given = dict(zip(map(str, names), annotators, strict=True))
    if len(given) < 2:
        raise InvalidInputError(f"agreement needs two annotators or more, not {len(given)}.")
    return given


def _own_name(annotator: Any) -> str | None:
    if isinstance(annotator, pd.Series):
        return None if annotator.name is None else column_text(annotator.name)
    about = getattr(annotator, "attrs", {}).get("parallel_openai") or {}
    return about.get("model")


def _labels(annotator: Any, name: str, label: Hashable | None) -> pd.Series[Any]:
    if isinstance(annotator, pd.Series):
        return annotator
    if isinstance(annotator, pd.DataFrame):
        return annotator[label_columns(annotator, label).label]
    raise InvalidInputError(
        f"The annotator {name!r} must be a frame of labels or a column of one, not a {type(annotator).__name__}."
    )


def _level(given: Mapping[str, Any], columns: Mapping[str, pd.Series[Any]]) -> Level:
    kinds = {label_columns(each).kind for each in given.values() if isinstance(each, pd.DataFrame)}
    return "ordinal" if kinds == {"score"} and all(map(pd.api.types.is_numeric_dtype, columns.values())) else "nominal"


def _aligned(columns: Mapping[str, pd.Series[Any]]) -> pd.DataFrame:
    """The labels as texts, one column an annotator, in the rows of the first.

    Raises:
        InvalidInputError: they are not about the same rows.
    """
    index = next(iter(columns.values())).index
    texts = {}
    for name, column in columns.items():
        if not column.index.equals(index):
            if not (index.is_unique and column.index.is_unique and set(index) == set(column.index)):
                raise InvalidInputError(
                    f"The annotators are not about the same rows: {name!r} has {len(column):,} rows and another index "
                    f"than the first, with {len(index):,}. Take the common ones first: a.loc[b.index]."
                )
            column = column.loc[index]
        missing = column.isna().to_numpy()
        values = [None if gone else as_text(value) for value, gone in zip(column.tolist(), missing, strict=True)]
        texts[name] = np.array(values, dtype=object)
    return pd.DataFrame(texts, index=index)


def _numbers(texts: pd.Series[Any]) -> pd.Series[Any]:
    try:
        return pd.to_numeric(texts)
    except ValueError as error:
        raise InvalidInputError(f"With level='ordinal' the labels must be numbers: {error}.") from None


def _agreement(texts: pd.DataFrame, level: Level, frame: pd.DataFrame | None) -> Agreement:
    complete = texts.dropna()
    if complete.empty:
        raise InvalidInputError("There is no row that all annotators have labelled.")
    values = sorted(pd.unique(texts.to_numpy().ravel()[~texts.isna().to_numpy().ravel()]).tolist())
    codes = texts.apply(lambda column: pd.Categorical(column, categories=values).codes)
    libraries = _Libraries.load()
    pairs = _cohen(libraries, codes.where(codes >= 0), level)
    differ = texts.notna().all(axis=1).to_numpy() & (texts.nunique(axis=1) > 1).to_numpy()
    return Agreement(
        annotators=tuple(texts.columns),
        rows=int(texts.notna().any(axis=1).sum()),
        complete=len(complete),
        same=float((complete.nunique(axis=1) == 1).mean()),
        cohen_kappa=float(np.nanmean(_above(pairs))) if not np.isnan(_above(pairs)).all() else np.nan,
        pairs=pairs,
        fleiss_kappa=_fleiss(libraries, codes[texts.notna().all(axis=1).to_numpy()].to_numpy(), len(values)),
        krippendorff_alpha=_krippendorff(libraries, texts, codes, level),
        level=level,
        differences=_differences(texts[differ], None if frame is None else frame[differ]),
    )


def _above(pairs: pd.DataFrame) -> Any:
    return pairs.to_numpy()[np.triu_indices(len(pairs), 1)]


def _cohen(libraries: _Libraries, codes: pd.DataFrame, level: Level) -> pd.DataFrame:
    kappas = pd.DataFrame(np.eye(codes.shape[1]), index=codes.columns, columns=codes.columns)
    values = np.arange(int(np.nanmax(codes.to_numpy())) + 1)
    for one, other in itertools.combinations(codes.columns, 2):
        both = codes[[one, other]].dropna().astype(int)
        weights = "quadratic" if level == "ordinal" else None
        kappa = np.nan
        if len(both) and both.stack().nunique() > 1:
            kappa = float(libraries.cohen_kappa(both[one], both[other], labels=values, weights=weights))
        kappas.loc[one, other] = kappas.loc[other, one] = kappa
    return kappas


def _fleiss(libraries: _Libraries, codes: Any, values: int) -> float:
    if len(np.unique(codes)) < 2:
        return np.nan
    return float(libraries.fleiss_kappa(libraries.aggregate_raters(codes, n_cat=values)[0]))


def _krippendorff(libraries: _Libraries, texts: pd.DataFrame, codes: pd.DataFrame, level: Level) -> float:
    data = (texts if level == "ordinal" else codes.where(codes >= 0)).to_numpy(dtype="float64").T
    pairable = data[:, (~np.isnan(data)).sum(axis=0) > 1]
    if len(np.unique(pairable[~np.isnan(pairable)])) < 2:
        return np.nan
    return float(libraries.krippendorff_alpha(reliability_data=data, level_of_measurement=level))


class _Libraries(NamedTuple):
    """The functions that others keep, imported when they are needed: together they take seconds."""

    cohen_kappa: Callable[..., float]
    aggregate_raters: Callable[..., Any]
    fleiss_kappa: Callable[..., float]
    krippendorff_alpha: Callable[..., float]

    @classmethod
    def load(cls) -> _Libraries:
        try:
            import krippendorff
            from sklearn.metrics import cohen_kappa_score
            from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa
        except ImportError as error:
            raise MissingDependencyError(_MISSING.format(name=error.name)) from error
        return cls(cohen_kappa_score, aggregate_raters, fleiss_kappa, krippendorff.alpha)


def _differences(texts: pd.DataFrame, frame: pd.DataFrame | None) -> pd.DataFrame:
    if frame is None:
        return texts
    about = frame.attrs.get("parallel_openai") or {}
    ours = {f"{about.get('prefix', '')}{name}" for name in (*COLUMNS, *about.get("columns", ()))}
    shown = frame[[name for name in frame.columns if name not in ours and name not in texts.columns]]
    return pd.concat([shown, texts], axis=1)
