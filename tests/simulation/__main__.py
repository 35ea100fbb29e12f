"""Many lives in a row; see the package."""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback

from tests.simulation.run import live


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--lives", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--every", type=int, default=1, help="the step from seed to seed, for several processes")
    parser.add_argument("--seed", type=int, help="this one alone, with its story")
    args = parser.parse_args()
    logging.getLogger("parallel_openai").setLevel(logging.CRITICAL)  # its faults would fill the terminal
    if args.seed is not None:
        lived = live(args.seed)
        print(lived.life, *lived.story, *lived.wrong, sep="\n")
        return bool(lived.wrong)
    began, broken, calls = time.monotonic(), 0, 0
    for seed in range(args.first, args.first + args.lives, args.every):
        try:
            lived = live(seed)
        except Exception:
            broken += 1
            print(f"seed {seed}: {traceback.format_exc()}", flush=True)
            continue
        calls += lived.calls
        if sys.stderr.isatty():
            print(f"\rseed {seed}", end="", file=sys.stderr)
        if lived.wrong:
            broken += 1
            print(f"seed {seed}: {lived.life.verb}: {'; '.join(lived.wrong)[:300]}", flush=True)
    print(f"{args.lives // args.every} lives, {calls} calls, {broken} broken, {time.monotonic() - began:.1f} s")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
