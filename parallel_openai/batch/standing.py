"""How the batches of a run stand, in words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parallel_openai.batch.state import Part

_LIMIT = re.compile(r"Limit: ([\d,]+)")


def rest_of(parts: Sequence[Part], journal: Path) -> str | None:
    """What goes on at the server, as sentences; None where nothing does."""
    submitted = [(part.batch_id, part.requests) for part in parts if part.batch_id is not None]
    if not submitted:
        return None
    ids = [batch_id for batch_id, _ in submitted]
    rows = sum(requests for _, requests in submitted)
    shown = ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
    are = "row is" if rows == 1 else "rows are"
    batches, go = ("batch", "goes") if len(ids) == 1 else ("batches", "go")
    return (
        f"{rows:,} {are} in {len(ids)} {batches} ({shown}), which {go} on at the server. The same call again collects "
        f"them, and so does `parallel-openai batch collect --save_filepath {journal}`; `batch cancel` in its place "
        "cancels them."
    )


def note_of(batches: Sequence[Mapping[str, Any]]) -> str:
    """How they stand, for the bar.

    >>> note_of([{"status": "in_progress", "request_counts": {"completed": 1200}}, {}])
    'batches: 1 in_progress, 1 queued; 1,200 done there'
    """
    states = Counter(str(batch.get("status") or "queued") for batch in batches)
    done = sum(int((batch.get("request_counts") or {}).get("completed") or 0) for batch in batches)
    about = ", ".join(f"{count} {state}" for state, count in states.items())
    return f"batches: {about}; {done:,} done there" if states else ""


def limit_in(message: str) -> int | None:
    """How many tokens may be queued.

    >>> limit_in("Enqueued token limit reached for gpt-4o in organization org-x. Limit: 90,000 enqueued tokens.")
    90000
    """
    found = _LIMIT.search(message)
    return int(found[1].replace(",", "")) if found else None
