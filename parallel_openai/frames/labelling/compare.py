"""`compare`: the same rows labelled by several prompts or models, and which of them is better."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from parallel_openai.client import Client
from parallel_openai.default_client import client_for
from parallel_openai.engine.bounds import Bounds
from parallel_openai.engine.budget import Funds
from parallel_openai.errors import InvalidInputError
from parallel_openai.frames.labelling.evaluate import Evaluation, evaluate
from parallel_openai.frames.labelling.label import alabel_dataframe, label_dataframe
from parallel_openai.frames.labelling.metrics import LEVEL
from parallel_openai.frames.labelling.pairing import as_text, label_columns
from parallel_openai.frames.recipe import Prompt
from parallel_openai.frames.table import check_frame, find_column, rows_of
from parallel_openai.printable import printable_lines
from parallel_openai.requests.label_models import is_label_model

#: Draws for the interval of a gain.
_RESAMPLES = 2000


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
) -> Comparison:
    """Label the same rows by several prompts, by several models, or each by each, and compare.

    What was answered before is not asked again: change one prompt and run the cell again, and only that one is sent.
    `label_dataframe` with a prompt that was compared, on more rows, knows these answers too.

    Args:
        df: the rows; a sample is enough, such as `df.sample(50, random_state=0)`.
        prompts: the prompts by the names you give them. For more than the prompt, a mapping of arguments of
            `label_dataframe`: `{"plain": prompt, "reasoned": {"prompt": prompt, "explain": True}}`.
        labels: as for `label_dataframe`.
        model, models: the model, or several: then each prompt is tried with each.
        gold: the column with the right labels, where they are known; without it, variants are compared to the first.
        label: of a class with several fields, the one to compare; None: the first.
        budget_usd: what the whole comparison may spend; it ends before it takes more. So it is with `budget_tokens=`.
        progress: False shows nothing.
        client: the account; None: the environment's.
        **options: further arguments of `label_dataframe`, for every variant: `samples=`, `scale=`, `temperature=` ...

    Returns:
        The comparison: `table`, `changed`, `frames` and, with gold, `evaluations`. See `Comparison`.

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
    labels = list(labels) if isinstance(labels, Iterator) else labels  # each variant goes through them
    plan = _Plan(df, prompts, labels, model, models, gold, label, budget_usd, options)
    account = client_for(client)
    for arguments in plan.variants():
        plan.take(label_dataframe(df, **arguments, labels=labels, gold=plan.bar, progress=progress, client=account))
    return plan.comparison()


async def acompare(
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
) -> Comparison:
    """`compare` for code that awaits; the caller's loop stays free meanwhile."""
    labels = list(labels) if isinstance(labels, Iterator) else labels  # each variant goes through them
    plan = _Plan(df, prompts, labels, model, models, gold, label, budget_usd, options)
    account = client_for(client)
    for arguments in plan.variants():
        out = await alabel_dataframe(df, **arguments, labels=labels, gold=plan.bar, progress=progress, client=account)
        plan.take(out)
    return plan.comparison()


@dataclass(frozen=True)
class Comparison:
    """How several prompts or models did on the same rows. A notebook shows it as a page.

    Attributes:
        table: one line a variant: `rows`, `labelled`, with gold `accuracy` with its interval (`_low`, `_high`),
            `macro_f1`, and `gain` over the first variant with its interval: where that holds 0, the rows do not tell
            which is better; `same` (the share of rows labelled as by the first), `confidence` (the mean, where there
            is one), `cost_usd` and `seconds` (the median of an answer), `prompt_tokens` and `completion_tokens` (of a
            row, on the mean). What an answer took counts also where it was read from the journal.
        changed: the rows that are not labelled the same by all, with each variant's label.
        frames: what each variant gave.
        evaluations: each variant against the gold labels; empty without them.
        ended: `finished`, or why it ended before all variants were through.
        simulated: whether answers came from the simulator.
    """

    table: pd.DataFrame
    changed: pd.DataFrame = field(repr=False)
    frames: Mapping[str, pd.DataFrame] = field(repr=False)
    evaluations: Mapping[str, Evaluation] = field(repr=False)
    ended: str
    simulated: bool

    def __str__(self) -> str:
        rows = 0 if self.table.empty else int(self.table["rows"].iloc[0])
        mark = " (simulated)" if self.simulated else ""
        ended = "" if self.ended == "finished" else f"; ended early: {self.ended}"
        head = f"{len(self.table)} variants on {rows:,} rows, {len(self.changed):,} labelled differently{mark}{ended}"
        shown = self.table.drop(columns=["rows"]).dropna(axis=1, how="all")
        return printable_lines(f"{head}\n{shown.to_string(float_format=lambda number: f'{number:.4g}')}")

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from parallel_openai.frames.labelling.compare_html import page

        return page(self)


