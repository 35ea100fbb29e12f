"""Breaks one promise at a time in a copy of the package, and reports how many lives it takes to notice.

python -m tests.simulation.mutations                   each of them
python -m tests.simulation.mutations deadline cancel   those whose names hold one of these words
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Mutation(NamedTuple):
    """A promise that is broken: in a file of the package, what stands there once, and what takes its place."""

    name: str
    file: str
    right: str
    wrong: str


MUTATIONS = [
    Mutation(
        "the limiter lets one too many through",
        "_limits/bucket.py",
        "short = min(cost + self._cushion(now), self.capacity) + slack - (self.ledger + self._shown.shift)",
        "short = min(cost + self._cushion(now), self.capacity) + slack - (self.ledger + self._shown.shift) - cost",
    ),
    Mutation(
        "the limiter counts no request",
        "_limits/bucket.py",
        "        self.ledger -= cost\n",
        "",
    ),
    Mutation(
        "one more is in flight than was given",
        "_run/runner.py",
        "len(self._workers) < self._max_workers",
        "len(self._workers) <= self._max_workers",
    ),
    Mutation(
        "a bucket follows nothing that the server shows",
        "_limits/bucket.py",
        "        ledger_then = mark.ledger if charged else mark.ledger + mark.cost\n",
        "        return\n        ledger_then = mark.ledger if charged else mark.ledger + mark.cost\n",
    ),
    Mutation(
        "a bucket learns nothing from a refusal",
        "_limits/bucket.py",
        "if self._refusals.by_chance or self._was_pressed(mark, now):",
        "if False:",
    ),
    Mutation(
        "many requests go out before the server has answered any",
        "_limits/learning/window.py",
        "FIRST_WINDOW = 4.0",
        "FIRST_WINDOW = 40.0",
    ),
    Mutation(
        "a refusal does not hold",
        "_limits/bucket.py",
        "        self.held_until = max(self.held_until, until)\n",
        "",
    ),
    Mutation(
        "what the server asks to wait is ignored",
        "_limits/headers.py",
        '    milliseconds, text = _number(headers.get("retry-after-ms")), headers.get("retry-after")\n',
        "    return None\n    milliseconds, text = None, None\n",
    ),
    Mutation(
        "a limit of 0 is believed",
        "_limits/headers.py",
        "_LARGEST, _SMALLEST, _LONGEST = 1e12, 1.0, 31 * 86400.0",
        "_LARGEST, _SMALLEST, _LONGEST = 1e12, 0.0, 31 * 86400.0",
    ),
    Mutation(
        "no budget is set aside",
        "_run/spending/funds.py",
        "        self._held_tokens += reserve.tokens\n        self._held_usd += reserve.usd\n",
        "",
    ),
    Mutation(
        "what was spent is not booked",
        "_run/spending/funds.py",
        "        self.spent_tokens += tokens\n        self.spent_usd += usd\n        self.reserves.discard",
        "        self.reserves.discard",
    ),
    Mutation(
        "what was set aside is not given back",
        "_run/spending/funds.py",
        "        self._held_tokens = self._held_tokens - reserve.tokens if self.reserves else 0.0\n"
        "        self._held_usd = self._held_usd - reserve.usd if self.reserves else 0.0\n",
        "",
    ),
    Mutation(
        "what a failed send was billed is not counted",
        "_run/runner.py",
        "            self._count_billed(job, response, usage)\n",
        "",
    ),
    Mutation(
        "a send whose cost is not told cost nothing",
        "_run/spending/budget.py",
        "self._funds.spend(reserve, *self._most(reserve, *self._believed(reserve)))",
        "self._funds.spend(reserve, 0.0, 0.0)",
    ),
    Mutation(
        "a torn line is neither cut off nor ended",
        "_journal/journal_file.py",
        "    if start_of_last == end:\n",
        "    if True:\n",
    ),
    Mutation(
        "a torn line is taken for a whole one",
        "_journal/journal_file.py",
        "    return any(JournalEntry.read(record) is not None for record in records_in(line))\n",
        "    return True\n",
    ),
    Mutation(
        "a whole last line is cut off for want of its end",
        "_journal/journal_file.py",
        "    return any(JournalEntry.read(record) is not None for record in records_in(line))\n",
        "    return False\n",
    ),
    Mutation(
        "answers are written a second late",
        "_journal/journal.py",
        "self._loop.call_soon(self._flush_in_loop)",
        "self._loop.call_later(1.0, self._flush_in_loop)",
    ),
    Mutation(
        "the last line of a journal is not read",
        "_journal/known_results.py",
        "            if scanned is None:\n",
        "            if scanned is None or offset + 2500 > os.path.getsize(self._path) and number:\n",
    ),
    Mutation(
        "an answer goes to the neighbour",
        "_frames/columns/answer_columns.py",
        "        reading = self._reader.reading(result.response)\n",
        "        reading = self._reader.reading(result.response)\n        slot -= slot == 7\n",
    ),
    Mutation(
        "an answer from the journal goes to the neighbour",
        "_frames/frame_run.py",
        "        good = self._fill(slot, result)\n        if not good and self.options.retry_failed:\n",
        "        good = self._fill(slot - (slot == 7), result)\n        if not good and self.options.retry_failed:\n",
    ),
    Mutation(
        "the vectors of a pack go to their neighbours",
        "_frames/embedding/packs.py",
        "zip(pack.rows, answers, shares, attempts_of_rows(pack, result), strict=True)",
        "zip(pack.rows, answers[::-1], shares, attempts_of_rows(pack, result), strict=True)",
    ),
    Mutation(
        "what is asked twice is sent twice",
        "_frames/request_builder.py",
        "            first = self.slots.setdefault(request.key, slot)\n",
        "            first = self.slots[request.key] = slot\n",
    ),
    Mutation(
        "answers that come after a stop are not kept",
        "_run/runner.py",
        "            self._succeed(job, lease, response, usage)\n",
        "            if not self._stopped:\n                self._succeed(job, lease, response, usage)\n",
    ),
    Mutation(
        "a stop does not wait for what is on its way",
        "_run/runner.py",
        "await asyncio.wait(sending, timeout=DRAIN_SECONDS)",
        "await asyncio.wait(sending, timeout=0)",
    ),
    Mutation(
        "a stop goes on sending",
        "_run/runner.py",
        "        self._stopped = self._draining = True\n",
        "        self._draining = True\n",
    ),
    Mutation(
        "a deadline is ignored",
        "_run/runner.py",
        "return None if self._deadline is None else max(0.0, self._deadline - self._clock())",
        "return None",
    ),
    Mutation(
        "attempts are not counted against a request",
        "_run/failed_sends.py",
        "        job.failures += 1\n",
        "        job.failures = 1\n",
    ),
    Mutation(
        "one attempt more than is allowed",
        "_run/failed_sends.py",
        "job.failures >= self._retry.max_attempts",
        "job.failures > self._retry.max_attempts",
    ),
    Mutation(
        "a few requests that break the server are taken for an outage",
        "_run/outages.py",
        "BROKEN_AT, BROKEN_FOR = 10, 120.0",
        "BROKEN_AT, BROKEN_FOR = 4, 120.0",
    ),
    Mutation(
        "attempts are not told",
        "_frames/columns/answer_columns.py",
        '        cells["attempts"][slot] = len(result.attempts)\n',
        '        cells["attempts"][slot] = 1\n',
    ),
    Mutation(
        "a retry does not wait",
        "_run/failed_sends.py",
        "        return max(wait, self._retry.backoff(job.failures))\n",
        "        return 0.0\n",
    ),
    Mutation(
        "no request goes out alone while the server is away",
        "_run/outages.py",
        "self.is_away = self._in_row >= AWAY_AFTER",
        "self.is_away = False",
    ),
    Mutation(
        "answers are known by their place and not by their text",
        "_frames/request_builder.py",
        "            slot = rows[number // samples] * samples + number % samples\n",
        "            slot = number\n",
    ),
]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutations", description=__doc__)
    parser.add_argument("words", nargs="*", help="only those whose names hold one of these; none: all")
    parser.add_argument("--lives", type=int, default=300, help="how many at the most")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    chosen = [each for each in MUTATIONS if not args.words or any(word in each.name for word in args.words)]
    with ThreadPoolExecutor(args.processes) as pool:
        found = [
            *pool.map(lambda each: tell(each, lives_until_found(each, lives=args.lives, first=args.first)), chosen)
        ]
    print(f"{sum(found)} of {len(found)} found within {args.lives} lives")
    return not all(found)


def tell(mutation: Mutation, said: str) -> bool:
    """Print after how many lives; give whether it was found."""
    ends = re.fullmatch(r"(?s).*?(\d+) lives, \d+ calls, 1 broken.*", said)
    after = f"{int(ends[1]):5}" if ends else "  not"
    first = next((line for line in said.splitlines() if line.startswith("seed ")), "")
    print(f"{after}  {mutation.name}: {first[:150]}", flush=True)
    return ends is not None


def lives_until_found(mutation: Mutation, *, lives: int, first: int) -> str:
    """What the lives say of a package that is broken so."""
    with _broken(mutation) as folder:
        told = subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--lives", str(lives), "--first", str(first), "--until-broken"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
    return told.stdout + told.stderr


@contextmanager
def _broken(mutation: Mutation) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("parallel_openai", "tests"):
            shutil.copytree(ROOT / name, Path(folder, name), ignore=shutil.ignore_patterns("__pycache__"))
        path = Path(folder, "parallel_openai", mutation.file)
        text = path.read_text()
        if text.count(mutation.right) != 1:
            sys.exit(f"{mutation.name}: what is to be broken stands {text.count(mutation.right)} times in {path.name}.")
        path.write_text(text.replace(mutation.right, mutation.wrong))
        yield Path(folder)


if __name__ == "__main__":
    sys.exit(main())
