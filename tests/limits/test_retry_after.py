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

#: Seconds that a machine may take to send what is due. A busy one takes longer now and then, so the best of a few tries
#: is judged; that nothing is sent too early has to be true of each.
LATE = 0.6
TRIES = 5


def ask(server: Server, rows: int) -> None:
    df = pd.DataFrame({"text": [f"{time.time_ns()} {n}" for n in range(rows)]})
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
    found = []
    for _ in range(TRIES):
        server.reset()
        ask(server, 2)
        stats = server.stats()
        waited = stats["last_received"] - stats["first_received"]
        assert least - 0.05 <= waited
        found.append((waited <= most + LATE, stats["received"]))
        if found[-1][0]:
            break
    assert found[-1] == (True, 4 if style == 0.9 else 3)


@pytest.mark.parametrize("form", ["seconds", "milliseconds", "date"])
def test_nothing_is_sent_before_retry_after_has_passed(server: Server, form: str) -> None:
    server.set(max_requests_per_minute=600_000)  # it shows a limit, so that nobody has to search for it
    late = []
    for tried in range(1, TRIES + 1):
        moment = math.ceil(time.time() + 0.6)
        left = moment - time.time()
        asked = {
            "seconds": {"retry-after": f"{left:.3f}"},
            "milliseconds": {"retry-after": "30", "retry-after-ms": f"{1000 * left:.0f}"},
            "date": {"retry-after": formatdate(moment, usegmt=True)},
        }[form]
        server.script([{"status": 429, "headers": asked}])
        ask(server, 1)
        late.append(time.time() - moment)
        assert late[-1] >= -0.01
        assert server.stats()["received"] == 2 * tried
        if late[-1] <= LATE:
            break
    assert min(late) <= LATE
