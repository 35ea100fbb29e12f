"""A thousand simulated lives, and those that once broke a promise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).parents[2]
LIVES = 1000
PROCESSES = 2
#: Lives that broke a promise once, each with what it found.
BROKE_ONCE = {
    116: "a file run took a 200 without an answer for one",
    2241: "a flush was still to come when the journal was closed on a full disk",
    2403: "a batch was made a second time, since the first try to make it was long ago when the process died",
    4379: "the same, and all its rows were paid for twice",
    497: "a run on a cluster did not tell the dollars for answers that are none",
    1620: "a worker of a cluster asked the account again and again for a slot that was a rounding error away",
    201606: "a disk that was full after six letters of the lock file's content kept the next call out for good",
    790: "an answer of an earlier call's batch was written twice, once without the server that gave it",
    400847: "a stopped run on a cluster left a moment before its workers brought the last answers home",
    400536: "a batch's 200 without an answer was kept for one where a file's batches were collected",
    400265: "workers of a cluster took a minute's window for an hour's limit, and kept to its pace",
    400227: "an error of a worker that was starting when the run was stopped was logged as a traceback",
    401286: "the refusals of a server that asks for too short a wait were counted against the client",
    400212: "a batch's 200 without an answer, which may be billed, was sent again beyond the budget",
    700660: "the texts of a pack that was refused twice were sent by themselves before the server had said",
    5400: "identical lines of a file whose batch was collected in part lost an answer when the rest was collected",
    6009176: "what half a line of a batch's output file may have cost was spent again, beyond the budget",
    7300087: "an answer of a file's batch was lost, since one to an identical line had the same bytes",
    8002382: "three refusals by chance proved slots, and a row that was told to wait was sent again after milliseconds",
    8007427: "the same in a frame run",
    9103550: "the same, by seven refusals",
    8008236: "slow answers to what was sent before an outage let all requests out into it, each of them anew",
    9202126: "all workers tried each second to reach a server whose name was not found any more",
    9502564: "a batch was made a second time, since the clock was set between the first try to make it and a kill",
    9709344: "of a row in a lost batch it was still to be heard that it finds no answer",
    9709612: "a request was blamed for less of what broke the server than it was thought to be",
    9709041: "after each wait a sliding window was sent what a bucket would hold by then",
    9709999: "rows that were refused for their length proved a window, and all went out into a short one",
    72044: "a window that had doubled met its limit with all that was in flight",
    9105267: "a limit passed for chance, since it had taken less while it was asked for less",
    277: "a worker that was ended before it was up left an error that nobody had asked for",
}


def lives(*arguments: str, seed_of_hashes: str = "0") -> subprocess.Popen[str]:
    """In a process of its own, since some lives are killed, and a fork needs one without threads."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.simulation", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": seed_of_hashes},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def output_of(process: subprocess.Popen[str]) -> str:
    told, _ = process.communicate(timeout=580)
    assert process.returncode == 0, told
    return told


@pytest.mark.timeout(600)  # a minute on two free cores
def test_no_promise_breaks_in_a_thousand_lives() -> None:
    """The seeds of each run are the same; `python -m tests.simulation --lives 100000 --first 1000` tries others."""
    parts = [
        lives("--lives", str(LIVES), "--first", str(first), "--every", str(PROCESSES)) for first in range(PROCESSES)
    ]
    for part in parts:
        assert " 0 broken" in output_of(part)


@pytest.mark.parametrize("seed", BROKE_ONCE, ids=str)
def test_seeds_that_once_broke_a_promise_do_not_any_more(seed: int) -> None:
    output_of(lives("--seed", str(seed)))


def test_the_same_seed_gives_the_same_life() -> None:
    one, other = (output_of(lives("--seed", "77", seed_of_hashes=hashes)) for hashes in ("1", "2"))
    assert one == other
    assert "delivered" in one


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_each_mutation_applies_to_the_current_source(mutation: Mutation) -> None:
    assert (ROOT / "parallel_openai" / mutation.file).read_text().count(mutation.right) == 1