class _Plan:
    """The variants of a comparison, and what came of those that were run."""

    def __init__(
        self,
        df: pd.DataFrame,
        prompts: Any,
        labels: Any,
        model: str | None,
        models: Sequence[str] | None,
        gold: Hashable | None,
        label: Hashable | None,
        budget_usd: float | None,
        options: Mapping[str, Any],
    ) -> None:
        check_frame(df)
        if not isinstance(prompts, Mapping) or not prompts:
            raise InvalidInputError(
                f"prompts must be prompts by their names, such as {{'v1': 'Happy? {{text}}'}}, not {prompts!r:.80}."
            )
        if (model is None) == (models is None) or isinstance(models, str) or (models is not None and not models):
            raise InvalidInputError("Pass model='...' for one model, or models=['...', '...'] for several.")
        if gold is not None:
            find_column(df, gold, "gold=")
        self._df, self._gold, self._label = df, gold, label
        options = dict(options)
        self._funds = _shared_funds(budget_usd, options.pop("budget_tokens", None))
        names = [model] if models is None else list(models)
        self._variants = {
            f"{name} · {each}" if len(names) > 1 else str(name): {**options, **_arguments(prompt), "model": each}
            for (name, prompt), each in itertools.product(prompts.items(), names)
        }
        self._ended = "finished"
        self._frames: dict[str, pd.DataFrame] = {}
        # Of a class's fields the bar cannot show how many are right.
        self.bar = None if is_label_model(labels) else gold

    def variants(self) -> Iterator[dict[str, Any]]:
        """The arguments of each variant in turn, until one is interrupted or has spent the rest of the budget."""
        for name, arguments in self._variants.items():
            if self._ended != "finished":
                return
            self._name = name
            yield arguments if self._funds is None else {**arguments, "budget_usd": self._funds}

    def take(self, out: pd.DataFrame) -> None:
        self._frames[self._name] = out
        self._ended = out.attrs["parallel_openai"]["ended"]
        is_last = len(self._frames) == len(self._variants)
        if self._funds is not None and self._funds.is_used_up and self._ended == "finished" and not is_last:
            self._ended = "budget"

    def comparison(self) -> Comparison:
        texts = {name: _label_texts(out, self._label) for name, out in self._frames.items()}
        evaluations = {
            name: evaluate(out, self._gold, label=None if self._label is None else _column(out, self._label))
            for name, out in self._frames.items()
            if self._gold is not None
        }
        first = next(iter(texts))
        lines = {
            name: _line(out, texts[name], texts[first], evaluations.get(name)) for name, out in self._frames.items()
        }
        for name, line in lines.items():
            if self._gold is not None and name != first:
                line.update(_gain(self._right(name), self._right(first)))
        return Comparison(
            table=pd.DataFrame.from_dict(lines, orient="index", columns=_TABLE).rename_axis("variant"),
            changed=self._changed(texts),
            frames=self._frames,
            evaluations=evaluations,
            ended=self._ended,
            simulated=any(out.attrs["parallel_openai"]["simulated"] for out in self._frames.values()),
        )

    def _right(self, name: str) -> pd.Series[Any]:
        """Which rows with a gold label are right."""
        gold = [as_text(value) for (value,) in rows_of(self._df, [self._gold])]
        given = _label_texts(self._frames[name], self._label)
        pairs = zip(gold, given, strict=True)
        return pd.Series([right == label for right, label in pairs if right is not None], dtype="float64")

    def _changed(self, texts: Mapping[str, Sequence[str | None]]) -> pd.DataFrame:
        differ = [len(set(row)) > 1 for row in zip(*texts.values(), strict=True)]
        rows = self._df[np.array(differ, dtype=bool)]
        columns = {}
        for name, out in self._frames.items():
            columns[name] = out[label_columns(out, _column(out, self._label)).label][np.array(differ, dtype=bool)]
        return pd.concat([rows, pd.DataFrame(columns, index=rows.index)], axis=1)


_TABLE = [
    *("rows", "labelled", "accuracy", "accuracy_low", "accuracy_high", "macro_f1", "gain", "gain_low", "gain_high"),
    *("same", "confidence", "cost_usd", "seconds", "prompt_tokens", "completion_tokens"),
]


def _shared_funds(budget_usd: float | None, budget_tokens: float | None) -> Funds | None:
    """What all variants together may spend; None where nothing bounds it."""
    Bounds(budget_usd, budget_tokens)  # refuses what makes no sense
    return None if budget_usd is None and budget_tokens is None else Funds(budget_usd, budget_tokens)


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


def _label_texts(out: pd.DataFrame, label: Hashable | None) -> list[str | None]:
    column = label_columns(out, _column(out, label)).label
    return [as_text(value) for (value,) in rows_of(out, [column])]


def _line(
    out: pd.DataFrame, texts: Sequence[str | None], first: Sequence[str | None], found: Evaluation | None
) -> dict[str, Any]:
    prefix = out.attrs["parallel_openai"]["prefix"]
    sure = label_columns(out).confidence
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


def _gain(right: pd.Series[Any], before: pd.Series[Any]) -> dict[str, float]:
    """How many more are right, as a share, and where 95 % of the resamples of the rows have it."""
    difference = (right - before).to_numpy()
    values, counts = np.unique(difference, return_counts=True)
    drawn = np.random.default_rng(0).multinomial(len(difference), counts / len(difference), size=_RESAMPLES)
    low, high = np.quantile(drawn @ values / len(difference), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"gain": float(difference.mean()), "gain_low": float(low), "gain_high": float(high)}
