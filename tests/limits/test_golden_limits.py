"""The limiter performs as well as recorded, in those scenarios that take only seconds."""

from __future__ import annotations

import pytest

from tests.limits.golden_limits import Figures, golden, main, recorded

QUICK = (
    "both in turns, 1 s window, no headers",
    "halved in mid-run, 1 s window",
    "6000/min, fault 0.02, headers enforced, seed 2",
    "nothing known, latency 10.0, 600/min",
    "nothing known, latency 0.05, 60/min",
    "a key of 60/min, retry-after none, one model",
    "a key of 600/min, retry-after seconds, two models",
)


@pytest.mark.parametrize("name", QUICK)
def test_each_scenario_is_no_worse_than_recorded(name: str) -> None:
    [scenario] = [each for each in golden() if each.name == name]
    figures, before = scenario.figures(), recorded()[name]
    assert not figures.is_worse_than(before), f"{figures}, recorded {before}"


def test_every_scenario_is_recorded() -> None:
    assert [each.name for each in golden()] == list(recorded())


@pytest.mark.parametrize(
    ("figures", "is_worse"),
    [
        pytest.param(Figures(0.896, 3.0, 60.0), False, id="as-good-but-for-noise"),
        pytest.param(Figures(0.89, 3.0, 60.0), True, id="less-used"),
        pytest.param(Figures(0.9, 4.9, 60.0), False, id="a-few-refusals-more"),
        pytest.param(Figures(0.9, 5.1, 60.0), True, id="many-refusals-more"),
    ],
)
def test_lower_utilisation_or_more_refusals_count_as_worse(figures: Figures, is_worse: bool) -> None:
    assert figures.is_worse_than(Figures(0.9, 3.0, 60.0)) is is_worse


def test_the_table_names_the_scenarios_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "latency 10.0, 60/min"]) == 0
    assert "1 scenarios, 0 worse than recorded" in capsys.readouterr().out
