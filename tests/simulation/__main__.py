"""Runs many lives in a row; see the package."""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback
from collections.abc import Sequence

from tests.simulation.run import live

#: Lives after which a line tells how far it is: a run may go on for hours.
TOLD_EVERY = 500


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--lives", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--every", type=int, default=1, help="the step from seed to seed, for several processes")
    parser.add_argument("--seed", type=int, help="this one alone, with its story")
    parser.add_argument("--until-broken", action="store_true", help="end with the first that breaks a promise")
    args = parser.parse_args()
    logging.getLogger("parallel_openai").setLevel(logging.CRITICAL)  # its faults would fill the terminal
    if args.seed is not None:
        lived = live(args.seed)
        print(lived.life, *lived.story, *lived.wrong, sep="\n")
        return bool(lived.wrong)
    return bool(_live_all(range(args.first, args.first + args.lives, args.every), until_broken=args.until_broken))


def _live_all(seeds: Sequence[int], *, until_broken: bool) -> int:
    """How many were broken; each is printed, and now and then how far it is."""
    began, broken, calls = time.monotonic(), 0, 0
    for done, seed in enumerate(seeds, 1):
        try:
            lived = live(seed)
            calls += lived.calls
            wrong = f"{lived.life.verb}: {'; '.join(lived.wrong)[:300]}" if lived.wrong else ""
        except Exception:
            wrong = traceback.format_exc()
        if sys.stderr.isatty():
            print(f"\rseed {seed}", end="", file=sys.stderr)
        if wrong:
            broken += 1
            print(f"seed {seed}: {wrong}", flush=True)
        is_last = done == len(seeds) or (until_broken and broken > 0)
        if is_last or done % TOLD_EVERY == 0:
            print(f"{done} lives, {calls} calls, {broken} broken, {time.monotonic() - began:.1f} s", flush=True)
        if is_last:
            break
    return broken


if __name__ == "__main__":
    sys.exit(main())
