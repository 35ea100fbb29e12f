"""A preview as HTML for a notebook."""

from __future__ import annotations

import json
from html import escape
from typing import TYPE_CHECKING

from parallel_openai._display.html import number, table, wrap

if TYPE_CHECKING:
    from parallel_openai._preview.preview import Preview

#: Characters of each body that are shown.
SHOWN = 6000


def page(preview: Preview) -> str:
    facts = [(escape(name), escape(text)) for name, text in preview.facts()]
    prices = [(escape(name), number(usd), number(most), escape(time)) for name, usd, most, time in preview.prices()]
    return wrap(
        [
            f'<div class="po-head">{escape(preview.headline())}</div>',
            table("What would be sent", (), facts),
            table("What it would cost", ("", number("expected"), number("at the most"), "time"), prices)
            if preview.requests
            else "",
            *(f'<div class="po-advice">{escape(note)}</div>' for note in preview.notes()),
            *_bodies(preview),
            f'<div class="po-dim" style="margin-top:10px">Answers: {escape(preview.journal)}</div>',
        ]
    )


def _bodies(preview: Preview) -> list[str]:
    pieces = []
    for place, body in enumerate(preview.bodies, 1):
        text = json.dumps(body, indent=2, ensure_ascii=False)
        shown = text[:SHOWN] + (" ..." if len(text) > SHOWN else "")
        pieces.append(
            f"<details{' open' if place == 1 else ''}><summary>Request {place}, to {escape(preview.url)}</summary>"
            f'<pre style="white-space:pre-wrap;overflow-wrap:anywhere;background:none;color:inherit;font-size:12px;'
            f'border-left:3px solid rgba(128,128,128,.35);padding:2px 9px;margin:4px 0">{escape(shown)}</pre></details>'
        )
    return pieces
