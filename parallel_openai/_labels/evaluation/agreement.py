"""`agreement`: inter-annotator agreement of models, prompts or people."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from parallel_openai._arguments import a_type
from parallel_openai._display.blocks import Block, Fact, Facts, Heading, Matrix, counted, number
from parallel_openai._display.display import Display
from parallel_openai._frames.columns.answer_columns import COLUMNS, object_column
from parallel_openai._frames.columns.run_info import runs_of
from parallel_openai._frames.columns.table import column_text
from parallel_openai._labels.evaluation.differences import rows_that_differ
from parallel_openai._labels.evaluation.metrics import kappa
from parallel_openai._labels.label_pairs import (
    as_text,
    cells_of,
    default_label,
    label_columns,
    label_order,
    run_of,
    text_reader,
)
from parallel_openai.errors import InvalidInputError, MissingDependencyError

Level = Literal["nominal", "ordinal"]


def agreement(
    *annotators: pd.DataFrame | pd.Series[Any] | Mapping[str, pd.DataFrame | pd.Series[Any]],
    label: Hashable | None = None,
    level: Level | None = None,
) -> Agreement:
    """How far annotators agree beyond chance, and where they differ.

    Args:
        *annotators: two or more, each a frame from `label_dataframe` or a column of labels, for the same rows; or a
            mapping of them by name, such as `compare(...).frames`. Rows are matched by the index.
        label: the label column of frames; None: that of the run.
        level: `ordinal` if labels have an order: Cohen's kappa is then weighted by the square of the distance between
            values (numbers) or ranks (ordered categories). None: `ordinal` if an annotator's labels are numbers or
            ordered categories, otherwise `nominal`. Fleiss' kappa ignores the order; Krippendorff's alpha uses ranks.

    Returns:
        The coefficients and the rows that differ. See `Agreement`.

    Raises:
        InvalidInputError: there are fewer than two annotators, or their rows are not the same.
        MissingDependencyError: the extra `evaluate` is not installed.

    >>> found = agreement(pd.Series(list("aabb")), pd.Series(list("aaba")))
    >>> found.cohen_kappa, found.same, found.differences.index.tolist()
    (0.5, 0.75, [3])
    """
    given = _by_name(annotators, label)
    columns = {name: _labels(each, name, label) for name, each in given.items()}
    if level not in (None, "nominal", "ordinal"):
        raise InvalidInputError(f"level must be 'nominal' or 'ordinal', not {level!r}.")
    texts = _aligned(columns)
    positions = None if level == "nominal" else label_order(columns.values(), _distinct_labels(texts))
    if level == "ordinal" and positions is None:
        positions = _numbers(_distinct_labels(texts))
    first = next(iter(given.values()))
    return _agreement(texts, positions, first if isinstance(first, pd.DataFrame) else None)


@dataclass(frozen=True, repr=False)
class Agreement(Display):
    """How far annotators agree, and the rows that differ; `print` it, or let a notebook show it.

    Coefficients are 1 for full agreement, 0 for chance agreement, and NaN if there is only one label.

    Attributes:
        annotators: their names.
        rows: rows with a label from any annotator.
        complete: rows with a label from every annotator.
        same: the share of the complete rows with the same label from all.
        cohen_kappa: for more than two annotators the mean over all pairs, each on the rows that both labelled.
        pairs: Cohen's kappa of each pair.
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
    pairs: pd.DataFrame = field(compare=False)
    fleiss_kappa: float
    krippendorff_alpha: float
    level: Level
    differences: pd.DataFrame = field(compare=False)

    def blocks(self) -> list[Block]:
        names = ", ".join(self.annotators)
        several = len(self.annotators) > 2
        facts = [
            _coefficient("Cohen's kappa", self.cohen_kappa, "the mean of the pairs" if several else ""),
            _coefficient("Fleiss' kappa", self.fleiss_kappa),
            _coefficient("Krippendorff's alpha", self.krippendorff_alpha, self.level),
        ]
        return [
            Heading(f"{names} on {counted(self.complete, 'row')}: {self.same:.1%} labelled the same by all"),
            Facts(facts),
            *([_pairs(self.annotators, self.pairs)] if several else []),
            *rows_that_differ(self.differences),
        ]


