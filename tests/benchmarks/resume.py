"""How quickly finished lines are recognised, and in how much memory: answers of 1 KB, none of which is sent again.

    python -m tests.benchmarks.resume                   a million lines; some 4 GB of disk for a while
    python -m tests.benchmarks.resume --lines 50000     a quick look

`frame` is the journal of a DataFrame's run, as `process_dataframe` reads it before it sends anything; `file` is a file
of results, as `process_api_requests_from_file` does. Each is read in a fresh process; seconds are of the processor.
`of parsing` compares them with orjson alone parsing each line of the same file, in a process of its own.

`first byte` is what passes, by the clock on the wall and of the processor, from the call of
`process_api_requests_from_file` until a request is on the wire: of a first run, and of calls that find half of the
lines finished, or all but the last.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from parallel_openai import APIRequest, Client, process_api_requests_from_file
from parallel_openai._files.file_run import FileRun
from parallel_openai._journal.entry import result_line
from parallel_openai._journal.known_results import KnownResults
from parallel_openai._json import dumps
from parallel_openai._records import Attempt, Result
from tests.benchmarks.machine import about, peak
from tests.benchmarks.throughput import ANSWER, MODEL, PARAMS, PROMPT, TEXT

TARGET_SECONDS = 6.0
TARGET_BYTES = 100.0
TARGET_START = 5.0
FEW = 100


def requests(lines: int) -> Iterator[APIRequest]:
    for number in range(lines):
        content = PROMPT.format(text=TEXT.format(number))
        yield APIRequest(
            {"model": MODEL, "messages": [{"role": "user", "content": content}], **PARAMS}, {"row": number}
        )


def write(folder: Path, lines: int) -> None:
    """The files of a finished run: a frame's journal, and the file of results of the same requests."""
    attempt = Attempt(1792567680.123456, 0.912345, 0.001234, 200, None, "req_0123456789abcdef0123456789abcdef")
    raw = ANSWER.encode()
    folder.mkdir()
    with open(folder / "frame.jsonl", "wb") as journal, open(folder / "file.jsonl", "wb") as results:
        for request in requests(lines):
            result = Result(request, "succeeded", attempts=(attempt,), raw=raw)
            journal.write(result_line(result, record=True) + b"\n")
            results.write(result_line(result, record=False) + b"\n")
    with open(folder / "requests.jsonl", "wb") as source:
        for request in requests(lines + 1):
            source.write(dumps({**request.request_json, "metadata": request.metadata}) + b"\n")


def known_rows(path: Path) -> int:
    known = KnownResults(path)
    known.close()
    return len(known)


def known_lines(path: Path) -> int:
    with Client("http://127.0.0.1:9/v1", "sk-static") as client:
        source = path.with_name("requests.jsonl")
        run = FileRun(
            source,
            path,
            None,
            None,
            None,
            None,
            "cl100k_base",
            1,
            30,
            progress=False,
            client=client,
            budget_usd=None,
            budget_tokens=None,
            deadline=None,
            lane="online",
            resubmit=False,
            resume_from_anywhere=True,
        )
        return len(asyncio.run(run._known()))


def parsed(path: Path) -> int:
    with open(path, "rb") as file:
        return sum(len(orjson.loads(line)) > 0 for line in file)


WAYS: dict[str, Callable[[Path], int]] = {"frame": known_rows, "file": known_lines}


def read(way: Callable[[Path], int], name: str, folder: Path) -> dict[str, float]:
    """What reading takes in this process."""
    way(folder / "few" / name)  # imports, caches
    before, began = peak(), time.process_time()
    lines = way(folder / "all" / name)
    return {"seconds": time.process_time() - began, "lines": lines, "bytes": (peak() - before) / lines}


def tell_first_byte(folder: Path, results: str) -> None:
    """Run on the requests until a byte of one is on the wire, tell the seconds until then, and end the process."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    began, worked = time.monotonic(), time.process_time()

    def wait_for_it() -> None:
        listener.accept()[0].recv(1)
        print(json.dumps({"seconds": time.monotonic() - began, "cpu": time.process_time() - worked}), flush=True)
        os._exit(0)

    threading.Thread(target=wait_for_it, daemon=True).start()
    with Client(url, "sk-static") as client:
        process_api_requests_from_file(
            folder / "requests.jsonl", folder / results, client=client, progress=False, resume_from_anywhere=True
        )


def measure(folder: Path, kind: str, *arguments: str) -> dict[str, Any]:
    """What a fresh process gives."""
    command = [sys.executable, "-m", "tests.benchmarks.resume", "--read", kind, "--folder", str(folder), *arguments]
    found: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--read", choices=[*WAYS, "start"], help=argparse.SUPPRESS)
    parser.add_argument("--parse", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--results", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.read == "start":
        tell_first_byte(options.folder, options.results)
    elif options.read:
        way = parsed if options.parse else WAYS[options.read]
        print(json.dumps(read(way, f"{options.read}.jsonl", options.folder)))
    else:
        return compare(options.lines)
    return 0


def compare(lines: int) -> int:
    """The exit code: 1 where a target is missed."""
    print(about("orjson"))
    missed = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write(folder / "few", FEW)
        write(folder / "all", lines)
        print(f"{'':8} {'lines':>10} {'seconds':>8} {'a million':>11} {'of parsing':>11} {'bytes/line':>11}")
        for kind in WAYS:
            found, plain = measure(folder, kind), measure(folder, kind, "--parse")
            per_million = found["seconds"] / found["lines"] * 1e6
            good = per_million < TARGET_SECONDS and found["bytes"] < TARGET_BYTES and found["lines"] == lines
            missed += not good
            print(
                f"{kind:8} {found['lines']:10,} {found['seconds']:8.2f} {per_million:9.2f} s "
                f"{found['seconds'] / plain['seconds']:11.2f} {found['bytes']:11.0f}" + ("" if good else "   missed"),
                flush=True,
            )
        print(f"\n{'first byte':20} {'finished':>10} {'seconds':>8} {'of them CPU':>12}")
        for name, share in (("of a first run", 0.0), ("half is finished", 0.5), ("all but the last", 1.0)):
            finished = round(share * lines)
            copy_lines(folder / "all" / "file.jsonl", folder / "all" / f"{finished}.jsonl", finished)
            found = measure(folder / "all", "start", "--results", f"{finished}.jsonl")
            good = found["cpu"] < TARGET_START or share == 1.0  # others may be busy too
            missed += not good
            print(
                f"{name:20} {finished:10,} {found['seconds']:8.2f} {found['cpu']:12.2f}"
                + ("" if good else "   missed"),
                flush=True,
            )
    return 1 if missed else 0


def copy_lines(source: Path, target: Path, lines: int) -> None:
    with open(source, "rb") as file, open(target, "wb") as copy:
        copy.writelines(islice(file, lines))


if __name__ == "__main__":
    sys.exit(main())
