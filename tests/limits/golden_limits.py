"""How much of a limit is used, and how often requests are refused, in some hundred scenarios in virtual time.

Whoever changes how the limiter learns compares what comes out with what is recorded:

    python -m tests.limits.golden_limits                  all scenarios, about a minute, with what became worse
    python -m tests.limits.golden_limits --only fault     those with "fault" in their name
    python -m tests.limits.golden_limits --write          record today's figures in golden_limits.json

Columns: utilisation is what was accepted of what the account allowed; 429s are counted for 1,000 accepted requests,
without those that the server gives by chance; with several models, from their 200th answer on. Where the server limits
what is in flight, utilisation is the share of its slots that was taken.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from parallel_openai._records import Size
from parallel_openai.local.simulator.settings import Settings
from tests.benchmarks.limits import Scenario, rows_of, scenarios
from tests.limits.several_models import ModelRun, SeveralModels
from tests.limits.virtual import Rehearsal

RECORD = Path(__file__).with_name("golden_limits.json")
SMALL = Size(prompt_tokens=50, characters=200, max_output_tokens=20, choices=1)
#: A utilisation that is lower by less says nothing: one refusal more or less moves all that follows.
NOISE = 0.005
#: Refusals for 1,000 accepted that nobody minds, whatever is recorded.
FEW = 5.0


@dataclass(frozen=True)
class Figures:
    """What came out of a scenario; refusals by chance are not the limiter's, and are not counted."""

    utilisation: float
    refusals: float
    seconds: float

    def is_worse_than(self, recorded: Figures) -> bool:
        few = max(FEW, recorded.refusals)
        return self.utilisation < recorded.utilisation - NOISE or self.refusals > few

    def __str__(self) -> str:
        return f"{self.utilisation:8.2%} {self.refusals:8.2f}/1000 {self.seconds:8.1f} s"


@dataclass(frozen=True)
class Golden:
    """A scenario: its name, and what makes a run of it."""

    name: str
    rehearsal: Callable[[], Rehearsal | SeveralModels]

    def figures(self) -> Figures:
        run = self.rehearsal().run()
        refusals = 1000 * (run.refused - run.without_cause) / max(1, run.accepted)
        return Figures(round(run.utilisation, 4), round(refusals, 2), round(run.wall, 1))


def golden() -> Iterator[Golden]:
    """All scenarios, always the same."""
    yield from _of_the_benchmark()
    yield from _windows()
    yield from _without_cause()
    yield from _nothing_known()
    yield from _other_kinds_of_window()
    yield from _slots()
    yield from _several_models()


def _of_the_benchmark() -> Iterator[Golden]:
    for each in scenarios():
        yield Golden(each.name, partial(_a_minute_of, each))


def _a_minute_of(scenario: Scenario) -> Rehearsal:
    sizes = [request.size for request in rows_of(scenario, 60.0) if request.size is not None]
    changes: list[tuple[float, dict[str, Any]]] = []
    if scenario.halve_after:
        changes.append((20.0, {"max_requests_per_minute": 1500.0}))
    return Rehearsal(Settings(**scenario.server), sizes, limiter_options=scenario.client, changes=changes)


def _windows() -> Iterator[Golden]:
    for window in (1.0, 10.0, 60.0):
        for headers, given in (("none", True), ("minute", False), ("none", False)):
            for retry_after in ("seconds", "none"):
                name = f"6000/min, {window:g} s window, headers {headers}, retry-after {retry_after}"
                server = {"burst_seconds": window, "headers": headers, "retry_after": retry_after}
                yield _six_thousand(name, int(100 * (60 + window)), given=given, **server)


def _without_cause() -> Iterator[Golden]:
    for headers, given in (("none", True), ("enforced", False), ("none", False)):
        for share in (0.02, 0.1):
            for seed in (1, 2):
                name = f"6000/min, fault {share}, headers {headers}, seed {seed}"
                server = {"burst_seconds": 1.0, "headers": headers, "fault_429": share}
                yield _six_thousand(name, 6000, given=given, seed=seed, **server)


def _six_thousand(name: str, rows: int, *, given: bool, seed: int = 1, **server: Any) -> Golden:
    known = {"max_requests_per_minute": 6000.0} if given else {}
    options = {"limiter_options": known, "seed": seed}
    account = Settings(max_requests_per_minute=6000.0, **server)
    return Golden(name + ", given" * given, partial(Rehearsal, account, [SMALL] * rows, **options))


