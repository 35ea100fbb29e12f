"""The benchmark of memory with short settings: what grows with each line or row is seen at a few thousand, too.

What a process takes to begin with is some 150 MB and differs by one or two from run to run, so the bounds are wider
than the targets that `python -m tests.benchmarks.memory` holds a million lines to.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from parallel_openai._json import dumps
from tests.benchmarks.memory import MOST_BYTES_A_ROW, bytes_a_row, in_process
from tests.benchmarks.resume import requests
from tests.benchmarks.throughput import ANSWER
from tests.servers.nginx import needs_nginx
from tests.servers.static import static

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is something else elsewhere"),
    needs_nginx,
]


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with static(ANSWER) as url:
        yield url


def test_the_memory_does_not_grow_with_the_file(base_url: str) -> None:
    """Ten times the lines, each of 10 kB, so that the lines alone would take 27 MB more."""
    peaks = []
    for lines in (300, 3_000):
        path = Path(f"{lines}.jsonl")
        with open(path, "wb") as file:
            file.writelines(dumps({**each.request_json, "metadata": "x" * 10_000}) + b"\n" for each in requests(lines))
        peaks.append(in_process("file", base_url, path)[0])
        with open(f"{lines}_results.jsonl", "rb") as results:
            assert sum(1 for _ in results) == lines
    assert peaks[1] - peaks[0] < 9e6


def test_a_line_that_is_known_takes_a_few_bytes(base_url: str) -> None:
    peaks = []
    for lines in (1_000, 120_000):
        with open(f"{lines}.jsonl", "wb") as asked, open(f"{lines}_results.jsonl", "wb") as answered:
            for number in range(lines):
                asked.write(b'{"model":"m","messages":[],"metadata":%d}\n' % number)
                answered.write(
                    b'[{"model":"m","messages":[]},{"choices":[{"message":{"content":"Yes."}}]},%d]\n' % number
                )
        peaks.append(in_process("file", base_url, f"{lines}.jsonl")[0])
    assert (peaks[1] - peaks[0]) / 119_000 < 110


def test_a_row_takes_little_beside_the_frame_itself(base_url: str) -> None:
    assert bytes_a_row(base_url, 6_000, Path(), None) < 1.3 * MOST_BYTES_A_ROW
