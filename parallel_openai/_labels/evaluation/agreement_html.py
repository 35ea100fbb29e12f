"""An agreement as HTML for a notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from parallel_openai._display.html import facts_in_a_row, name, number, table, wrap
from parallel_openai._labels.evaluation.differences_html import rows_that_differ

if TYPE_CHECKING:
    from parallel_openai._labels.evaluation.agreement import Agreement


def page(found: Agreement) -> str:
    return wrap([_head(found), _facts(found), _pairs(found), rows_that_differ(found.differences)])


def _head(found: Agreement) -> str:
    return f'<div class="po-head">{escape(", ".join(found.annotators))} on {found.complete:,} rows</div>'


def _facts(found: Agreement) -> str:
    mean = "Cohen's kappa" + (", mean of the pairs" if len(found.annotators) > 2 else "")
    return facts_in_a_row(
        [
            ("labelled the same by all", f"{found.same:.1%}"),
            (mean, f"{found.cohen_kappa:.2f}"),
            ("Fleiss' kappa", f"{found.fleiss_kappa:.2f}"),
            (f"Krippendorff's alpha, {found.level}", f"{found.krippendorff_alpha:.2f}"),
        ]
    )


def _pairs(found: Agreement) -> str:
    if len(found.annotators) == 2:
        return ""
    kappas = found.pairs.to_numpy()
    rows = [
        (name(one), *(number(f"{kappa:.2f}") if across != down else "" for across, kappa in enumerate(kappas[down])))
        for down, one in enumerate(found.annotators)
    ]
    return table("Cohen's kappa of each pair", ("", *map(number, found.annotators)), rows)
