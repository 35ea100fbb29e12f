"""What the pages have in common that a notebook shows: nothing from elsewhere, and the notebook's own colours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_STYLE = """
.po-report { color: inherit; font-size: 13px; line-height: 1.45; max-width: 860px; font-family: inherit }
.po-report .po-head { font-size: 15px; font-weight: 600; margin: 2px 0 6px }
.po-report .po-mark { border: 1px solid #c77700; color: #c77700; border-radius: 3px; padding: 0 5px; font-size: 11px;
  vertical-align: 1px; margin-right: 6px }
.po-report .po-facts { display: flex; flex-wrap: wrap; gap: 4px 26px; margin: 6px 0 10px }
.po-report .po-facts b { display: block; font-size: 17px; font-weight: 600 }
.po-report .po-dim { opacity: .72 }
.po-report .po-advice { border-left: 3px solid #3b82f6; padding: 2px 9px; margin: 8px 0 }
.po-report .po-charts { display: flex; flex-wrap: wrap; gap: 8px 28px; margin: 8px 0 }
.po-report h4 { font-size: 13px; font-weight: 600; margin: 12px 0 3px; color: inherit }
.po-report.po-report table { border-collapse: collapse; table-layout: auto; margin: 0; color: inherit; font-size: 13px }
.po-report.po-report tr { background: none !important }
.po-report.po-report :is(td, th) { text-align: left; padding: 1px 14px 1px 0; border: 0; background: none;
  color: inherit; vertical-align: top; line-height: inherit; max-width: 520px; overflow-wrap: break-word;
  white-space: normal }
.po-report.po-report .po-n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
.po-report.po-report th { font-weight: 400; opacity: .72 }
.po-report svg { display: block; overflow: visible }
"""


def wrap(parts: Iterable[str]) -> str:
    """The parts of a page as one, with its style."""
    return f'<div class="po-report"><style>{_STYLE}</style>{"".join(parts)}</div>'


def facts_in_a_row(facts: Iterable[tuple[str, str]]) -> str:
    """Names and figures beside each other, the figure large."""
    shown = "".join(
        f'<div><b>{escape(figure)}</b><span class="po-dim">{escape(name)}</span></div>' for name, figure in facts
    )
    return f'<div class="po-facts">{shown}</div>'


class Number(str):
    """A cell that is set flush right."""


def number(text: str) -> Number:
    """A figure, set flush right."""
    return Number(escape(text))


#: A text up to this length is a name, and stays whole; a longer one is broken into lines, but not into a pillar.
_WHOLE, _NARROWEST = 32, 260


def name(text: str) -> str:
    """A cell with a name or a text in it."""
    narrowest = f"display:block;min-width:{min(3 * len(text), _NARROWEST)}px"
    style = "white-space:nowrap" if len(text) <= _WHOLE else narrowest
    return f'<span style="{style}">{escape(text)}</span>'


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table under its title; nothing where there are no rows."""
    body = "".join(_row(row, "td") for row in rows)
    if not body:
        return ""
    return f"<h4>{escape(title)}</h4><table>{_row(head, 'th') if head else ''}{body}</table>"


def _row(cells: Sequence[str], tag: str) -> str:
    shown = (f"<{tag}{' class=po-n' if isinstance(cell, Number) else ''}>{cell}</{tag}>" for cell in cells)
    return f"<tr>{''.join(shown)}</tr>"
