"""The benchmark of resuming with short settings; the same file in the same process, compared with parsing alone."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.benchmarks.resume import WAYS, parsed, write

LINES = 10_000


def seconds(way: Callable[[Path], int], path: Path) -> float:
    began = time.process_time()
    assert way(path) == LINES
    return time.process_time() - began


@pytest.mark.parametrize(("kind", "most"), [("frame", 1.6), ("file", 4.0)])
def test_finished_lines_are_known_again_in_little_more_than_parsing_takes(kind: str, most: float) -> None:
    """They take 1.2 and 3.3 of it."""
    write(Path("all"), LINES)
    path = Path("all", f"{kind}.jsonl")
    gc.collect()
    gc.freeze()  # what other tests left behind is not searched for garbage meanwhile
    try:
        rounds = [(seconds(WAYS[kind], path), seconds(parsed, path)) for _ in range(7)]
    finally:
        gc.unfreeze()
    ours, plain = map(min, zip(*rounds, strict=True))
    assert ours / plain < most
