"""`compare`: label the same rows with several prompts or models, and test which is better."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from parallel_openai._client.client import Client
from parallel_openai._client.default_client import client_for
from parallel_openai._display.blocks import Advice, Block, Heading, Number, Sentence, Table, counted, number
from parallel_openai._display.display import Display
from parallel_openai._frames.columns.earlier_columns import as_users_own
from parallel_openai._frames.columns.run_info import last_run_of
from parallel_openai._frames.columns.table import check_frame, find_column
from parallel_openai._frames.parameters import check_parameters
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
    example_rows,
    label_columns,
    pair,
    text_reader,
)
from parallel_openai._progress.number_format import dollars
from parallel_openai._requests.endpoints import CHAT
from parallel_openai._requests.endpoints import endpoint as find_endpoint
from parallel_openai._requests.schemas.label_models import is_label_model
from parallel_openai._run.spending.caps import SpendingCaps, TimeLeft
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
    """Label the same rows with each prompt, each model, or each combination of both, and compare.

    Answers in the journals are not requested again: change one prompt and run the cell again, and only that one is
    sent. `label_dataframe` with a compared prompt, on more rows, reuses these answers too.

    Args:
        df: the rows; a sample is enough, such as `df.sample(50, random_state=0)`.
        prompts: the prompts by name. To vary more than the prompt, a mapping of arguments of `label_dataframe`:
            `{"plain": prompt, "reasoned": {"prompt": prompt, "explain": True}}`.
        labels: as for `label_dataframe`.
        model: the model; None if `models` has several.
        models: several models; each prompt is tried with each.
        gold: the column with the right labels; without it, variants are compared with the first.
        label: of a class with several fields, the one to compare; None: the first.
        budget_usd: what the whole comparison may spend; it ends before exceeding that. `budget_tokens=` likewise, and
            `deadline=` is for the whole comparison too.
        progress: False shows nothing.
        client: the account; None: the environment's.
        **options: more arguments of `label_dataframe` for every variant: `samples=`, `scale=`, `temperature=` ...

    Returns:
        The comparison, with `table`, `changed`, `frames` and, with gold, `evaluations`. See `Comparison`.

    Raises:
        InvalidInputError: an argument is wrong; nothing of that variant was sent.
        RunStoppedError: the server refuses every row; earlier answers are in the journals.

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
    caps = SpendingCaps(budget_usd, options.pop("budget_tokens", None), options.pop("deadline", None))
    labels = list(labels) if isinstance(labels, Iterator) else labels  # every variant iterates over them
    common = {"labels": labels, "progress": progress, "client": client_for(client)}
    variants = _variants(prompts, names, options)
    return _Variants(df, variants, common, gold, label, caps)


acompare = awaitable(compare)


