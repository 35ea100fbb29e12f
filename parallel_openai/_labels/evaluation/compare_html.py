"""A comparison as HTML for a notebook."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd

from parallel_openai._display.html import name, number, table, wrap
from parallel_openai._labels.evaluation.differences_html import rows_that_differ
from parallel_openai._progress.number_format import dollars

if TYPE_CHECKING:
    from parallel_openai._labels.evaluation.compare import Comparison


def page(found: Comparison) -> str:
    return wrap([_head(found), _variants(found), _changed(found)])


def _head(found: Comparison) -> str:
    mark = '<span class="po-mark">SIMULATED answers</span>' if found.simulated else ""
    rows = 0 if found.table.empty else int(found.table["rows"].iloc[0])
    ended = "" if found.ended == "finished" else f", ended early: {escape(found.ended)}"
    return f'<div class="po-head">{mark}{len(found.table)} variants on {rows:,} rows{ended}</div>'


def _variants(found: Comparison) -> str:
    first = found.table.index[0]
    shown: list[tuple[str, Callable[[Any], str]]] = [
        ("accuracy", lambda row: f"{row.accuracy:.1%} ({row.accuracy_low:.0%} to {row.accuracy_high:.0%})"),
        ("macro F1", lambda row: f"{row.macro_f1:.2f}"),
        (f"gain over {first}", _gain),
        (f"same as {first}", lambda row: f"{row.same:.0%}"),
        ("confidence", lambda row: f"{row.confidence:.2f}"),
        ("no label", lambda row: f"{row.rows - row.labelled:,}"),
        ("cost", lambda row: dollars(row.cost_usd)),
        ("seconds", lambda row: f"{row.seconds:.2f}"),
        ("tokens a row", lambda row: f"{row.prompt_tokens:.0f} + {row.completion_tokens:.0f}"),
    ]
    columns = [(title, write) for title, write in shown if not _is_empty(found.table, title)]
    rows = [
        (name(str(row.Index)), *(number(_written(write, row)) for _, write in columns))
        for row in found.table.itertuples()
    ]
    return table("Variants", ("", *(number(title) for title, _ in columns)), rows) + _how_sure(found)


_NEEDS = {
    "accuracy": "accuracy",
    "macro F1": "macro_f1",
    "confidence": "confidence",
    "cost": "cost_usd",
}


def _is_empty(variants: pd.DataFrame, title: str) -> bool:
    if title == "no label":
        return bool((variants["labelled"] == variants["rows"]).all())
    needed = "gain" if title.startswith("gain") else _NEEDS.get(title)
    return needed is not None and bool(variants[needed].isna().all())


def _gain(row: Any) -> str:
    return f"{row.gain:+.1%} ({row.gain_low:+.0%} to {row.gain_high:+.0%})"


def _written(write: Callable[[Any], str], row: Any) -> str:
    text = write(row)
    return "" if "nan" in text else text


def _how_sure(found: Comparison) -> str:
    told = found.differing()
    return f'<div class="po-dim">{escape(told)}</div>' if told else ""


def _changed(found: Comparison) -> str:
    if len(found.table) < 2:
        return ""
    if found.changed.empty:
        return '<div class="po-dim">All variants give every row the same label.</div>'
    return rows_that_differ(found.changed)
