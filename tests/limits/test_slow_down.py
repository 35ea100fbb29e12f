"""After a 429 `slow_down` the rate is cut, whatever the limits allow, and then grows slowly."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai import Client
from parallel_openai._limits.learning.slow_down import SLOWEST_SECONDS, SlowDown
from parallel_openai._records import Size
from parallel_openai.local.simulator import Server
from parallel_openai.local.simulator.settings import Settings
from tests.limits.virtual import Rehearsal

SMALL = Size(prompt_tokens=50, characters=200, max_output_tokens=20, choices=1)


@pytest.mark.parametrize(("above", "latency"), [(50, 0.5), (20, 2.0)])
@pytest.mark.parametrize(
    ("headers", "known"),
    [("enforced", {}), ("none", {}), ("minute", {"max_requests_per_minute": 6000.0})],
    ids=["from-headers", "nothing-known", "given"],
)
def test_slow_down_cuts_the_rate_which_then_grows_again(
    headers: str, known: dict[str, Any], above: int, latency: float
) -> None:
    account = Settings(max_requests_per_minute=6000, slow_down_above=above, headers=headers)
    run = Rehearsal(account, [SMALL] * 1500, latency=latency, limiter_options=known).run()
    assert [result.status for result in run.results] == ["succeeded"] * 1500
    assert len(run.slowed) <= 1500 * 0.03
    assert run.accepted / run.wall >= 0.5 * above  # of what the server would take at the most

    per_second = Counter(int(at) for at, _ in run.sends)
    cut = next(int(at) for at in run.slowed if at > 10)  # the first ones only find the rate
    assert per_second[cut + 2] <= 0.65 * above
    growing = [sum(per_second[second] for second in range(cut + begin, cut + begin + 3)) for begin in (2, 5, 8)]
    assert growing == sorted(growing)
    assert growing[0] < growing[-1]
    busy = int(run.last)
    assert all(per_second[second] + per_second[second + 1] for second in range(busy - 1))


def test_requests_in_flight_together_cut_the_rate_once() -> None:
    slow_down = SlowDown()
    for _ in range(50):
        slow_down.slow_down(sent_at=1.9, now=2.1, recent=100.0)
    assert 30 < slow_down.rate(2.1) < 60


def test_a_server_that_always_says_slow_down_still_gets_occasional_requests() -> None:
    slow_down, now = SlowDown(), 0.0
    for _ in range(100):
        now += slow_down.seconds_until(now)
        slow_down.sent(now)
        slow_down.slow_down(sent_at=now, now=now + 0.01, recent=1.0)
        now += 0.01
    assert 0.5 < slow_down.seconds_until(now) <= SLOWEST_SECONDS


def test_oversleeping_does_not_lower_the_rate() -> None:
    slow_down = SlowDown()
    slow_down.slow_down(sent_at=0.0, now=0.0, recent=1.0)
    rate, now, sent = slow_down.rate(30.0), 30.0, 0
    while now < 31.0:
        now += slow_down.seconds_until(now) + 0.02  # a busy loop rings late
        slow_down.sent(now)
        sent += 1
    assert sent >= 0.9 * rate


@pytest.mark.parametrize(
    ("behaviour", "rows"), [({"slow_down_above": 40}, 70), ({"fault_slow_down": 0.08}, 30)], ids=["above", "by-chance"]
)
def test_every_row_is_answered_by_a_server_that_says_slow_down(
    server: Server, behaviour: dict[str, Any], rows: int
) -> None:
    server.set(latency=0.02, **behaviour)
    df = pd.DataFrame({"text": [str(n) for n in range(rows)]})
    with Client(server.base_url) as client:
        out = po.process_dataframe(df, "text", model="m", client=client, progress=False)
    report = po.last_run()
    assert out["status"].eq("succeeded").all()
    assert report is not None
    assert 1 <= report.refusals["slow_down"] <= 60
    assert server.stats()["accepted"] == rows
    assert report.seconds < 15