@dataclass(frozen=True, repr=False)
class Comparison(Display):
    """The results of several prompts or models on the same rows; `print` it, or let a notebook show it.

    Attributes:
        table: one row per variant: `rows`, `labelled`, `same` (the share of rows labelled as by the first variant),
            `confidence` (the mean, if there is one), `cost_usd`, `seconds` (the median answer's), `prompt_tokens` and
            `completion_tokens` (means per row); answers from the journal count with what they cost and took.
            With gold labels also `accuracy` with its 95 % interval (`_low`, `_high`), `macro_f1`, `gain` over the
            first variant with its interval, `p_value` (McNemar's exact test of that difference) and `p_adjusted`
            (after Holm's correction; below 0.05 the variant differs from the first).
        changed: the rows that not all variants labelled the same, with each variant's label.
        frames: the frame of each variant.
        evaluations: each variant against the gold labels; empty without them. Rows that are a few-shot example in
            any variant are left out of all.
        ended: `finished`, or why it ended before all variants were complete.
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
        significance = self.differing()
        same = len(self.table) > 1 and self.changed.empty
        return [
            Heading(head, self.simulated),
            *([] if self.ended == "finished" else [Advice(f"ended early: {self.ended}")]),
            _variants_table(self.table),
            *([Sentence(significance)] if significance else []),
            *([Sentence("All variants give every row the same label.")] if same else []),
            *rows_that_differ(self.changed),
        ]

    def differing(self) -> str:
        """A sentence on which variants differ significantly from the first; empty without gold labels.

        Tested with McNemar's exact test, with Holm's correction for the number of comparisons.
        """
        tested = self.table["p_adjusted"].dropna()
        if tested.empty:
            return ""
        differ = [f"{name} (p = {p_value:.2g})" for name, p_value in tested.items() if p_value < 1 - LEVEL]
        how = f"McNemar, exact; {len(tested)} comparisons, Holm" if len(tested) > 1 else "McNemar, exact"
        first = self.table.index[0]
        if not differ:
            return f"No variant differs from {first} by more than chance ({how})."
        return f"Different from {first} by more than chance ({how}): {', '.join(differ)}."


def _variants_table(variants: pd.DataFrame) -> Table:
    rows = [_cells(row) for row in variants.itertuples()]
    first = variants.index[0]
    heads = ["", "accuracy", "macro F1", f"gain over {first}", f"same as {first}", "confidence", "no label", "cost"]
    heads += ["seconds", "tokens a row"]
    known = [number for number in range(len(heads)) if any(row[number] for row in rows)]
    return Table("Variants", [heads[each] for each in known], [[row[each] for each in known] for row in rows])


def _cells(row: Any) -> list[str]:
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


#: The first variant is asked even if no time is left, so that there is a frame to return.
_LEAST_TIME = 1e-9
#: Endings of a variant after which the next one is asked.
_GOES_ON = ("finished", "submitted")


class _Variants:
    """Runs the variants of a comparison one after the other and collects their frames."""

    def __init__(
        self,
        df: pd.DataFrame,
        variants: Mapping[str, dict[str, Any]],
        common: dict[str, Any],
        gold: Hashable | None,
        label: Hashable | None,
        caps: SpendingCaps,
    ) -> None:
        if gold is not None:
            find_column(df, gold, "gold=")
        self.df = df if gold is None else as_users_own(df, gold)
        self._gold, self._label = gold, label
        self._variants, self._caps, self._funds = variants, caps, caps.funds()
        # The bar cannot show the accuracy of a class's fields.
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
        """Yield each variant's arguments, until one is interrupted, or the budget or the time is used up. A variant's
        batches go on at the server beside those of the next."""
        is_bounded = self._caps.budget_usd is not None or self._caps.budget_tokens is not None
        shared = {**self._common, "budget_usd": self._funds} if is_bounded else self._common
        clock = self._common["client"].clock
        until = self._caps.until(clock())
        for name, arguments in self._variants.items():
            deadline = arguments.get("deadline")
            if until is not None and self._caps.deadline is not None:
                left = until - clock()
                if left <= 0 and self._frames:
                    self._ended = "deadline"
                whole = TimeLeft.of(self._caps.deadline, max(left, _LEAST_TIME))
                deadline = whole if deadline is None else min(whole, deadline)
            if self._ended not in _GOES_ON:
                return
            self._name = name
            yield {**arguments, **shared, "deadline": deadline}

    def take(self, out: pd.DataFrame) -> None:
        self._frames[self._name] = out
        ended = last_run_of(out).ended
        self._ended = self._ended if ended == "finished" else ended
        is_last = len(self._frames) == len(self._variants)
        if self._funds.is_used_up and self._ended in _GOES_ON and not is_last:
            self._ended = "budget"

    def comparison(self) -> Comparison:
        texts = self._texts()
        examples = np.logical_or.reduce([example_rows(out, _column(out, self._label)) for out in self._frames.values()])
        evaluations = {
            name: evaluate_without(out, examples, self._gold, _column(out, self._label))
            for name, out in self._frames.items()
            if self._gold is not None
        }
        first = next(iter(texts))
        lines = {
            name: _line(out, _column(out, self._label), texts[name], texts[first], evaluations.get(name))
            for name, out in self._frames.items()
        }
        if self._gold is not None:
            _add_gains(lines, {name: self._right(name, examples) for name in lines})
        return Comparison(
            table=pd.DataFrame.from_dict(lines, orient="index", columns=_TABLE).rename_axis("variant"),
            changed=self._changed(texts),
            frames=self._frames,
            evaluations=evaluations,
            ended=self._ended,
            simulated=any(last_run_of(out).simulated for out in self._frames.values()),
        )

    def _texts(self) -> dict[str, list[str | None]]:
        cells = {name: cells_of(out[self._labels(out).label]) for name, out in self._frames.items()}
        read = text_reader(*cells.values())
        return {name: [as_text(value, read) for value in values] for name, values in cells.items()}

    def _labels(self, out: pd.DataFrame) -> LabelColumns:
        return label_columns(out, _column(out, self._label))

    def _right(self, name: str, examples: Bools) -> Bools:
        out = self._frames[name]
        paired = pair(out, self._labels(out), self._gold, examples)
        return paired.right[paired.has_gold]

    def _changed(self, texts: Mapping[str, Sequence[str | None]]) -> pd.DataFrame:
        differ = np.array([len(set(row)) > 1 for row in zip(*texts.values(), strict=True)], dtype=bool)
        rows = self.df[differ]
        columns = {name: out[self._labels(out).label][differ] for name, out in self._frames.items()}
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


def _check_options(arguments: Mapping[str, Any]) -> None:
    """Raise what label_dataframe would raise for a variant's options, before the first variant is sent."""
    own = inspect.signature(label_dataframe).parameters
    params = {name: value for name, value in arguments.items() if name not in own}
    SpendingCaps(deadline=arguments.get("deadline"))
    check_parameters(params, find_endpoint(arguments.get("endpoint", CHAT.name)))


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
    return None if label is None else f"{last_run_of(out).prefix}{label}"


def _line(
    out: pd.DataFrame,
    label: Hashable | None,
    texts: Sequence[str | None],
    first: Sequence[str | None],
    found: Evaluation | None,
) -> dict[str, Any]:
    prefix = last_run_of(out).prefix
    confidence = label_columns(out, label).confidence
    line: dict[str, Any] = {
        "rows": len(out),
        "labelled": sum(text is not None for text in texts),
        "same": float(pd.Series(text == other for text, other in zip(texts, first, strict=True)).mean()),
        "confidence": np.nan if confidence is None else out[confidence].astype("float64").mean(),
        "cost_usd": float(out[f"{prefix}cost_usd"].sum(min_count=1)),
        "seconds": out[f"{prefix}seconds"].astype("float64").median(),
    }
    for name in ("prompt_tokens", "completion_tokens"):
        line[name] = out[prefix + name].astype("float64").mean()
    if found is not None:
        low, high = found.intervals["accuracy"]
        line |= {"accuracy": found.accuracy, "accuracy_low": low, "accuracy_high": high, "macro_f1": found.macro_f1}
    return line


def _add_gains(lines: Mapping[str, dict[str, Any]], right: Mapping[str, Bools]) -> None:
    first, *others = lines
    for name in others:
        better, worse = (
            int(np.count_nonzero(each)) for each in (right[name] & ~right[first], right[first] & ~right[name])
        )
        gain, low, high = paired_gain(better, worse, len(right[first]))
        lines[name].update(gain=gain, gain_low=low, gain_high=high, p_value=mcnemar(better, worse))
    for name, p_value in zip(others, holm([lines[name]["p_value"] for name in others]), strict=True):
        lines[name]["p_adjusted"] = p_value
