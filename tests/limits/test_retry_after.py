"""The wait that a refusal asks for is kept precisely. Over a real socket."""

from __future__ import annotations

import math
import time
from email.utils import formatdate

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai import Client
from parallel_openai.local.simulator import Server

#: Seconds that a busy machine may take to send what is due.
LATE = 0.6


def ask(server: Server, rows: int) -> None:
    df = pd.DataFrame({"text": [str(n) for n in range(rows)]})
    with Client(server.base_url, trust_env=False) as client:
        out = po.process_dataframe(df, "text", model="m", client=client, progress=False)
    assert out["status"].eq("succeeded").all()


@pytest.mark.parametrize(
    ("style", "least", "most"),
    [("seconds", 2.0, 2.0), ("exact", 1.5, 1.5), ("ms", 1.5, 1.5), ("date", 1.5, 2.5), (0.9, 1.5, 1.8)],
)
def test_a_refused_request_is_retried_after_retry_after(
    server: Server, style: str | float, least: float, most: float
) -> None:
    """A request each 1.5 s: the second is refused. Whole seconds and dates are rounded up; 0.9 s is said too early."""
    server.set(max_requests_per_minute=40, burst_seconds=1.5, headers="none", retry_after=style)
    ask(server, 2)
    stats = server.stats()
    waited = stats["last_received"] - stats["first_received"]
    assert least - 0.05 <= waited <= most + LATE
    assert stats["received"] == (4 if style == 0.9 else 3)


@pytest.mark.parametrize("form", ["seconds", "milliseconds", "date"])
def test_nothing_is_sent_before_retry_after_has_passed(server: Server, form: str) -> None:
    moment = math.ceil(time.time() + 0.6)
    left = moment - time.time()
    asked = {
        "seconds": {"retry-after": f"{left:.3f}"},
        "milliseconds": {"retry-after": "30", "retry-after-ms": f"{1000 * left:.0f}"},
        "date": {"retry-after": formatdate(moment, usegmt=True)},
    }[form]
    server.set(max_requests_per_minute=600_000)  # it shows a limit, so that nobody has to search for it
    server.script([{"status": 429, "headers": asked}])
    ask(server, 1)
    assert moment - 0.01 <= time.time() <= moment + LATE
    assert server.stats()["received"] == 2