def _coefficient(name: str, value: float, note: str = "") -> Fact:
    return Fact(name, number(value, ".3f"), note if value == value else "not defined: all labels are the same")


def _pairs(names: Sequence[str], pairs: pd.DataFrame) -> Matrix:
    kappas = pairs.to_numpy()
    cells = [
        ["" if across == down else number(kappa, ".2f") for across, kappa in enumerate(row)]
        for down, row in enumerate(kappas)
    ]
    shades = np.where(np.eye(len(names), dtype=bool), 0.0, np.clip(np.nan_to_num(kappas), 0.0, 1.0))
    return Matrix("Cohen's kappa of each pair", ("", ""), names, names, cells, shades.tolist())


def _by_name(annotators: Sequence[Any], label: Hashable | None) -> dict[str, Any]:
    """The annotators by name: the mapping's key, their column or model if these are distinct, or a letter."""
    if len(annotators) == 1 and isinstance(annotators[0], Mapping):
        given = {str(name): each for name, each in annotators[0].items()}
    else:
        names = [_own_name(each, label) for each in annotators]
        if None in names or len(set(names)) < len(names):
            names = [chr(ord("a") + number) for number in range(len(annotators))]
        given = dict(zip(map(str, names), annotators, strict=True))
    if len(given) < 2:
        raise InvalidInputError(f"agreement needs two annotators or more, not {len(given)}.")
    return given


def _own_name(annotator: Any, label: Hashable | None) -> str | None:
    if isinstance(annotator, pd.Series):
        return None if annotator.name is None else column_text(annotator.name)
    if not isinstance(annotator, pd.DataFrame):
        return None
    run = run_of(annotator, default_label(annotator) if label is None else label)
    return None if run is None else run.model


def _labels(annotator: Any, name: str, label: Hashable | None) -> pd.Series[Any]:
    if isinstance(annotator, pd.Series):
        return annotator
    if isinstance(annotator, pd.DataFrame):
        return annotator[label_columns(annotator, label).label]
    raise InvalidInputError(
        f"The annotator {name!r} must be a frame of labels or a column of one, not {a_type(annotator)}."
    )


def _aligned(columns: Mapping[str, pd.Series[Any]]) -> pd.DataFrame:
    """The labels as strings, one column per annotator, in the order of the first one's rows."""
    index = next(iter(columns.values())).index
    cells = {name: cells_of(_in_rows_of(index, column, name)) for name, column in columns.items()}
    if not index.is_unique:
        warnings.warn(
            "The annotators' index has duplicate labels, so their rows are assumed to be in the same order. To be "
            "sure, give each row a label of its own before labelling: df.reset_index(drop=True).",
            stacklevel=3,
        )
    read = text_reader(*cells.values())
    texts = {name: object_column([as_text(value, read) for value in values]) for name, values in cells.items()}
    return pd.DataFrame(texts, index=index)


def _in_rows_of(index: pd.Index[Any], column: pd.Series[Any], name: str) -> pd.Series[Any]:
    if column.index.equals(index):
        return column
    if not (index.is_unique and column.index.is_unique and set(index) == set(column.index)):
        raise InvalidInputError(
            f"The annotators' rows are not the same: {name!r} has {len(column):,} rows and another index than the "
            f"first, with {len(index):,}. Select the common rows first: a.loc[b.index]."
        )
    return column.loc[index]


def _distinct_labels(texts: pd.DataFrame) -> list[str]:
    return sorted({text for text in texts.to_numpy().ravel().tolist() if isinstance(text, str)})


