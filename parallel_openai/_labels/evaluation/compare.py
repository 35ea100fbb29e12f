"""`compare`: the same rows labelled by several prompts or models, and which of them is better."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from parallel_openai._client.client import Client
from parallel_openai._client.default_client import client_for
from parallel_openai._display.blocks import Advice, Block, Heading, Number, Sentence, Table, counted, number
from parallel_openai._display.display import Display
from parallel_openai._frames.columns.earlier_columns import as_own
from parallel_openai._frames.columns.table import check_frame, find_column
from parallel_openai._frames.parameters import check_parameters, checked_extra
from parallel_openai._frames.request_builder import Prompt
from parallel_openai._frames.sync_async import Call, awaitable, blocking
from parallel_openai._labels.evaluation.differences import rows_that_differ
from parallel_openai._labels.evaluation.evaluate import evaluate_without
from parallel_openai._labels.evaluation.evaluation_result import Evaluation
from parallel_openai._labels.evaluation.metrics import LEVEL, Bools, holm, mcnemar, paired_gain
from parallel_openai._labels.label import alabel_dataframe, label_dataframe
from parallel_openai._labels.label_pairs import (
    LabelColumns,
    as_text,
    cells_of,
    label_columns,
    pair,
    shown_rows,
    text_reader,
)
from parallel_openai._progress.number_format import dollars
from parallel_openai._requests.endpoints import CHAT
from parallel_openai._requests.endpoints import endpoint as find_endpoint
from parallel_openai._requests.schemas.label_models import is_label_model
from parallel_openai._run.spending.budget import Funds
from parallel_openai._run.spending.caps import SpendingCaps
from parallel_openai.errors import InvalidInputError


@blocking
def compare(
    df: pd.DataFrame,
    prompts: Mapping[str, Prompt | Mapping[str, Any]],
    *,
    labels: Any = None,
    model: str | None = None,
    models: Sequence[str] | None = None,
    gold: Hashable | None = None,
    label: Hashable | None = None,
    budget_usd: float | None = None,
    progress: bool = True,
    client: Client | None = None,
    **options: Any,
) -> Call[Comparison]:
    """Label the same rows by several prompts, by several models, or each by each, and compare.

    What was answered before is not asked again: change one prompt and run the cell again, and only that one is sent.
    `label_dataframe` with a prompt that was compared, on more rows, knows these answers too.

    Args:
        df: the rows; a sample is enough, such as `df.sample(50, random_state=0)`.
        prompts: the prompts by the names you give them. For more than the prompt, a mapping of arguments of
            `label_dataframe`: `{"plain": prompt, "reasoned": {"prompt": prompt, "explain": True}}`.
        labels: as for `label_dataframe`.
        model: the model; None if `models` has several.
        models: several models: each prompt is tried with each.
        gold: the column with the right labels, if they are known; without it, variants are compared to the first.
        label: of a class with several fields, the one to compare; None: the first.
        budget_usd: what the whole comparison may spend; it ends before it takes more. So it is with `budget_tokens=`.
        progress: False shows nothing.
        client: the account; None: the environment's.
        **options: further arguments of `label_dataframe`, for every variant: `samples=`, `scale=`, `temperature=` ...

    Returns:
        The comparison, with `table`, `changed`, `frames` and, with gold, `evaluations`. See `Comparison`.

    Raises:
        InvalidInputError: before anything is sent of the variant that it is about.
        RunStoppedError: the server refuses every row; what was answered is in the journals.

    >>> import parallel_openai as po
    >>> df = pd.DataFrame({"text": ["A great lamp.", "Awful, broke."], "gold": ["positive", "negative"]})
    >>> with po.local.simulator.serve() as server:
    ...     found = po.compare(df, {"v1": "Happy? {text}", "v2": "Sentiment of this review? {text}"}, gold="gold",
    ...                        labels=["positive", "negative"], model="gpt-4o-mini",
    ...                        client=po.Client(server.base_url), progress=False)
    >>> found.table["accuracy"].to_dict()
    {'v1': 1.0, 'v2': 1.0}
    """
    check_frame(df)
    names = _models(model, models)
    funds = _shared_funds(budget_usd, options.pop("budget_tokens", None))
    labels = list(labels) if isinstance(labels, Iterator) else labels  # each variant goes through them
    common = {"labels": labels, "progress": progress, "client": client_for(client)}
    variants = _variants(prompts, names, options)
    return _Variants(df, variants, common, gold, label, funds)


acompare = awaitable(compare)


@dataclass(frozen=True, repr=False)
class Comparison(Display):
    """How several prompts or models did on the same rows: `print` it, or let a notebook show it.

    Attributes:
        table: one line a variant: `rows`, `labelled`, with gold `accuracy` with its 95 % interval (`_low`, `_high`),
            `macro_f1`, `gain` over the first variant with its interval, `p_value` (how likely a difference like this
            is by chance: McNemar's exact test on the rows) and `p_adjusted` (the same as one of several comparisons,
            after Holm: below 0.05 the variant differs from the first); `same` (the share of rows labelled as by the
            first), `confidence` (the mean, where there is one), `cost_usd` and `seconds` (the median of an answer),
            `prompt_tokens` and `completion_tokens` (of a row, on the mean). What an answer took counts also where it
            was read from the journal.
        changed: the rows that are not labelled the same by all, with each variant's label.
        frames: the frame of each variant.
        evaluations: each variant against the gold labels; empty without them. Rows that any variant was shown as
            examples are left out of all.
        ended: `finished`, or why it ended before all variants were through.
        simulated: whether answers came from the simulator.
    """

    table: pd.DataFrame
    changed: pd.DataFrame
    frames: Mapping[str, pd.DataFrame]
    evaluations: Mapping[str, Evaluation]
    ended: str
    simulated: bool

    def blocks(self) -> list[Block]:
        rows = 0 if self.table.empty else int(self.table["rows"].iloc[0])
        variants = f"{counted(len(self.table), 'variant')} on {counted(rows, 'row')}"
        head = f"{variants}, {len(self.changed):,} labelled differently"
        told = self.differing()
        same = len(self.table) > 1 and self.changed.empty
        return [
            Heading(head, self.simulated),
            *([] if self.ended == "finished" else [Advice(f"ended early: {self.ended}")]),
            _variants_table(self.table),
            *([Sentence(told)] if told else []),
            *([Sentence("All variants give every row the same label.")] if same else []),
            *rows_that_differ(self.changed),
        ]

    def differing(self) -> str:
        """Which variants are right more or less often than the first by more than chance; empty without gold labels.

        That is, by McNemar's exact test on the rows, with Holm's correction for the number of comparisons.
        """
        tested = self.table["p_adjusted"].dropna()
        if tested.empty:
            return ""
        differ = [f"{name} (p = {chance:.2g})" for name, chance in tested.items() if chance < 1 - LEVEL]
        how = f"McNemar, exact; {len(tested)} comparisons, Holm" if len(tested) > 1 else "McNemar, exact"
        first = self.table.index[0]
        if not differ:
            return f"No variant differs from {first} by more than chance ({how})."
        return f"More than chance tells from {first} ({how}): {', '.join(differ)}."


def _variants_table(variants: pd.DataFrame) -> Table:
    """A row for each variant, without the columns about which nothing is known."""
    rows = [_shown(row) for row in variants.itertuples()]
    first = variants.index[0]
    heads = ["", "accuracy", "macro F1", f"gain over {first}", f"same as {first}", "confidence", "no label", "cost"]
    heads += ["seconds", "tokens a row"]
    known = [number for number in range(len(heads)) if any(row[number] for row in rows)]
    return Table("Variants", [heads[each] for each in known], [[row[each] for each in known] for row in rows])


def _shown(row: Any) -> list[str]:
    def interval(form: str, ends: str, *values: float) -> Number:
        middle, low, high = values
        return Number(f"{middle:{form}} ({low:{ends}} to {high:{ends}})" if middle == middle else "")

    tokens = f"{row.prompt_tokens:.0f} + {row.completion_tokens:.0f}"
    return [
        str(row.Index),
        interval(".1%", ".0%", row.accuracy, row.accuracy_low, row.accuracy_high),
        number(row.macro_f1, ".3f"),
        interval("+.1%", "+.0%", row.gain, row.gain_low, row.gain_high),
        number(row.same, ".0%"),
        number(row.confidence, ".2f"),
        Number(f"{row.rows - row.labelled:,}" if row.labelled < row.rows else ""),
        Number(dollars(row.cost_usd) if row.cost_usd == row.cost_usd else ""),
        number(row.seconds, ".2f"),
        Number("" if "nan" in tokens else tokens),
    ]


class _Variants:
    """The variants of a comparison, and what came of those that were run."""

    def __init__(
        self,
        df: pd.DataFrame,
        variants: Mapping[str, dict[str, Any]],
        common: dict[str, Any],
        gold: Hashable | None,
        label: Hashable | None,
        funds: Funds | None,
    ) -> None:
        if gold is not None:
            find_column(df, gold, "gold=")
        self.df = df if gold is None else as_own(df, gold)
        self._gold, self._label = gold, label
        self._variants, self._funds = variants, funds
        # Of a class's fields the bar cannot show how many are right.
        self._common = {**common, "gold": None if is_label_model(common["labels"]) else gold}
        self._ended = "finished"
        self._frames: dict[str, pd.DataFrame] = {}

    def execute(self) -> Comparison:
        for arguments in self._in_turn():
            self.take(label_dataframe(self.df, **arguments))
        return self.comparison()

    async def aexecute(self) -> Comparison:
        for arguments in self._in_turn():
            self.take(await alabel_dataframe(self.df, **arguments))
        return self.comparison()

    def _in_turn(self) -> Iterator[dict[str, Any]]:
        """The arguments of each variant in turn, until one is interrupted or has spent the rest of the budget."""
        shared = self._common if self._funds is None else {**self._common, "budget_usd": self._funds}
        for name, arguments in self._variants.items():
            if self._ended != "finished":
                return
            self._name = name
            yield {**arguments, **shared}

    def take(self, out: pd.DataFrame) -> None:
        self._frames[self._name] = out
        self._ended = out.attrs["parallel_openai"]["ended"]
        is_last = len(self._frames) == len(self._variants)
        if self._funds is not None and self._funds.is_used_up and self._ended == "finished" and not is_last:
            self._ended = "budget"

    def comparison(self) -> Comparison:
        texts = self._texts()
        shown = np.logical_or.reduce([shown_rows(out, _column(out, self._label)) for out in self._frames.values()])
        evaluations = {
            name: evaluate_without(out, shown, self._gold, _column(out, self._label))
            for name, out in self._frames.items()
            if self._gold is not None
        }
        first = next(iter(texts))
        lines = {
            name: _line(out, _column(out, self._label), texts[name], texts[first], evaluations.get(name))
            for name, out in self._frames.items()
        }
        if self._gold is not None:
            _add_gains(lines, {name: self._right(name, shown) for name in lines})
        return Comparison(
            table=pd.DataFrame.from_dict(lines, orient="index", columns=_TABLE).rename_axis("variant"),
            changed=self._changed(texts),
            frames=self._frames,
            evaluations=evaluations,
            ended=self._ended,
            simulated=any(out.attrs["parallel_openai"]["simulated"] for out in self._frames.values()),
        )

    def _texts(self) -> dict[str, list[str | None]]:
        """Each variant's labels."""
        cells = {name: cells_of(out[self._labels(out).label]) for name, out in self._frames.items()}
        read = text_reader(*cells.values())
        return {name: [as_text(value, read) for value in values] for name, values in cells.items()}

    def _labels(self, out: pd.DataFrame) -> LabelColumns:
        return label_columns(out, _column(out, self._label))

    def _right(self, name: str, shown: Bools) -> Bools:
        """Which rows with a gold label are right."""
        out = self._frames[name]
        paired = pair(out, self._labels(out), self._gold, shown)
        return paired.right[paired.has_gold]

    def _changed(self, texts: Mapping[str, Sequence[str | None]]) -> pd.DataFrame:
        differ = [len(set(row)) > 1 for row in zip(*texts.values(), strict=True)]
        rows = self.df[np.array(differ, dtype=bool)]
        columns = {}
        for name, out in self._frames.items():
            columns[name] = out[self._labels(out).label][np.array(differ, dtype=bool)]
        return pd.concat([rows, pd.DataFrame(columns, index=rows.index)], axis=1)


