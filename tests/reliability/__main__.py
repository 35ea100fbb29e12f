"""`python -m tests.reliability --long`: the long versions of these tests, and what they came to, in figures."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.reliability.faults import run_with_faults
from tests.reliability.fuzz import CHECKS, fuzz
from tests.reliability.kills import kill_and_resume
from tests.reliability.presses import press_in_kernel, press_in_terminals

#: Cases of each check, in the order of CHECKS: all together 100,000 and more.
CASES = (20_000, 20_000, 30_000, 35_000)
LONG_KILLS = {"frame": 200, "file": 100}
#: Kills before a run is let come to its end: one each, and up to so many, since what was resumed may be killed again.
IN_ONE_RUN = {"frame": 1, "file": 8}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument(
        "--long",
        action="store_true",
        help="5,000 rows killed 300 times, 5,000 rows of faults, 100,000 odd inputs, 40 stops: an hour",
    )
    parser.add_argument("--only", choices=PARTS, nargs="*", default=list(PARTS), help="some of it")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    os.chdir(folder)
    good = True
    for name in options.only:
        began = time.monotonic()
        good &= PARTS[name](folder, options.long)
        print(f"({time.monotonic() - began:,.0f} s)", flush=True)
    return int(not good)


def kills(face: str, folder: Path, long: bool) -> bool:
    rows, count = (5000, LONG_KILLS[face]) if long else (400, 6)
    tally = kill_and_resume(face, folder, rows=rows, kills=count, in_one_run=IN_ONE_RUN[face])
    print(f"Killed ({face}): {tally}", flush=True)
    return tally.good and tally.kills == count


def faults(folder: Path, long: bool) -> bool:
    outcome = run_with_faults(folder, 5000 if long else 500, huge=0.002 if long else 0.0)
    print(f"Faults: {outcome}", flush=True)
    return outcome.good


def inputs(folder: Path, long: bool) -> bool:
    for check, cases in zip(CHECKS, CASES, strict=True):
        fuzz(check, cases if long else 200)
        print(f"Fuzzed: {cases if long else 200:,} cases: {check.__name__.replace('_', ' ')}", flush=True)
    return True


def stops(folder: Path, long: bool) -> bool:
    count = 20 if long else 5
    tallies = {"terminal": press_in_terminals(folder, count), "kernel": press_in_kernel(folder, count)}
    for place, tally in tallies.items():
        print(f"Stopped ({place}): {tally}", flush=True)
    return all(tally.good for tally in tallies.values())


PARTS: dict[str, Callable[[Path, bool], bool]] = {
    "frame": lambda folder, long: kills("frame", folder, long),
    "file": lambda folder, long: kills("file", folder, long),
    "faults": faults,
    "inputs": inputs,
    "stops": stops,
}


if __name__ == "__main__":
    sys.exit(main())
