"""One life: its calls in turn, each checked when it has ended."""

from __future__ import annotations

import os
import pickle
import random
import re
import resource
import signal
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import orjson
import pandas as pd

from parallel_openai._batch.batch_state import live_parts
from parallel_openai._batch.manage import give_up
from tests.simulation import checks
from tests.simulation.books import Books, books_of
from tests.simulation.call import MOST_CALLS, Here, Outcome, request_for
from tests.simulation.life import Batches, Call, Life, draw

#: Of so many lives one is lived again without faults, to compare the frames.
COMPARED = 8


@dataclass
class Lived:
    """What came of a life.

    Attributes:
        life: with the rows in the order of the last call.
        wrong: what broke a promise, as sentences.
        story: what happened.
        frames: of the last call.
    """

    life: Life
    wrong: list[str]
    story: list[str]
    calls: int
    frames: list[pd.DataFrame]


def live(seed: int) -> Lived:
    """Live the life of a seed, in a folder of its own; some of them once more without faults, to the same end."""
    life = draw(seed)
    lived = _live_in_folder(life)
    if seed % COMPARED == 0 and not lived.wrong:
        life = replace(lived.life, shuffled=False)
        kind = replace(life, calls=[], limits={"max_requests_per_minute": None}, budget={}, second=None, given={})
        without = _live_in_folder(replace(kind, batches=Batches(life.batches.options), sigma=0.0))
        lived.wrong += without.wrong + checks.differences(life, lived.frames, without.frames)
    return lived


def _live_in_folder(life: Life) -> Lived:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        return _live(life, Path(folder))


def _live(life: Life, folder: Path) -> Lived:
    books, wrong = books_of(life), []
    if life.verb == "file":
        lines = [orjson.dumps(request_for(life, text)) + b"\n" for text in life.texts]
        (folder / "in.requests").write_bytes(b"".join(lines))
    for number, call in enumerate([*life.calls, *[Call()] * MOST_CALLS]):
        if number > len(life.calls):
            _forget_lost(folder, books)
        books.kept, books.refused, books.full = kept(folder), [], []
        before, life = books.kept.copy(), _in_its_order(life, number)
        whole, life = life, replace(life, samples=call.samples or life.samples)
        books.story.append(f"call {number}: {call}")
        outcome, books = _call(life, call, number, books, folder)
        books.story.append(f"ended: {_told(outcome, folder)}")
        wrong += books.wrong + checks.after_call(life, call, number, outcome, books, before, kept(folder))
        books.wrong = []
        life = whole
        if wrong or (number >= len(life.calls) and checks.is_finished(life, outcome)):
            break
        if life.torn and outcome.killed:
            _tear(folder, books, life.torn)
    else:
        wrong.append(f"after {number + 1} calls there are rows without an answer: {outcome.errors}")
    wrong += [] if wrong else checks.left_in_batches(books, kept(folder)) + checks.damaged(_lines(folder))
    return Lived(life, wrong, books.story, number + 1, outcome.frames)


def _told(outcome: Outcome, folder: Path) -> str:
    """The same in each process."""
    told = re.sub(r"process \d+ on \S+", "a process", "; ".join(outcome.errors) or "well")
    return f"{told.replace(str(folder), '')}{', killed' if outcome.killed else ''}"


def kept(folder: Path) -> checks.Kept:
    """How many good answers to each question the journals hold."""
    return checks.kept(_lines(folder))


def _lines(folder: Path) -> list[bytes]:
    return [line for path in sorted(folder.glob("*.jsonl")) for line in path.read_bytes().split(b"\n")]


def _in_its_order(life: Life, number: int) -> Life:
    """With the rows in the order that this call has them in."""
    if not life.shuffled:
        return life
    return replace(life, texts=random.Random(life.seed + number).sample(life.texts, len(life.texts)))


def _tear(folder: Path, books: Books, how: bool | str) -> None:
    """The end of the journal did not reach the disk before the power went; what tells of batches did."""
    for path in folder.glob("out*.jsonl"):
        content = path.read_bytes()
        steps = content.rfind(b'[{},null,{"batch"')
        least = content.find(b"\n", steps) + 1 if steps >= 0 else 0
        os.truncate(path, max(least, len(content) - (1 if how == "newline" else books.lot.randrange(1, 200))))
        books.story.append(f"{path.name} torn from {len(content)} bytes to {path.stat().st_size}")


def _forget_lost(folder: Path, books: Books) -> None:
    """What a person does about a batch that the server does not know any more, or whose answers are gone."""
    for path in folder.glob("out*.jsonl"):
        lost = [each.id for each in books.batches.values() if each.is_lost or _is_gone(books, each.output_file_id)]
        give_up(path, [part.batch_id for part in live_parts(path) if part.batch_id in lost])


def _is_gone(books: Books, file_id: str | None) -> bool:
    return file_id is not None and books.files[file_id].is_gone


def _call(life: Life, call: Call, number: int, books: Books, folder: Path) -> tuple[Outcome, Books]:
    """In this process, or in a child where it does not come back."""
    if call.stop not in ("kill", "kill_at_work", "full_disk"):
        return Here(life, call, number, books, folder).run()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _in_child(Here(life, call, number, books, folder), writing)
    os.close(writing)
    with open(reading, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    outcome: tuple[Outcome, Books] = pickle.loads(told)
    return outcome


def _in_child(here: Here, writing: int) -> None:
    """Run, say what came of it, and be gone without a goodbye."""

    def die(outcome: Outcome) -> None:
        with suppress(BaseException):
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        told = pickle.dumps((outcome, here.books))
        while told:
            told = told[os.write(writing, told) :]
        os._exit(0)

    try:
        here.on_kill = lambda: die(Outcome(killed=True, turn=here.loop._jumping.turns))
        if here.call.stop == "full_disk":
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            size = max((path.stat().st_size for path in here.folder.glob("out*.jsonl")), default=0)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + int(here.call.at), resource.RLIM_INFINITY))
        die(here.run()[0])
    except BaseException as error:
        here.books.wrong.append(f"{type(error).__name__}: {error}")
        die(Outcome())
