"""The benchmark of the limits with short settings, so that it stays runnable.

What is learned in the first second or two weighs ten times as much here as in a run of a minute, so the bounds are
wider than the targets that `python -m tests.benchmarks.limits` holds a minute's work to.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest

from tests.benchmarks.limits import Figures, run, scenarios

BY_NAME = {scenario.name: scenario for scenario in scenarios()}
CASES = [
    ("requests bind, 1 s window, given", 0.9, 15),
    ("tokens bind, 60 s window, from headers", 0.9, 15),
    ("requests bind, 10 s window, no headers", 0.5, 150),
    ("another takes a third, 1 s window", 0.8, 60),
]
SECONDS = 6.0


@cache
def all_at_once() -> dict[str, Figures]:
    """The cases, which mostly wait, in threads, as the benchmark runs a few at a time."""
    with ThreadPoolExecutor(len(CASES)) as threads:
        return {found.name: found for found in threads.map(lambda case: run(BY_NAME[case[0]], SECONDS), CASES)}


@pytest.mark.parametrize(("name", "utilisation", "refusals"), CASES)
def test_the_limits_are_used_over_a_real_socket(name: str, utilisation: float, refusals: float) -> None:
    # The better of two, so that a busy machine does not count.
    for measured in (lambda: all_at_once()[name], lambda: run(BY_NAME[name], SECONDS)):
        figures = measured()
        if figures.utilisation >= utilisation and figures.refusals_per_1000 <= refusals:
            return
    pytest.fail(f"It used {figures.utilisation:.1%} with {figures.refusals_per_1000:.1f} refusals per 1,000.")
