"""`python -m tests.reliability --long`: the long versions of these tests, and what they came to, in figures."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings

from tests.reliability import test_journal_bytes
from tests.reliability.faults import run_with_faults
from tests.reliability.kills import kill_and_resume


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument("--long", action="store_true", help="200 kills of 5,000 rows, 100,000 fuzzed journals: hours")
    long = parser.parse_args().long
    folder = Path(tempfile.mkdtemp())
    os.chdir(folder)
    failed = False
    for face in ("frame", "file"):
        tally = kill_and_resume(face, folder, rows=5000 if long else 400, kills=200 if long else 6)
        failed |= bool(tally.rows_lost or tally.lines_broken or tally.lines_too_many or tally.problems)
        print(f"Killed ({face}): {tally} {' '.join(tally.problems)}", flush=True)
    outcome = run_with_faults(folder, 20_000 if long else 500, huge=0.001 if long else 0.0)
    failed |= bool(outcome.statuses["cancelled"] or outcome.unnamed)
    print(f"Faults: {outcome}", flush=True)
    cases = 50_000 if long else 500
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    for test in (
        test_journal_bytes.test_any_bytes_open_or_are_refused_and_no_whole_line_is_lost,
        test_journal_bytes.test_whatever_a_line_holds_beside_its_request_stops_no_run,
    ):
        settings(max_examples=cases, deadline=None, database=None, suppress_health_check=checks)(test)()
        print(f"Fuzzed: {cases:,} cases of: {test.__name__.replace('_', ' ')}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
