"""What a run takes in memory: flat on files however long they are, a few bytes for each line that is known to be
finished, and the cells of the answers for each row of a DataFrame.

nginx answers a fixed chat completion of 1 KB on a core of its own; each figure is the most memory that a fresh process
ever had (its `ru_maxrss`):

    python -m tests.benchmarks.memory                                   a million lines: ten minutes, 2 GB of disk
    python -m tests.benchmarks.memory --lines 50000 --rows 20000        a quick look

`file` is `process_api_requests_from_file` over a tenth of the lines and over all of them, everything on (limiter,
results, counters, bar); `resume` is the same call again, when all is finished. `frame` is `process_dataframe` over a
fifth of the rows and over all of them: what each row more takes, beside what the frame itself takes for it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import parallel_openai as po
from parallel_openai._json import dumps
from tests.benchmarks.machine import about, cores, peak, pin
from tests.benchmarks.resume import requests
from tests.benchmarks.throughput import ANSWER, CONNECTIONS, MODEL, PARAMS, PROMPT, frame
from tests.servers.static import static

#: How much more memory ten times the lines may take, in bytes.
MOST_MORE = 30e6
#: Bytes for each line that is known, and for each row of a frame.
MOST_BYTES_A_LINE = 100.0
MOST_BYTES_A_ROW = 3000.0


def write(path: Path, lines: int) -> None:
    """A file of so many requests, each another."""
    with open(path, "wb") as file:
        for request in requests(lines):
            file.write(dumps({**request.request_json, "metadata": request.metadata}) + b"\n")


def run_file(base_url: str, path: Path) -> None:
    with po.Client(base_url, "sk-static", max_concurrent_requests=CONNECTIONS) as client:
        status = po.process_api_requests_from_file(path, client=client, resume_from_anywhere=True)
    assert status.num_tasks_succeeded == status.num_tasks_total, status


def run_frame(base_url: str, rows: int, journal: Path) -> float:
    """Gives what each row of the frame itself takes."""
    df = frame(rows)
    with po.Client(base_url, "sk-static", max_concurrent_requests=CONNECTIONS) as client:
        out = po.process_dataframe(df, PROMPT, model=MODEL, client=client, save_to=journal, **PARAMS)
    assert (out["status"] == "succeeded").all()
    return float(df.memory_usage(deep=True).sum()) / rows


def in_process(*arguments: object, core: int | None = None) -> tuple[float, float]:
    """The peak of a fresh process, and the other figure it gives."""
    command = [sys.executable, "-m", "tests.benchmarks.memory", "--worker", *map(str, arguments)]
    if core is not None:
        command += ["--core", str(core)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    most, other = done.stdout.split()
    return float(most), float(other)


def growth_of_files(base_url: str, lines: int, folder: Path, core: int | None) -> float:
    """How many bytes more a run takes over all the lines than over a tenth of them; the files stay."""
    peaks = []
    for count in (lines // 10, lines):
        write(folder / f"{count}.jsonl", count)
        peaks.append(in_process("file", base_url, folder / f"{count}.jsonl", core=core)[0])
        print(f"file     {count:10,} lines  {peaks[-1] / 1e6:8.1f} MB", flush=True)
    return peaks[1] - peaks[0]


def bytes_a_known_line(base_url: str, lines: int, folder: Path, core: int | None) -> float:
    """What each line more takes that is known to be finished, of the files of `growth_of_files`."""
    peaks = []
    for count in (lines // 10, lines):
        peaks.append(in_process("file", base_url, folder / f"{count}.jsonl", core=core)[0])
        print(f"resume   {count:10,} lines  {peaks[-1] / 1e6:8.1f} MB", flush=True)
    return (peaks[1] - peaks[0]) / (lines - lines // 10)


def bytes_a_row(base_url: str, rows: int, folder: Path, core: int | None) -> float:
    """What each row more takes, beside the frame itself."""
    peaks = []
    own = 0.0
    for count in (rows // 5, rows):
        most, own = in_process("frame", base_url, folder / f"{count}-rows.jsonl", count, core=core)
        peaks.append(most)
        print(f"frame    {count:10,} rows   {most / 1e6:8.1f} MB", flush=True)
    return (peaks[1] - peaks[0]) / (rows - rows // 5) - own


def work(kind: str, base_url: str, path: str, rows: str = "0") -> None:
    """What a process of its own does."""
    other = 0.0
    if kind == "file":
        run_file(base_url, Path(path))
    else:
        other = run_frame(base_url, int(rows), Path(path))
    print(peak(), other)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.worker:
        pin(options.core)
        work(*options.worker)
        return 0
    print(about("aiohttp", "uvloop", "orjson", "pandas"))
    print(f"{CONNECTIONS} connections, answers of {len(ANSWER):,} bytes\n")
    core, servers = ([*cores(), None, None] if len(cores()) > 1 else [None, None])[:2]
    with tempfile.TemporaryDirectory() as place, static(ANSWER, core=servers) as base_url:
        folder = Path(place)
        more = growth_of_files(base_url, options.lines, folder, core)
        a_line = bytes_a_known_line(base_url, options.lines, folder, core)
        a_row = bytes_a_row(base_url, options.rows, folder, core)
    good = (more < MOST_MORE, a_line < MOST_BYTES_A_LINE, a_row < MOST_BYTES_A_ROW)
    print(f"\nten times the lines: {more / 1e6:+.1f} MB" + ("" if good[0] else "   missed"))
    print(f"a line that is known: {a_line:.0f} bytes" + ("" if good[1] else "   missed"))
    print(f"a row, beside the frame itself: {a_row:,.0f} bytes" + ("" if good[2] else "   missed"))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