def _nothing_known() -> Iterator[Golden]:
    for latency in (0.05, 2.0, 10.0):
        for rate in (60, 600, 20_000):
            account = Settings(max_requests_per_minute=rate, burst_seconds=10.0, headers="none")
            rows, name = [SMALL] * int(max(200, rate * 1.2)), f"nothing known, latency {latency}, {rate}/min"
            yield Golden(name, partial(Rehearsal, account, rows, latency=latency))


def _other_kinds_of_window() -> Iterator[Golden]:
    for kind in ("fixed", "sliding"):
        for headers in ("enforced", "none"):
            account = Settings(max_requests_per_minute=6000, burst_seconds=10.0, headers=headers, window=kind)
            yield Golden(f"{kind} window, headers {headers}", partial(Rehearsal, account, [SMALL] * 7000))


def _slots() -> Iterator[Golden]:
    nothing = Settings(max_requests_per_minute=None, headers="none")
    minute, second = {"retry-after": "60"}, {"retry-after": "1"}
    for status, headers in ((429, minute), (429, second), (429, {}), (503, minute), (503, {})):
        told = f"retry-after {headers.get('retry-after', 'none')}"
        options: dict[str, Any] = {"slots": 8, "refusal": (status, headers), "sigma": 1.0}
        yield Golden(f"8 at once, {status}, {told}", partial(Rehearsal, nothing, [SMALL] * 1000, **options))


def _several_models() -> Iterator[Golden]:
    for rate, retry_after in ((60, "seconds"), (600, "seconds"), (6000, "seconds"), (60, "none"), (600, "none")):
        rows = max(900, int(1.2 * rate))
        shapes: dict[str, tuple[list[ModelRun], bool]] = {
            "one model": ([ModelRun(rows)], False),
            "two models": ([ModelRun(rows // 2)] * 2, False),
            "three in turns, 6:3:1": ([ModelRun(rows * parts // 10) for parts in (6, 3, 1)], True),
            "one later": ([ModelRun(rows * 6 // 10), ModelRun(rows * 4 // 10, starts=20.0 * rows / rate)], False),
            "one ends early": ([ModelRun(rows * 8 // 10), ModelRun(rows * 2 // 10)], False),
        }
        for shape, (models, mixed) in shapes.items():
            name = f"a key of {rate}/min, retry-after {retry_after}, {shape}"
            yield Golden(name, partial(_at_keys, (rate,), models, mixed, retry_after))
    for rates in ((60, 600), (600, 600), (600, 6000)):
        models = [ModelRun(int(2.2 * rate)) for rate in rates]
        name = f"models of {rates[0]} and of {rates[1]}/min, headers none"
        yield Golden(name, partial(_at_keys, rates, models, False, "seconds"))


def _at_keys(rates: tuple[int, ...], models: list[ModelRun], mixed: bool, retry_after: str) -> SeveralModels:
    settings = (
        Settings(max_requests_per_minute=rate, burst_seconds=10.0, headers="none", retry_after=retry_after)
        for rate in rates
    )
    return SeveralModels([Rehearsal(each, []) for each in settings], models, mixed)


def recorded() -> dict[str, Figures]:
    """The figures on record, by the scenario's name."""
    return {name: Figures(*figures) for name, figures in json.loads(RECORD.read_text()).items()}


def write(figures: dict[str, Figures]) -> None:
    """Record them, a scenario a line."""
    lines = [
        f"{json.dumps(name)}: {json.dumps([each.utilisation, each.refusals, each.seconds])}"
        for name, each in figures.items()
    ]
    RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="scenarios whose name holds this")
    parser.add_argument("--write", action="store_true", help="record the figures")
    options = parser.parse_args(argv)
    before = recorded() if RECORD.exists() else {}
    now: dict[str, Figures] = {}
    worse = 0
    for each in golden():
        if options.only in each.name:
            figures = now[each.name] = each.figures()
            is_worse = figures.is_worse_than(before.get(each.name, figures))
            worse += is_worse
            print(f"{each.name:62} {figures}" + (f"   worse than {before[each.name]}" if is_worse else ""), flush=True)
    print(f"{len(now)} scenarios, {worse} worse than recorded")
    if options.write:
        write({**before, **now})
    return 1 if worse else 0


if __name__ == "__main__":
    raise SystemExit(main())