_TABLE = [
    *("rows", "labelled", "accuracy", "accuracy_low", "accuracy_high", "macro_f1", "gain", "gain_low", "gain_high"),
    *("p_value", "p_adjusted"),
    *("same", "confidence", "cost_usd", "seconds", "prompt_tokens", "completion_tokens"),
]


def _models(model: str | None, models: Sequence[str] | None) -> Sequence[str | None]:
    if (model is None) == (models is None) or isinstance(models, str) or (models is not None and not models):
        raise InvalidInputError("Pass model='...' for one model, or models=['...', '...'] for several.")
    return [model] if models is None else list(models)


def _variants(prompts: Any, models: Sequence[str | None], options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The arguments of `label_dataframe` for each prompt and model, by the variant's name."""
    if not isinstance(prompts, Mapping) or not prompts:
        raise InvalidInputError(
            f"prompts must be prompts by their names, such as {{'v1': 'Happy? {{text}}'}}, not {prompts!r:.80}."
        )
    variants = {
        f"{name} · {model}" if len(models) > 1 else str(name): {**options, **_arguments(prompt), "model": model}
        for (name, prompt), model in itertools.product(prompts.items(), models)
    }
    for arguments in variants.values():
        _check_options(arguments)
    return variants


def _shared_funds(budget_usd: float | None, budget_tokens: float | None) -> Funds | None:
    """What all variants together may spend; None where nothing bounds it."""
    SpendingCaps(budget_usd, budget_tokens)  # refuses what makes no sense
    return None if budget_usd is None and budget_tokens is None else Funds(budget_usd, budget_tokens)


def _check_options(arguments: Mapping[str, Any]) -> None:
    """See, before the first variant is sent, that none has an option that label_dataframe would refuse."""
    own = inspect.signature(label_dataframe).parameters
    params = {name: value for name, value in arguments.items() if name not in own}
    check_parameters(params, find_endpoint(arguments.get("endpoint", CHAT.name)))
    checked_extra(arguments.get("extra_body"))


def _arguments(prompt: Any) -> dict[str, Any]:
    if not isinstance(prompt, Mapping):
        return {"prompt": prompt}
    if "prompt" not in prompt:
        raise InvalidInputError(f"A variant that is a mapping needs its 'prompt', and has {list(prompt)}.")
    for name in ("labels", "gold", "client", "progress", "budget_usd", "budget_tokens"):
        if name in prompt:
            raise InvalidInputError(f"{name}= is the same for all variants; pass it to compare itself.")
    return dict(prompt)


def _column(out: pd.DataFrame, label: Hashable | None) -> Hashable | None:
    prefix = out.attrs["parallel_openai"]["prefix"]
    return None if label is None else f"{prefix}{label}"


def _line(
    out: pd.DataFrame,
    label: Hashable | None,
    texts: Sequence[str | None],
    first: Sequence[str | None],
    found: Evaluation | None,
) -> dict[str, Any]:
    prefix = out.attrs["parallel_openai"]["prefix"]
    sure = label_columns(out, label).confidence
    line: dict[str, Any] = {
        "rows": len(out),
        "labelled": sum(text is not None for text in texts),
        "same": float(np.mean([text == other for text, other in zip(texts, first, strict=True)])),
        "confidence": np.nan if sure is None else _known(out[sure], pd.Series.mean),
        "cost_usd": float(out[f"{prefix}cost_usd"].sum(min_count=1)),
        "seconds": _known(out[f"{prefix}seconds"], pd.Series.median),
    }
    for name in ("prompt_tokens", "completion_tokens"):
        line[name] = _known(out[prefix + name], pd.Series.mean)
    if found is not None:
        low, high = found.intervals["accuracy"]
        line |= {"accuracy": found.accuracy, "accuracy_low": low, "accuracy_high": high, "macro_f1": found.macro_f1}
    return line


def _known(column: pd.Series[Any], middle: Callable[[pd.Series[Any]], float]) -> float:
    """The middle of what is known; NaN where nothing is."""
    known = column.dropna()
    return float(middle(known)) if len(known) else np.nan


def _add_gains(lines: Mapping[str, dict[str, Any]], right: Mapping[str, Bools]) -> None:
    """What each variant gains over the first, and how likely so much is by chance, since several are looked at."""
    first, *others = lines
    for name in others:
        better, worse = (
            int(np.count_nonzero(each)) for each in (right[name] & ~right[first], right[first] & ~right[name])
        )
        gain, low, high = paired_gain(better, worse, len(right[first]))
        lines[name].update(gain=gain, gain_low=low, gain_high=high, p_value=mcnemar(better, worse))
    for name, chance in zip(others, holm([lines[name]["p_value"] for name in others]), strict=True):
        lines[name]["p_adjusted"] = chance