def _numbers(texts: Sequence[str]) -> dict[str, float]:
    try:
        return {text: float(text) for text in texts}
    except ValueError as error:
        raise InvalidInputError(
            f"With level='ordinal' the labels must be numbers, or ordered categories with the same order: {error}."
        ) from None


def _agreement(texts: pd.DataFrame, positions: Mapping[str, float] | None, frame: pd.DataFrame | None) -> Agreement:
    values = _distinct_labels(texts)
    codes = texts.apply(lambda column: pd.Categorical(column, categories=values).codes)
    labelled = codes.to_numpy() >= 0
    is_complete = labelled.all(axis=1)
    if not is_complete.any():
        raise InvalidInputError("There is no row that all annotators have labelled.")
    is_same = (codes.to_numpy() == codes.to_numpy()[:, :1]).all(axis=1)
    counts_of, fleiss, alpha = _libraries()
    pairs = _cohen(codes, None if positions is None else np.array([positions[value] for value in values]), len(values))
    of_pairs = pairs.to_numpy()[np.triu_indices(len(pairs), 1)]
    differ = is_complete & ~is_same
    return Agreement(
        annotators=tuple(texts.columns),
        rows=int(labelled.any(axis=1).sum()),
        complete=int(is_complete.sum()),
        same=float(is_same[is_complete].mean()),
        cohen_kappa=np.nan if np.isnan(of_pairs).all() else float(np.nanmean(of_pairs)),
        pairs=pairs,
        fleiss_kappa=_fleiss(fleiss, counts_of, codes[is_complete].to_numpy(), len(values)),
        krippendorff_alpha=_krippendorff(alpha, texts, positions),
        level="nominal" if positions is None else "ordinal",
        differences=_differences(texts[differ], None if frame is None else frame[differ]),
    )


def _cohen(codes: pd.DataFrame, positions: Any, values: int) -> pd.DataFrame:
    kappas = pd.DataFrame(np.eye(codes.shape[1]), index=codes.columns, columns=codes.columns)
    for one, other in itertools.combinations(codes.columns, 2):
        both = codes[(codes[one] >= 0) & (codes[other] >= 0)]
        table = np.zeros((values, values))
        np.add.at(table, (both[one].to_numpy(), both[other].to_numpy()), 1.0)
        kappas.loc[one, other] = kappas.loc[other, one] = kappa(table, positions)
    return kappas


def _fleiss(fleiss_kappa: Any, aggregate_raters: Any, codes: Any, values: int) -> float:
    if len(np.unique(codes)) < 2:
        return np.nan
    return float(fleiss_kappa(aggregate_raters(codes, n_cat=values)[0]))


def _krippendorff(alpha: Any, texts: pd.DataFrame, positions: Mapping[str, float] | None) -> float:
    numbers = (
        positions if positions is not None else {text: float(code) for code, text in enumerate(_distinct_labels(texts))}
    )
    data = texts.apply(lambda column: column.map(numbers)).to_numpy(dtype="float64").T
    pairable = data[:, (~np.isnan(data)).sum(axis=0) > 1]
    if len(np.unique(pairable[~np.isnan(pairable)])) < 2:
        return np.nan
    level = "nominal" if positions is None else "ordinal"
    return float(alpha(reliability_data=data, level_of_measurement=level))


def _libraries() -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """Functions that count raters and compute Fleiss' kappa and Krippendorff's alpha; importing them takes seconds."""
    try:
        import krippendorff
        from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa
    except ImportError as error:
        raise MissingDependencyError.of("agreement needs", "statsmodels krippendorff", error) from error
    return aggregate_raters, fleiss_kappa, krippendorff.alpha


def _differences(texts: pd.DataFrame, frame: pd.DataFrame | None) -> pd.DataFrame:
    if frame is None:
        return texts
    ours = {f"{run.prefix}{name}" for run in runs_of(frame) for name in (*COLUMNS, *run.columns)}
    inputs = frame[[name for name in frame.columns if name not in ours and name not in texts.columns]]
    return pd.concat([inputs, texts], axis=1)
