"""Our own code beside a library that does the same: equal results, time per call, import time, megabytes.

    pip install click tenacity tabulate pytimeparse openai statsmodels scikit-learn
    python -m tests.benchmarks.libraries

The reasons for each choice are in docs/explanation/libraries.md.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import sqlite3
import subprocess
import sys
import tempfile
import timeit
import tracemalloc
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import numpy as np

from parallel_openai._display.text import text_table
from parallel_openai._frames.exporting.csv_text import csv_line
from parallel_openai._http.event_stream import assembled
from parallel_openai._journal.digest_index import DigestTable
from parallel_openai._labels.evaluation.metrics import holm, kappa, mcnemar, wilson
from parallel_openai._limits.headers import duration
from parallel_openai._requests.schemas.strict_schema import strict_schema
from parallel_openai._run.response_verdict import RetryPolicy
from tests.benchmarks.machine import about

IMPORTS = (
    "argparse",
    "click",
    "tenacity",
    "tabulate",
    "pytimeparse",
    "openai",
    "statsmodels.stats.api",
    "sklearn.metrics",
)
ROWS = [("label", "rows", "share"), *((f"label {n}", str(n * 7), f"{n / 9:.2f}") for n in range(9))]
CELLS = ["Arrived early, works.", 'She said "no".', "=1+1", "12", ""]
PIECE = b'data: {"choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}\n\n'
STREAM = PIECE * 200 + PIECE.replace(b"null", b'"stop"') + b"data: [DONE]\n\n"
GIVEN, GOLD = np.random.default_rng(1).integers(0, 4, (2, 1000))
TABLE = np.histogram2d(GOLD, GIVEN, bins=4)[0]
CHANCES = [0.01, 0.04, 0.03, 0.2]


def main() -> None:
    print(about("openai", "statsmodels", "scikit-learn", "tenacity", "tabulate", "click"))
    print("\nimport, milliseconds beyond a bare interpreter, and installed megabytes of the package alone:")
    bare = import_time("sys")
    for name in IMPORTS:
        print(f"  {name:24} {import_time(name) - bare:7.0f} ms {megabytes(name.partition('.')[0])}")
    print("\nmicroseconds a call, ours and theirs, and what the same input gives:")
    for name, (ours, theirs) in pairs().items():
        mine, other = ours(), theirs()
        same = "the same" if alike(mine, other) else f"{str(mine)[:60]!r} and {str(other)[:60]!r}"
        print(f"  {name:44} {micros(ours):9.2f} {micros(theirs):9.2f}  {same}")
    for name, figure in {"digests of a million lines": digests, "keeping 2,000 answers of 1 KB": keeping}.items():
        print(f"  {name:44} {figure()}")


def pairs() -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    import pytimeparse
    import tenacity
    from openai._streaming import SSEDecoder
    from openai.lib._pydantic import to_strict_json_schema
    from pydantic import BaseModel
    from sklearn.metrics import cohen_kappa_score
    from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
    from statsmodels.stats.multitest import multipletests
    from statsmodels.stats.proportion import proportion_confint
    from tabulate import tabulate

    class Complaint(BaseModel):
        product: str
        severity: int | None = None

    state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    state.attempt_number = 3
    wait, policy = tenacity.wait_random_exponential(multiplier=1, max=60), RetryPolicy()
    parse = duration.__wrapped__  # without its cache
    return {
        "a reset of 6m0s": (lambda: parse("6m0s"), lambda: float(pytimeparse.parse("6m0s"))),
        "a reset of 120ms": (lambda: parse("120ms"), lambda: pytimeparse.parse("120ms")),
        "the wait before a third retry": (lambda: policy.backoff(3) >= 0, lambda: wait(state) >= 0),
        "a table of ten lines": (
            lambda: [*text_table(ROWS, 80)],
            lambda: tabulate(ROWS[1:], ROWS[0], tablefmt="plain").split("\n"),
        ),
        "Wilson's interval": (
            lambda: [*map(float, wilson(np.array(40.0), np.array(50.0)))],
            lambda: [*map(float, proportion_confint(40, 50, method="wilson"))],
        ),
        "McNemar's exact test": (
            lambda: mcnemar(9, 2),
            lambda: float(their_mcnemar([[0, 9], [2, 0]], exact=True).pvalue),
        ),
        "Holm's correction": (lambda: holm(CHANCES), lambda: multipletests(CHANCES, method="holm")[1].tolist()),
        "Cohen's kappa of a table, of 1,000 labels": (
            lambda: kappa(TABLE),
            lambda: float(cohen_kappa_score(GOLD, GIVEN)),
        ),
        "a line of CSV": (lambda: csv_line(CELLS, escape=False), lambda: written(CELLS)),
        "201 events of a stream, 201 events parsed": (
            lambda: len(assembled(STREAM)["choices"]),
            lambda: len(
                {0 for event in SSEDecoder().iter_bytes(iter([STREAM])) if event.data != "[DONE]" and event.json()}
            ),
        ),
        "a strict schema of a pydantic class": (
            lambda: sorted(strict_schema(Complaint.model_json_schema()).schema["required"]),
            lambda: sorted(to_strict_json_schema(Complaint)["required"]),
        ),
    }


def alike(one: Any, other: Any) -> bool:
    if isinstance(one, float | list) and not (isinstance(one, list) and any(isinstance(each, str) for each in one)):
        return bool(other is not None and np.allclose(one, other))
    return bool(one == other)


def written(cells: list[str]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerow(cells)
    return file.getvalue()


def digests() -> str:
    """Bytes a line that a table of digests takes, and a dict of hex digests."""
    sizes = []
    for fill in (fill_table, dict.fromkeys):
        tracemalloc.start()
        kept = fill([f"{n * 2654435761 % 2**64:016x}" for n in range(100_000)])
        sizes.append(tracemalloc.get_traced_memory()[0] / 100_000)
        tracemalloc.stop()
        del kept
    return f"{sizes[0]:.0f} bytes each, in a dict of strings {sizes[1]:.0f}"


def fill_table(names: list[str]) -> DigestTable:
    table = DigestTable()
    for number, name in enumerate(names, start=1):
        table[int(name, 16)] = number
    return table


def keeping() -> str:
    """Seconds for so many appends to a file, and commits to SQLite with its write-ahead log; no fsync in both."""
    line = json.dumps([{"prompt": "a" * 500}, {"answer": "b" * 500}]) + "\n"
    with tempfile.TemporaryDirectory() as folder:
        with open(Path(folder) / "journal.jsonl", "ab", buffering=0) as file:
            ours = timeit.timeit(lambda: file.write(line.encode()), number=2000)
        base = sqlite3.connect(Path(folder) / "journal.db", isolation_level=None)
        base.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; CREATE TABLE kept (line TEXT)")
        theirs = timeit.timeit(lambda: base.execute("INSERT INTO kept VALUES (?)", (line,)), number=2000)
        base.close()
    return f"{ours:.3f} s in a file of lines, {theirs:.3f} s in SQLite"


def import_time(name: str) -> float:
    code = f"import time; begun = time.perf_counter(); import {name}; print(time.perf_counter() - begun)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(5)]
    return min(float(each.stdout) for each in runs) * 1000


def megabytes(package: str) -> str:
    try:
        importlib.import_module(package)
        found = files({"sklearn": "scikit-learn"}.get(package, package)) or []
    except (ImportError, PackageNotFoundError):
        return ""
    size = sum(Path(str(each.locate())).stat().st_size for each in found if Path(str(each.locate())).is_file())
    return f"{size / 1e6:6.1f} MB"


def micros(call: Callable[[], Any]) -> float:
    timer = timeit.Timer(call)
    number, _ = timer.autorange()
    return min(timer.repeat(3, max(1, number // 5))) / max(1, number // 5) * 1e6


if __name__ == "__main__":
    main()
